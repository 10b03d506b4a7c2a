# SPDX-License-Identifier: Apache-2.0
"""Caches that other libraries keep in the same process.

Their models lie in torch's memory, where a plan counts them as live and not ours. Nothing of theirs is patched: what
they publish to clear their cache is called, when a user asks for it, and only if they are loaded.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

MODULES = ('diffusers_nodes_library.common.utils.huggingface_utils', 'diffusers_nodes_library.utils.huggingface_utils')
"""Of griptape-nodes-library-diffusers and of the advanced media library."""


def _clear_functions() -> dict[str, Callable[[], Any]]:
    found = {}
    for name in MODULES:
        cache = getattr(sys.modules.get(name), 'model_cache', None)
        for clear in (
            getattr(getattr(cache, 'from_pretrained', None), 'cache_clear', None),
            getattr(cache, 'clear', None),
        ):
            if callable(clear):
                found[name] = clear
                break
    return found


def other_caches() -> list[str]:
    """Those that are here and can be asked."""
    return list(_clear_functions())


def clear_other_caches() -> list[str]:
    """Asks all of them; the models go when nothing else holds them."""
    functions = _clear_functions()
    for clear in functions.values():
        clear()
    if functions:
        gc.collect()
    return list(functions)
