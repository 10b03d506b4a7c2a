# SPDX-License-Identifier: Apache-2.0
"""How much a model will take, known before it is loaded: from its files, else from earlier runs. No network."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any

from ._unstick import Error, estimate, peak, peak_add

log = logging.getLogger('unstick')


@dataclass(frozen=True, slots=True)
class Size:
    nbytes: int = 0
    """0: nothing is known, the core guesses."""
    basis: str = 'guess'
    working_bytes: int = 0
    alternatives: list[tuple[str, int, str]] = field(default_factory=list)
    """Other quantizations of the same model: (name, bytes, basis)."""


def size_of(model_id: str, quantization: str, key: str, fingerprint: str) -> Size:
    path = model_path(model_id)
    if path is not None:
        try:
            return _from_files(estimate(path), quantization)
        except Error as error:
            log.info('%s: no estimate from %s: %s', key, path, error)
    try:
        known = peak(key, fingerprint)
    except Error as error:
        log.warning('learned peaks: %s', error)
        known = None
    return Size(known, 'learned') if known else Size()


def record(key: str, fingerprint: str, nbytes: int) -> None:
    """For the next process, and for the command. A home that cannot be written to is no failure of a load."""
    try:
        peak_add(key, fingerprint, nbytes)
    except Error as error:
        log.info('learned peaks: %s', error)


def _from_files(found: dict[str, Any], quantization: str) -> Size:
    total = found['total']
    return Size(
        total[quantization]['region_bytes'],
        total[quantization]['basis'],
        found['working_bytes'],
        [(name, one['region_bytes'], one['basis']) for name, one in total.items() if name != quantization],
    )


def model_path(model_id: str) -> str | None:
    """Where a model's files are on this machine: a folder, a file, or a snapshot in the Hugging Face cache."""
    if os.path.exists(model_id):
        return model_id
    if model_id.count('/') != 1 or model_id.startswith(('/', '.')):
        return None
    folder = os.path.join(hub_folder(), 'models--' + model_id.replace('/', '--'))
    try:
        with open(os.path.join(folder, 'refs', 'main'), encoding='utf-8') as file:
            revision = file.read().strip()
    except OSError:
        return None
    snapshot = os.path.join(folder, 'snapshots', revision)
    return snapshot if revision and os.path.isdir(snapshot) else None


def hub_folder() -> str:
    """As huggingface_hub looks for it, without importing it."""
    for name in ('HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE'):
        if os.environ.get(name):
            return os.path.expanduser(os.environ[name])
    home = os.environ.get('HF_HOME')
    if not home:
        home = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'huggingface')
    return os.path.join(os.path.expanduser(home), 'hub')
