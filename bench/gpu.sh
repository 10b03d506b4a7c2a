#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Everything that has to be seen on a GPU, in one run: bench/gpu.sh BUILD OUT [full|quick] [PART...]
#
# BUILD is a build directory (it may come from another machine of the same architecture), OUT takes what is recorded.
# PART: tests, switch, bench; all of them if none is named. The device is $UNSTICK_GPU, cuda:0 by default; with
# UNSTICK_GPU=host:2GiB the script itself can be tried anywhere.
set -u

usage='usage: bench/gpu.sh BUILD OUT [full|quick] [tests|switch|bench ...]'
build=${1:?$usage}
out=${2:?$usage}
size=${3:-full}
shift $(($# < 3 ? $# : 3))
parts=${*:-tests switch bench}
device=${UNSTICK_GPU:-cuda:0}
unstick=$build/unstick
mkdir -p "$out"
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
failed=0

# run NAME COMMAND...: one step, its output in OUT/NAME.txt, its time and status on a line.
run() {
    name=$1
    shift
    start=$(date +%s)
    if "$@" >"$out/$name.txt" 2>&1; then status=ok; else status="FAILED ($?)" failed=1; fi
    echo "$name: $status, $(($(date +%s) - start)) s"
}

# lean NAME COMMAND...: as run, and the memory that the process had to itself (not pages of files): the most, and what
# it came to when the loads were over.
lean() {
    lean_name=$1
    shift
    peak=0 last=0
    start=$(date +%s)
    "$@" >"$out/$lean_name.txt" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        now=$(awk '/^Rss(Anon|Shmem):/ { sum += $2 } END { print sum + 0 }' "/proc/$pid/status" 2>/dev/null || echo 0)
        [ "${now:-0}" -le "$peak" ] || peak=$now
        [ "${now:-0}" -eq 0 ] || last=$now
        sleep 0.05
    done
    if wait "$pid"; then status=ok; else status="FAILED ($?)" failed=1; fi
    echo "$lean_name: $status, $(($(date +%s) - start)) s, host memory of its own: at most" \
        "$((peak / 1024)) MiB, at last $((last / 1024)) MiB" |
        tee "$out/$lean_name-memory.txt"
}

# Full size is what fits no small card: FLUX with T5 in 8-bit and in 4-bit, 17 and 10.6 GiB.
if [ "$size" = full ]; then
    scale=1 few=8 one=18GiB both=24GiB small=3GiB eight=17GiB four=10.6GiB few_gib=4GiB pinned=2GiB
else
    scale=256 few=256 one=96MiB both=112MiB small=96MiB eight=64MiB four=40MiB few_gib=64MiB pinned=64MiB
fi

# synth NAME SCALE
synth() {
    mkdir -p "$models/$1"
    run "synth-$1-8bit" "$unstick" synth "$models/$1/8" --model flux-dev --quant 8-bit --scale "$2"
    run "synth-$1-4bit" "$unstick" synth "$models/$1/4" --model flux-dev --quant 4-bit --scale "$2"
}

# workload NAME N: N times both in turn
workload() {
    requests='"flux-dev_8-bit", "flux-dev_4-bit"'
    i=1
    while [ "$i" -lt "$2" ]; do
        requests="$requests, \"flux-dev_8-bit\", \"flux-dev_4-bit\""
        i=$((i + 1))
    done
    cat >"$models/$1.json" <<JSON
{"models": [{"id": "flux-dev", "quantization": "8-bit", "path": "$models/$1/8"},
            {"id": "flux-dev", "quantization": "4-bit", "path": "$models/$1/4"}],
 "requests": [$requests]}
JSON
}

part_tests() {
    case $device in
    cuda:*)
        run conformance "$build/test/conformance/conformance-cuda"
        run driver "$build/test/conformance/conformance-driver"
        for name in stray region end granule step stress lost fault; do
            UNSTICK_TEST_DEVICE=$device run "core-$name" "$build/test/core/core-$name-test"
        done
        ;;
    esac
    run doctor "$unstick" doctor
    UNSTICK_TEST_DEVICE=$device run reading "$build/test/monitor/reading-time"
    run reclaim "$build/examples/example-reclaim" "$device"
    run demo "$unstick" demo
}

part_switch() {
    synth full "$scale"
    workload full 22
    for tier in pinned file; do
        lean "replay-one-$tier" "$unstick" replay "$models/full.json" --device "$device" --device-memory "$one" \
            --backup "$tier" --json
        lean "replay-both-$tier" "$unstick" replay "$models/full.json" --device "$device" --device-memory "$both" \
            --backup "$tier" --json
    done
    workload full 2
    run replay-verified "$unstick" replay "$models/full.json" --device "$device" --device-memory "$one" --verify --json
    rm -rf "$models/full"
    synth few "$few"
    workload few 100
    run replay-cycles "$unstick" replay "$models/few.json" --device "$device" --device-memory "$small" \
        --backup pinned --json
}

part_bench() {
    run bench-8bit "$unstick" bench --device "$device" --size "$eight" --runs 20 --dir "$models" --json --only \
        link-up,link-down,hash,evict-unchanged,evict-first,evict-dirty,restore-pinned,restore-at-once,switch
    # A backup is made and given back in each run.
    run bench-take "$unstick" bench --device "$device" --size "$few_gib" --runs 20 --json --only \
        take-apart,take-group,take-half,take-unpinning
    run bench-beside "$unstick" bench --device "$device" --size "$eight" --runs 20 --json --only \
        beside-backup,beside-evict
    run bench-file "$unstick" bench --device "$device" --size "$eight" --runs 20 --dir "$models" --json --only \
        load-file,restore-file
    run bench-4bit "$unstick" bench --device "$device" --size "$four" --runs 20 --json --only \
        evict-unchanged,restore-pinned
    # The driver's own pinned memory takes seconds per 4 GiB, so that case is smaller than the others.
    run bench-pin "$unstick" bench --device "$device" --size "$pinned" --runs 20 --only pin --json
}

{
    date -u +%Y-%m-%d
    uname -sr
    nvidia-smi --query-gpu=name,driver_version,memory.total,pcie.link.gen.max,pcie.link.width.max --format=csv,noheader
    "$unstick" version
} >"$out/machine.txt" 2>&1

for part in $parts; do
    case $part in
    tests) part_tests ;;
    switch) part_switch ;;
    bench) part_bench ;;
    *)
        echo "$usage" >&2
        exit 2
        ;;
    esac
done
exit $failed
