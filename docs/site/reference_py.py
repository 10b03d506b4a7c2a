# SPDX-License-Identifier: Apache-2.0
"""The reference of the Python package: signatures and docstrings from its sources, without importing it.

What is written in C has its signatures in the stub and its docstrings in the method tables.
"""
from __future__ import annotations

import ast
import html
import re
from pathlib import Path

import headers
from markup import Heading, Markup, coloured
from page import Page

URL = 'reference/python.html'

# What `__all__` holds, in the order in which it pays to read it; the exceptions follow from the status map.
GROUPS = {
    'Models': ['Cache', 'Use', 'Loaded', 'adopt', 'Model', 'Component', 'dismantle'],
    'One cache for a process': ['shared', 'shared_caches', 'forget_shared', 'key', 'stripped'],
    'The machine': ['gpus', 'reading', 'system'],
    'Who holds memory': ['holders', 'Holders', 'Chain', 'Step', 'cycles', 'Cycles', 'Cycle'],
    "Torch's allocator": ['allocator', 'Allocator'],
    'Other processes': ['hibernate', 'wake', 'hibernate_state', 'Hibernation'],
    'Regions': ['Context', 'Device', 'Region', 'Memory', 'Lease', 'Task'],
}
ONLY_IN_PYTHON = ['Error', 'AdoptError', 'EvictedError', 'LoadError']
# The rest of a component is for the package itself.
MEMBERS = {'Component': ['nbytes', 'resident_bytes', 'state', 'is_resident', 'is_in_use', 'evict', 'restore', 'use']}
INTERNAL = re.compile(r'^ +# --- for ', re.M)
C_STRINGS = r'((?:"(?:[^"\\]|\\.)*"\s*)+)'

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Source:
    """The package, read."""

    def __init__(self, root: Path) -> None:
        self.folder = root / 'python/unstick'
        self.native = root / 'python/_unstick'
        self.found: dict[str, tuple[Definition, str]] = {}
        for path in [self.folder / '_unstick.pyi', *sorted(self.folder.glob('*.py'))]:
            text = path.read_text(encoding='utf-8')
            for node in ast.parse(text).body:
                if isinstance(node, Definition):
                    self.found[node.name] = node, text
        init = ast.parse((self.folder / '__init__.py').read_text(encoding='utf-8'))
        self.public: list[str] = next(
            ast.literal_eval(node.value)
            for node in init.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__'
        )

    def native_docs(self, name: str) -> dict[str, str]:
        """Docstrings of a class of the extension by method, and its own under ''."""
        path = self.native / f'{name.lower()}.c'
        if not path.exists():
            return {}
        text = path.read_text(encoding='utf-8')
        docs = {}
        for pattern in (rf'\{{ "(\w+)",[^"{{}}]*{C_STRINGS}', rf'\b[A-Z]+_METHOD\((\w+), {C_STRINGS}'):
            for method, literals in re.findall(pattern, text):
                docs[method] = _joined(literals)
        own = re.search(rf'\.name = "unstick\.(?:_unstick\.)?{name}".*?\.tp_doc = {C_STRINGS}', text, re.S)
        own = own or re.search(rf'\.tp_doc = {C_STRINGS}', text)
        docs[''] = _joined(own[1]).partition('--\n\n')[2] or _joined(own[1]) if own else ''
        return docs


def _joined(literals: str) -> str:
    return ''.join(ast.literal_eval(one) for one in re.findall(r'"(?:[^"\\]|\\.)*"', literals))


def error_name(status: str) -> str:
    """As python/_unstick/error.c makes it: OUT_OF_DEVICE_MEMORY is OutOfDeviceMemoryError."""
    return ''.join(part.capitalize() for part in status.split('_')) + 'Error'


def page(root: Path) -> Page:
    source = Source(root)
    failures = [status for status in headers.statuses(root) if status.value < 0]
    listed = [name for names in GROUPS.values() for name in names] + ONLY_IN_PYTHON
    listed += [error_name(status.name) for status in failures]
    missing = set(source.public) - set(listed) - {'__version__'}
    unknown = set(listed) - set(source.public)
    if missing or unknown:
        raise ValueError(f'not in GROUPS: {sorted(missing)}; in GROUPS and not public: {sorted(unknown)}')
    parts = [
        '<h1 id="python-reference">Python reference</h1>\n<p>Made from the docstrings and stubs of the package '
        '<code>unstick</code>. What the fields of a dict mean stands in the C headers, under the same names.</p>\n'
    ]
    toc: list[Heading] = []
    for title, names in GROUPS.items():
        anchor = re.sub(r'\W+', '-', title.lower())
        parts.append(f'<h2 id="{anchor}">{html.escape(title)}</h2>\n')
        toc.append((2, anchor, title))
        for name in names:
            toc.append((3, name, name))
            parts.append(_definition(source, name))
    parts.append('<h2 id="exceptions">Exceptions</h2>\n')
    toc.append((2, 'exceptions', 'Exceptions'))
    for name in ONLY_IN_PYTHON:
        toc.append((3, name, name))
        parts.append(_definition(source, name))
    rows = ''.join(
        f'<tr><td id="{error_name(one.name)}"><code>{error_name(one.name)}</code></td>'
        f'<td>{_bases(source, error_name(one.name))}</td>'
        f'<td><a href="../errors.html#{one.name.lower()}">{html.escape(one.text)}</a></td></tr>\n'
        for one in failures
    )
    parts.append(
        '<p>One for each status of the C library that is a failure:</p>\n<div class="wide"><table><thead><tr>'
        f'<th>exception</th><th>is also</th><th>when</th></tr></thead><tbody>\n{rows}</tbody></table></div>\n'
    )
    return Page('', URL, 'Python reference', ''.join(parts), toc)


