# SPDX-License-Identifier: Apache-2.0
"""The generator of the documentation notices what it is there to notice. Run where its requirements are installed."""
from __future__ import annotations

import re
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'docs/site'))
import build  # noqa: E402
import check  # noqa: E402
import headers  # noqa: E402
import manual  # noqa: E402
import reference_c  # noqa: E402
import reference_py  # noqa: E402

COPIED = ('docs', 'include', 'examples', 'bench', 'integrations', 'python/unstick', 'python/_unstick')


BROKEN = [
    # what of the repository is broken (file, old, new), and what the build has to say
    ('README.md', 'docs/tutorial.md', 'docs/tutor.md', 'README.md: docs/tutor.md leads nowhere'),
    ('docs/howto/stuck.md', '#to-be-rid', '#to-be-red', 'howto/diffusers.html has no #to-be-red-of-a-pipeline'),
    ('docs/errors.md', '### HOST_BUDGET', '### HOST_LIMIT', 'docs/errors.md: HOST_BUDGET is missing'),
    ('docs/errors.md', '### NO_SPACE', '### NO_ROOM', 'docs/errors.md: NO_ROOM is no status'),
    ('docs/cache.md', '`unstick_cache_counts()`', '`unstick_cache_sums()`', 'there is no unstick_cache_sums()'),
    ('docs/concepts.md', '](diagrams/region.svg)', '](https://a.org/b.svg)', 'would be fetched from elsewhere'),
    ('SECURITY.md', 'Hashes', '[Hashes](http://a.org)', 'only https leads out'),
    ('docs/cache.md', '## In C', '# In C', 'docs/cache.md: has 2 titles'),
    ('docs/reclaim.md', '## By default', '<div>\n\n## By default', '<div> is not closed'),
    ('docs/seed.md', '# Where', '<p id="a"></p><p id="a"></p>\n\n# Where', 'two elements are #a'),
    ('docs/lost.md', None, '# Lost\n', 'docs/lost.md: no menu leads to it'),
]


class SiteTest(unittest.TestCase):
    """A copy of the repository, which each test breaks."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix='unstick-docs-')
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name) / 'root'
        self.out = Path(folder.name) / 'site'
        for name in COPIED:
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target)
            else:
                shutil.copy(ROOT / name, target)
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy(path, self.root / path.name)

    def change(self, name: str, old: str | None, new: str) -> None:
        path = self.root / name
        text = new
        if old is not None:
            self.assertIn(old, path.read_text(encoding='utf-8'))
            text = path.read_text(encoding='utf-8').replace(old, new, 1)
        path.write_text(text, encoding='utf-8')

    def build(self) -> list[str]:
        return build.Site(self.root, self.out).build()

    def test_the_repository_has_no_fault(self) -> None:
        self.assertEqual(self.build(), [])
        for page in ('index.html', 'tutorial.html', 'reference/cache.html', 'reference/python.html'):
            self.assertTrue((self.out / page).is_file(), page)

    def test_each_fault_is_named(self) -> None:
        for name, old, new, _ in BROKEN:
            self.change(name, old, new)
        faults = '\n'.join(self.build())
        for name, _, _, expected in BROKEN:
            with self.subTest(name):
                self.assertIn(expected, faults)

    def test_a_status_that_python_does_not_know(self) -> None:
        self.change('include/unstick/status.h', 'X(BUSY, -4', 'X(NAPPING, -77, "asleep") X(BUSY, -4')
        with self.assertRaisesRegex(ValueError, 'NappingError'):
            self.build()

    def test_a_macro_of_the_manual_that_is_not_known(self) -> None:
        self.change('docs/man/unstick.1', '.Sh EXAMPLES', '.Xr ls 1\n.Sh EXAMPLES')
        with self.assertRaisesRegex(ValueError, 'Xr'):
            self.build()

    def test_a_public_name_without_a_place_in_the_reference(self) -> None:
        self.change('python/unstick/__init__.py', "    'adopt',\n", "    'adopt',\n    'surprise',\n")
        with self.assertRaisesRegex(ValueError, "'surprise'"):
            self.build()


class ReferenceTest(unittest.TestCase):
    """What the references are made from is read completely."""

    def test_every_function_of_the_map_is_described(self) -> None:
        exported = re.findall(r'^\s*(unstick_\w+);', (ROOT / 'src/libunstick.map').read_text(encoding='utf-8'), re.M)
        declared = [one for header in headers.read_all(ROOT) for one in header.declarations]
        self.assertEqual(set(exported), {one.name for one in declared if one.kind == 'function'})

    def test_every_declaration_has_its_comment(self) -> None:
        for header in headers.read_all(ROOT):
            self.assertTrue(header.doc, header.name)
            for one in header.declarations:
                if one.kind not in ('section', 'opaque'):
                    self.assertTrue(one.doc, one.name)
                if one.kind == 'struct':
                    self.assertTrue(one.members, one.name)
                    self.assertEqual([member.code for member in one.members if not member.doc], [], one.name)

    def test_a_struct_is_read_whole(self) -> None:
        declared = headers.read(ROOT / 'include/unstick/device.h').declarations
        options = next(one for one in declared if (one.kind, one.name) == ('struct', 'unstick_device_options'))
        self.assertEqual([member.name for member in options.members], ['size', 'limit_bytes', 'granule_bytes'])

    def test_symbols_lead_to_anchors(self) -> None:
        symbols = reference_c.symbols(ROOT)
        self.assertEqual(symbols['unstick_region_info'], 'reference/region.html#unstick_region_info')
        self.assertEqual(symbols['struct unstick_region_info'], 'reference/region.html#struct-unstick_region_info')
        self.assertEqual(symbols['UNSTICK_BUSY'], 'errors.html#busy')
        self.assertEqual(reference_py.symbols(ROOT)['unstick.Cache'], 'reference/python.html#Cache')

    def test_errors_have_the_names_of_the_package(self) -> None:
        public = set(reference_py.Source(ROOT).public)
        for status in headers.statuses(ROOT):
            if status.value < 0:
                self.assertIn(reference_py.error_name(status.name), public)

    def test_methods_of_the_extension_have_their_docstrings(self) -> None:
        docs = reference_py.Source(ROOT).native_docs('Region')
        for method in ('info', 'alloc', 'tensor', 'read', 'write', 'lease', 'backup', 'evict', 'restore', 'revoke'):
            self.assertTrue(docs.get(method), method)

    def test_the_manual(self) -> None:
        self.assertEqual(manual.inline('Fl Fl device Ar DEVICE'), '<b>--device</b> <i>DEVICE</i>')
        self.assertEqual(manual.inline('Cm auto , file .'), '<b>auto</b>, <b>file</b>.')
        self.assertEqual(manual.inline('Op Ar PATH'), '[<i>PATH</i>]')
        self.assertEqual(manual.inline('Pq or Cm K'), '(or <b>K</b>)')

    def test_the_check_reads_links_of_all_kinds(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            text = '<p id="x"><a href="#x">x</a><a href="#y">y</a><img src="b.svg"></p>'
            (Path(folder) / 'a.html').write_text(text, encoding='utf-8')
            faults = check.faults(Path(folder))
        self.assertEqual(
            faults, ['a.html:1: an image without alt', 'a.html:1: a.html has no #y', 'a.html:1: b.svg is not there']
        )


if __name__ == '__main__':
    unittest.main()
