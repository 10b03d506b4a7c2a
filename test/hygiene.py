# SPDX-License-Identifier: Apache-2.0
"""What no file of the project may contain; one line per fault.

The library never exits, aborts, prints or reads the environment, and uses nothing that keeps hidden state. No file
names a place on a developer's machine, leaves a note to finish later, or lacks its license line. No line but one of a
table in Markdown is longer than 120 columns.
"""
import pathlib
import re
import sys

NEVER_IN_LIBRARY = re.compile(
    r'\b(exit|_exit|_Exit|quick_exit|abort|atexit|printf|fprintf|vprintf|puts|putchar|fputs|perror|getenv|'
    r'secure_getenv|setenv|putenv|system|popen|signal|sigaction|raise|sprintf|vsprintf|strcpy|strcat|strtok|strerror|'
    r'rand|srand|setlocale|localtime|gmtime|gets)\s*\(')
COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.S)
FOREIGN_PATH = re.compile(r'(?<![\w.])/(home|root|work|Users)/\w')
UNFINISHED = re.compile(r'\b(TO' + r'DO|FIX' + r'ME|XX' + r'X)\b')
FOLDERS = ('src', 'include', 'cli', 'python', 'test', 'examples', 'fuzz', 'docs', 'bench', 'integrations', 'packaging',
           '.ci')
CODE = ('.c', '.h', '.in', '.py', '.pyi', '.sh', '.map')
LINE_MAX = 120
TEXT = (*CODE, '.toml', '.md', '.1', '.bash', '.build', '')

root = pathlib.Path(sys.argv[1])
faults = []


def without_comments(text):
    """The same text, line by line, with comments and strings blanked."""
    return COMMENT_OR_STRING.sub(lambda match: re.sub(r'[^\n]', ' ', match[0]), text)


def check(path):
    name = path.relative_to(root)
    text = path.read_text(encoding='utf-8')
    is_library = name.parts[0] == 'src' and not name.name.endswith('_test.c')
    code = without_comments(text).splitlines() if is_library else []
    if path.suffix in CODE and 'SPDX-License-Identifier: Apache-2.0' not in '\n'.join(text.splitlines()[:3]):
        faults.append(f'{name}:1: no SPDX line')
    if text and not text.endswith('\n'):
        faults.append(f'{name}: no newline at the end')
    for number, line in enumerate(text.splitlines(), 1):
        if UNFINISHED.search(line):
            faults.append(f'{name}:{number}: unfinished: {line.strip()}')
        if FOREIGN_PATH.search(line):
            faults.append(f'{name}:{number}: names a place on one machine: {line.strip()}')
        if len(line) > LINE_MAX and not (path.suffix == '.md' and line.startswith('|')):
            faults.append(f'{name}:{number}: {len(line)} columns, {LINE_MAX} are allowed')
        if line != line.rstrip():
            faults.append(f'{name}:{number}: white space at the end')
        if path.suffix in ('.c', '.h') and '\t' in line:
            faults.append(f'{name}:{number}: a tab')
    for number, line in enumerate(code, 1):
        for call in NEVER_IN_LIBRARY.finditer(line):
            faults.append(f'{name}:{number}: {call[1]}() has no place in the library')


paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob('*')) if path.is_file()]
paths += [path for path in sorted(root.iterdir()) if path.is_file()]
paths = [path for path in paths if path.suffix in TEXT and not path.name.startswith('.git')]
# Environments that an engine made beside a library.
paths = [path for path in paths if not any(part.startswith('.venv') for part in path.relative_to(root).parts)]
# A workflow, written by an engine.
paths = [path for path in paths if path.parent != root / 'integrations/griptape/workflows']
for path in paths:
    check(path)
print('\n'.join(faults) or f'{len(paths)} files are clean')
sys.exit(bool(faults))