def symbols(root: Path) -> dict[str, str]:
    return {f'unstick.{name}': f'{URL}#{name}' for name in Source(root).public if name != '__version__'}


def _bases(source: Source, name: str) -> str:
    node = source.found[name][0]
    others = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
    return ', '.join(f'<code>{one}</code>' for one in others if one != 'Error')


def _text(text: str | None) -> str:
    return Markup(str, is_trusted=False).render(re.sub(r'``', '`', text)) if text else ''


def _definition(source: Source, name: str) -> str:
    node, text = source.found[name]
    docs = source.native_docs(name) if text.startswith('# SPDX') and '# What the C extension gives' in text else {}
    heading = f'<h3 id="{name}"><code>unstick.{name}</code></h3>\n'
    if not isinstance(node, ast.ClassDef):
        return heading + coloured(_signature(node, name), 'python') + _text(ast.get_docstring(node))
    parts = [heading]
    methods = [one for one in node.body if isinstance(one, ast.FunctionDef)]
    made = next((one for one in methods if one.name in ('__init__', '__new__')), None)
    bases = [ast.unparse(base) for base in node.bases]
    if made and name not in ('Model', 'Component', 'Use', 'Loaded', 'AdoptError', 'LoadError'):
        parts.append(coloured(_signature(made, name), 'python'))
    elif bases:
        parts.append(coloured(f'class {name}({", ".join(bases)})', 'python'))
    parts.append(_text(ast.get_docstring(node) or docs.get('')))
    pairs = zip(node.body, [*node.body[1:], None], strict=True)
    listed = [(one, following) for one, following in pairs if _is_listed(name, one)]
    rows = [row for one, following in listed if (row := _member(one, following, docs, text, node))]
    if rows:
        parts.append('<dl class="members">\n' + ''.join(rows) + '</dl>\n')
    return ''.join(parts)


def _is_listed(name: str, node: ast.stmt) -> bool:
    return name not in MEMBERS or getattr(node, 'name', '') in MEMBERS[name]


def _member(node: ast.stmt, following: ast.stmt | None, docs: dict[str, str], text: str, owner: ast.ClassDef) -> str:
    """A public method, property or annotated attribute with its docstring; '' for anything else."""
    internal = next((at for at in INTERNAL.finditer(text) if text.count('\n', 0, at.start()) + 1 > owner.lineno), None)
    if internal and node.lineno > text.count('\n', 0, internal.start()) + 1:
        return ''
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        doc = ''
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            doc = str(following.value.value)
        name = node.target.id
        code = f'{name}: {ast.unparse(node.annotation)}'
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        name = node.name
        doc = ast.get_docstring(node) or docs.get(name, '')
        decorators = [ast.unparse(one) for one in node.decorator_list]
        if any('overload' in one for one in decorators):
            return ''
        is_property = 'property' in decorators
        returns = f': {ast.unparse(node.returns)}' if node.returns else ''
        code = f'{name}{returns}' if is_property else _signature(node, name)
        if not doc and not is_property:
            return ''
    else:
        return ''
    if name.startswith('_'):
        return ''
    return f'<dt>{coloured(code, "python")}</dt>\n<dd>{_text(doc)}</dd>\n'


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> str:
    arguments = ast.parse(ast.unparse(node.args).join(('def f(', '): ...'))).body[0]
    assert isinstance(arguments, ast.FunctionDef)
    positional = arguments.args.posonlyargs or arguments.args.args
    if positional and positional[0].arg in ('self', 'cls'):
        positional.pop(0)
    pieces = _arguments(arguments.args)
    returns = f' -> {ast.unparse(node.returns)}' if node.returns and node.name not in ('__init__', '__new__') else ''
    line = f'{name}({", ".join(pieces)}){returns}'
    if len(line) > 100:
        line = f'{name}(\n    ' + ',\n    '.join(pieces) + f',\n){returns}'
    return line


def _arguments(arguments: ast.arguments) -> list[str]:
    text = ast.unparse(arguments)
    pieces, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in '([{') - (char in ')]}')
        if char == ',' and depth == 0:
            pieces.append(text[start:i].strip())
            start = i + 1
    # As a formatter would have it: blanks around the default of what is annotated.
    return [re.sub(r'^(\w+: .*?[^=!<>])=', r'\1 = ', one) for one in (*pieces, text[start:].strip()) if one]
