# SPDX-License-Identifier: Apache-2.0
"""Runs every Python sample of README.md, CONTRIBUTING.md and docs/: the samples of a page in order, in one namespace.

Where a page loads FLUX, the loader that it shows is replaced by one of a tiny FLUX with random weights, whose calls
make a small image; everything else is as it stands on the page.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from unstick import _unstick, allocation

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'test' / 'docs'))
import samples  # noqa: E402

FOUND = [one for one in samples.read(ROOT)[0] if one.language == 'python' and one.is_run]


def of_page(page: str) -> list[samples.Sample]:
    return [one for one in FOUND if one.page == page]


def parameters() -> list[Any]:
    pages = dict.fromkeys(one.page for one in FOUND)
    return [
        pytest.param(page, marks=[pytest.mark.torch] if any(one.needs_torch for one in of_page(page)) else [])
        for page in pages
    ]


@pytest.fixture
def load_tiny(request: pytest.FixtureRequest) -> Any:
    """load_flux(model_id, quantization), tiny; made only for pages that need it."""

    def load(model_id: str, quantization: str = 'none', **_: Any) -> Any:
        flux = request.getfixturevalue('flux')
        pipe = flux.tiny_flux('plain' if quantization == 'none' else quantization)

        class Small(type(pipe)):  # type: ignore[misc]
            def __call__(self, prompt: str, **options: Any) -> Any:
                small = {'height': 32, 'width': 32, 'num_inference_steps': 2, 'max_sequence_length': 16}
                return super().__call__(prompt, **{**options, **small})

        pipe.__class__ = Small
        torch = sys.modules['torch']
        return pipe.to('cuda') if torch.cuda.is_available() else pipe  # as a loader does: where the cache is

    return load


@pytest.fixture
def allocator_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample sets torch's allocator; what other tests find is not its business."""
    for name in ('_profile', '_reason', '_wanted'):
        monkeypatch.setattr(allocation, name, getattr(allocation, name))
    for name in (allocation.CUDA, allocation.HIP, allocation.GENERIC):
        was_set = name in os.environ
        monkeypatch.setenv(name, os.environ.get(name, ''))
        if not was_set:
            monkeypatch.delenv(name)


@pytest.mark.usefixtures('allocator_as_before')
@pytest.mark.parametrize('page', parameters())
def test_page(page: str, load_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for quantization in ('8-bit', '4-bit'):  # as if it had run here before; a guess would be that of the full size
        key = _unstick.key('black-forest-labs/FLUX.1-dev', quantization)[0]
        _unstick.peak_add(key, None, 8 << 20)
    namespace: dict[str, Any] = {'__name__': '__main__', 'load_flux': load_tiny}
    for sample in of_page(page):
        # Blank lines before it, so that a traceback names the line of the page.
        code = compile('\n' * sample.line + sample.code, str(ROOT / page), 'exec', dont_inherit=True)
        exec(code, namespace)
        if sample.mark == 'real-models':
            namespace['load_flux'] = load_tiny
    if page == 'README.md':  # "back, not loaded"
        found = {entry['key'].rpartition('_')[2]: entry for entry in namespace['cache'].entries()}
        assert [found[name]['n_loads'] for name in ('8-bit', '4-bit')] == [1, 1]
        assert found['8-bit']['n_hits'] + found['8-bit']['n_restores'] == 1


def test_they_are_written_as_they_should_be() -> None:
    assert samples.read(ROOT)[1] == []
    assert FOUND
