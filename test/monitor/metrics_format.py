# SPDX-License-Identifier: Apache-2.0
"""Metrics keep to Prometheus' text format 0.0.4 and its rules of naming: `metrics_format.py PROGRAM`.

The checker is strict: what the format merely tolerates (a family in two places, samples before their TYPE) is a fault
too. It is held to a list of faulty texts first, so that it cannot pass everything.
"""
import re
import subprocess
import sys

NAME = re.compile(r'[a-zA-Z_:][a-zA-Z0-9_:]*')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|(?=\}))')
VALUE = re.compile(r'[+-]?(\d+(\.\d+)?([eE][+-]?\d+)?|Inf)|NaN')
SUFFIXES = {'histogram': ('_bucket', '_sum', '_count')}
UNITS = ('_bytes', '_seconds')
NOT_BASE = re.compile(r'_(ms|milliseconds|us|ns|kb|mb|gb|kib|mib|gib|kilobytes|megabytes|minutes)(_|$)')


class Fault(Exception):
    """What is wrong with a text."""


def sample_parse(line):
    name = NAME.match(line)
    if not name:
        raise Fault(f'no name: {line}')
    rest = line[name.end():]
    labels = {}
    if rest.startswith('{'):
        rest = rest[1:]
        while not rest.startswith('}'):
            label = LABEL.match(rest)
            if not label:
                raise Fault(f'no label: {line}')
            if label[1] in labels:
                raise Fault(f'a label twice: {line}')
            labels[label[1]] = label[2]
            rest = rest[label.end():]
        rest = rest[1:]
    if not rest.startswith(' ') or not VALUE.fullmatch(rest[1:]):
        raise Fault(f'no value: {line}')
    return name[0], labels, float(rest[1:])


def histogram_check(name, samples):
    series = {}
    for sample, labels, value in samples:
        key = tuple(sorted((k, v) for k, v in labels.items() if k != 'le'))
        series.setdefault(key, []).append((sample[len(name):], labels.get('le'), value))
    for found in series.values():
        buckets = [(float(le), value) for suffix, le, value in found if suffix == '_bucket']
        others = {suffix: value for suffix, _, value in found if suffix != '_bucket'}
        if set(others) != {'_sum', '_count'} or len(found) != len(buckets) + 2:
            raise Fault(f'{name}: one _sum and one _count')
        bounds, values = zip(*buckets) if buckets else ((), ())
        if not bounds or bounds[-1] != float('inf') or list(bounds) != sorted(set(bounds)):
            raise Fault(f'{name}: buckets rise up to +Inf')
        if list(values) != sorted(values) or values[-1] != others['_count']:
            raise Fault(f'{name}: buckets are cumulated and end with _count')


def check(text):
    """The names of the families of a well-formed text."""
    if not text.endswith('\n'):
        raise Fault('no line feed at the end')
    families, seen, family, kind = {}, set(), None, None
    samples = []

    def finish():
        if family and not samples:
            raise Fault(f'{family}: no samples')
        if kind == 'histogram':
            histogram_check(family, samples)

    expects_type = False
    for line in text[:-1].split('\n'):
        if line.startswith('# HELP '):
            finish()
            parts = line[7:].split(' ', 1)
            if len(parts) != 2 or not parts[1].strip():
                raise Fault(f'no help: {line}')
            family, samples, kind, expects_type = parts[0], [], None, True
            if family in families:
                raise Fault(f'a family twice: {family}')
        elif line.startswith('# TYPE '):
            parts = line[7:].split(' ')
            if not expects_type or len(parts) != 2 or parts[0] != family:
                raise Fault(f'TYPE without HELP: {line}')
            kind, expects_type = parts[1], False
            if kind not in ('counter', 'gauge', 'histogram'):
                raise Fault(f'no type: {line}')
            if (kind == 'counter') != family.endswith('_total'):
                raise Fault(f'{family}: counters, and they alone, end in _total')
            if kind == 'histogram' and not family.endswith(UNITS):
                raise Fault(f'{family}: without a unit')
            if NOT_BASE.search(family):
                raise Fault(f'{family}: not a base unit')
            families[family] = kind
        else:
            sample, labels, value = sample_parse(line)
            if not family or expects_type or kind is None:
                raise Fault(f'a sample without HELP and TYPE: {line}')
            if sample not in [family + suffix for suffix in SUFFIXES.get(kind, ('',))]:
                raise Fault(f'{sample} is not of {family}')
            if ('le' in labels) != sample.endswith('_bucket'):
                raise Fault(f'a bucket has a bound: {line}')
            series = (sample, tuple(sorted(labels.items())))
            if series in seen:
                raise Fault(f'a series twice: {line}')
            if kind != 'gauge' and value < 0:
                raise Fault(f'below zero: {line}')
            seen.add(series)
            samples.append((sample, labels, value))
    finish()
    return families


HEAD = '# HELP a_total x\n# TYPE a_total counter\n'
HIST = '# HELP h_seconds x\n# TYPE h_seconds histogram\n'
FAULTY = [
    'a_total 1\n', HEAD, HEAD + 'a_total 1', HEAD + 'a_total 1\n' + HEAD + 'a_total{x="1"} 1\n', HEAD + 'b_total 1\n',
    HEAD + 'a_total{x="1",x="2"} 1\n', HEAD + 'a_total{x="1} 1\n', HEAD + 'a_total{x="\\t"} 1\n',
    HEAD + 'a_total 1,5\n',
    HEAD + 'a_total 1\na_total 1\n', HEAD + 'a_total -1\n', HEAD + 'a_total  1\n', HEAD + '\na_total 1\n',
    '# HELP a x\n# TYPE a counter\na 1\n', '# HELP a_total x\n# TYPE a_total gauge\na_total 1\n',
    '# HELP a_ms x\n# TYPE a_ms gauge\na_ms 1\n', '# TYPE a gauge\na 1\n', '# HELP a\n# TYPE a gauge\na 1\n',
    HIST + 'h_seconds_bucket{le="1"} 1\nh_seconds_sum 1\nh_seconds_count 1\n',
    HIST + 'h_seconds_bucket{le="1"} 2\nh_seconds_bucket{le="+Inf"} 1\nh_seconds_sum 1\nh_seconds_count 1\n',
    HIST + 'h_seconds_bucket{le="+Inf"} 1\nh_seconds_sum 1\nh_seconds_count 2\n',
    HIST + 'h_seconds_bucket{le="+Inf"} 1\nh_seconds_count 1\n',
    HIST + 'h_seconds_bucket 1\nh_seconds_sum 1\nh_seconds_count 1\n',
]
EXPECTED = {
    'unstick_device_bytes': 'gauge', 'unstick_device_process_bytes': 'gauge', 'unstick_model_bytes': 'gauge',
    'unstick_host_bytes': 'gauge', 'unstick_system_memory_bytes': 'gauge', 'unstick_cgroup_memory_bytes': 'gauge',
    'unstick_restore_seconds': 'histogram', 'unstick_load_seconds': 'histogram', 'unstick_hits_total': 'counter',
    'unstick_copied_bytes_total': 'counter',
}

for faulty in FAULTY:
    try:
        check(faulty)
    except Fault:
        continue
    sys.exit(f'the checker passes what is faulty:\n{faulty}')
output = subprocess.run(sys.argv[1:2], check=True, capture_output=True).stdout.decode('utf-8')
found = check(output)
missing = {name: kind for name, kind in EXPECTED.items() if found.get(name) != kind}
if missing:
    sys.exit(f'not written: {missing}')
print(f'{len(FAULTY)} faulty texts are refused; {len(found)} families are well-formed')
