# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random points: kill9.py PATH-TO-UNSTICK [N [SEED]]; a record in JSON, exit 0 if all is well.

`unstick replay` on a host device is killed N times, at times drawn from all that a run takes, with backups in every
tier; so is the verb that writes the state directory. After each kill nothing may be left: no process, no file or
folder, no shared memory, no semaphore; and the next run starts clean, verifies every tensor and gives all memory back.

Where the system allows it all of this runs in a mount namespace with a /tmp and a /dev/shm of its own, in which every
new name is a fault. Elsewhere the program's own folders are looked at, and what it has open for writing as it dies.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

KEYS = ["a", "b", "c"]
TIERS = ["auto", "pinned", "pageable", "file"]
SYSV = ["/proc/sysvipc/shm", "/proc/sysvipc/sem", "/proc/sysvipc/msg"]
INSIDE = "--inside"


class Fault(Exception):
    pass


class Victim:
    """One program in a folder of its own, killed again and again."""

    def __init__(self, unstick, is_alone):
        self.unstick = unstick
        self.is_alone = is_alone
        self.root = tempfile.mkdtemp(prefix="unstick-kill9-")
        self.tmp = os.path.join(self.root, "tmp")
        self.state = os.path.join(self.root, "state")
        os.mkdir(self.tmp)
        os.mkdir(self.state)
        self.environment = dict(os.environ, TMPDIR=self.tmp, HOME=self.root, XDG_STATE_HOME=self.state)
        for key in KEYS:
            self.run("synth", os.path.join(self.root, key), "--quant", "4-bit", "--scale", "2048", "--seed",
                     str(ord(key)))
        self.workload = os.path.join(self.root, "workload.json")
        with open(self.workload, "w", encoding="utf-8") as file:
            json.dump({"models": [{"id": key, "quantization": "4-bit", "path": key} for key in KEYS],
                       "requests": [f"{key}_4-bit" for key in "abcabacb"]}, file)

    def close(self):
        shutil.rmtree(self.root)

    def replay(self, tier):
        return ["replay", self.workload, "--device", "host:64MiB", "--device-memory", "12MiB", "--granule", "256KiB",
                "--backup", tier, "--json"]

    def record(self, number):
        return ["estimate", os.path.join(self.root, "a"), "--json", "--quant", "4-bit", "--record", f"{number + 1}MiB"]

    def run(self, *arguments):
        done = subprocess.run([self.unstick, *arguments], env=self.environment, capture_output=True, text=True,
                              timeout=120, check=False)
        if done.returncode:
            raise Fault(f"unstick {' '.join(arguments)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def see(self):
        """Everything that could be left behind, by name; with what a file of ours holds, by size and time."""
        seen = {}
        for folder, folders, names in os.walk(self.root):
            for name in folders + names:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                seen[path] = (status.st_size, status.st_mtime_ns) if name in names else None
        for folder in ["/dev/shm", "/tmp"] if self.is_alone else []:
            seen.update({os.path.join(folder, name): None for name in os.listdir(folder)})
        for path in SYSV:
            with open(path, encoding="ascii") as file:
                seen[path] = file.read()
        return seen

    def open_for_writing(self, pid):
        """Files with a name that the program could write to at this moment."""
        paths = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                path = os.readlink(f"/proc/{pid}/fd/{fd}")
                with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as file:
                    flags = int(file.read().split("flags:")[1].split()[0], 8)
            except (OSError, IndexError):
                continue
            is_file = path.startswith("/") and not path.startswith(("/dev/null", "/memfd:", "/proc/"))
            if is_file and flags & os.O_ACCMODE:
                paths.append(path)
        return paths

    def kill(self, arguments, seconds):
        """Kills it after so long. True if it had not ended by itself."""
        with subprocess.Popen([self.unstick, *arguments], env=self.environment, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
            time.sleep(seconds)
            os.kill(process.pid, signal.SIGSTOP)
            try:
                paths = self.open_for_writing(process.pid)
            except OSError:
                paths = []
            process.kill()
            process.wait()
        if arguments[0] == "replay" and paths:
            raise Fault(f"replay had {paths} open for writing")
        return process.returncode == -signal.SIGKILL

    def check_clean_run(self, tier):
        out = json.loads(self.run(*self.replay(tier), "--verify"))
        if not all(request["verified"] for request in out["requests"]) or out["summary"]["residual_bytes"]:
            raise Fault(f"the next run is not clean: {out['summary']}")


def compare(before, after, what):
    if before != after:
        names = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        raise Fault(f"{what}: changed or left behind: {names}")


def measure(victim, arguments):
    times = []
    for _ in range(5):
        started = time.monotonic()
        victim.run(*arguments)
        times.append(time.monotonic() - started)
    return min(times)


def kill_replay(victim, n, luck):
    seconds = measure(victim, victim.replay("auto"))
    before = victim.see()
    n_killed = i = 0
    while n_killed < n:
        i += 1
        tier = TIERS[i % len(TIERS)]
        n_killed += victim.kill(victim.replay(tier), luck.uniform(0, 1.2 * seconds))
        compare(before, victim.see(), f"kill {i} of replay --backup {tier}")
        victim.check_clean_run(tier)
    compare(before, victim.see(), "after all runs")
    return {"n_killed": n_killed, "n_ended_first": i - n_killed, "run_s": round(seconds, 4)}


def kill_record(victim, n, luck):
    """The writer of the state may leave one file that the next one takes over; what it wrote is whole, or not there."""
    seconds = measure(victim, victim.record(0))
    names = {"peaks.json", "peaks.lock"}
    folder = os.path.join(victim.state, "unstick")
    n_killed = i = 0
    while n_killed < n:
        i += 1
        n_killed += victim.kill(victim.record(i), luck.uniform(0, 1.2 * seconds))
        victim.run(*victim.record(i))
        if set(os.listdir(folder)) != names:
            raise Fault(f"kill {i} of estimate --record: the state holds {os.listdir(folder)}")
    return {"n_killed": n_killed, "n_ended_first": i - n_killed, "run_s": round(seconds, 4)}


def main(unstick, n=20, seed=1, is_alone=False):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    luck = random.Random(seed)
    started = time.monotonic()
    record = {"seed": seed, "has_own_tmp": is_alone, "failure": None}
    victim = Victim(os.path.abspath(unstick), is_alone)
    try:
        record["replay"] = kill_replay(victim, n, luck)
        record["state"] = kill_record(victim, max(n // 10, 5), luck)
    except Fault as fault:
        record["failure"] = str(fault)
    finally:
        victim.close()
    record["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(record, indent=1))
    return record["failure"] is not None


SCRIPT = """
mount -t tmpfs tmpfs /dev/shm && cp "$1" /dev/shm/unstick && cp "$2" /dev/shm/kill9.py && mount -t tmpfs tmpfs /tmp ||
    exit 1
shift 2
cd / && exec "$@"
"""


def inside():
    """The same command in namespaces of its own; does not return if it can be had."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "--ipc", "sh", "-c", SCRIPT, "sh", sys.argv[1],
               os.path.abspath(__file__)]
    try:
        is_possible = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        is_possible = False
    if is_possible:
        os.execvp(command[0], [*command, sys.executable, "/dev/shm/kill9.py", "/dev/shm/unstick", *sys.argv[2:],
                               INSIDE])


if __name__ == "__main__":
    is_inside = sys.argv[-1] == INSIDE
    sys.argv[1] = os.path.abspath(sys.argv[1])
    if is_inside:
        sys.argv.pop()
    else:
        inside()
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:]), is_alone=is_inside))
