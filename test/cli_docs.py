# SPDX-License-Identifier: Apache-2.0
"""`unstick VERB --help`, the manual page and the bash completion name the same verbs and options."""
import pathlib
import re
import subprocess
import sys

root, unstick = pathlib.Path(sys.argv[1]), sys.argv[2]
COMMON = {'--json', '--help'}
faults = []


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def options_in(text):
    return set(re.findall(r'^  (--[\w-]+)', text, re.M)) - COMMON


def completed(*words):
    """What the completion offers behind these words, for a last word that begins with what is given."""
    script = (f'source "{root}/docs/completion/unstick.bash"; COMP_WORDS=({" ".join(words)}); '
              f'COMP_CWORD={len(words) - 1}; _unstick; printf "%s\\n" "${{COMPREPLY[@]}}"')
    return set(output('bash', '-c', script).split()) - COMMON


manual = (root / 'docs/man/unstick.1').read_text(encoding='utf-8')
sections = dict(re.findall(r'^\.Ss (\w+)\n(.*?)(?=^\.S[sh] )', manual, re.M | re.S))
verbs = set(re.findall(r'^  (\w+) {2,}', output(unstick, 'help'), re.M)) | {'help'}

for where, there in (('the manual', set(sections)), ('the completion', completed('unstick', "''") - {'--version'})):
    faults += [f'{where} lacks the verb {verb}' for verb in sorted(verbs - there)]
    faults += [f'{where} has the verb {verb}, which is none' for verb in sorted(there - verbs)]

for verb in sorted(verbs & set(sections) - {'help'}):
    expected = options_in(output(unstick, verb, '--help'))
    described = {f'--{name}' for name in re.findall(r'^\.It Fl Fl ([\w-]+)', sections[verb], re.M)}
    for where, there in (('the manual', described), ('the completion', completed('unstick', verb, '--'))):
        faults += [f'{where} lacks {verb} {option}' for option in sorted(expected - there)]
        faults += [f'{where} has {verb} {option}, which is none' for option in sorted(there - expected)]

print('\n'.join(faults) or f'{len(verbs)} verbs: help, manual and completion agree')
sys.exit(bool(faults))
