# SPDX-License-Identifier: Apache-2.0
"""holders() beside the same search made of gc.get_referrers(): bench/holders.py [OBJECTS].

A weight lies where one lies in a FLUX pipeline, and is held elsewhere, too, among OBJECTS others, a million if left
out. Both look for the shortest chain from a module to each object that refers to it. The search asks for the referrers
of one object at a time, as tools that are made of gc.get_referrers() do, and again for a whole level at a time, which
is the best that can be made of it; neither sees frames, threads or C++. Times are of the process, so that other work on
the machine does not count. Prints one JSON object.
"""

import gc
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import unstick


class Part:
    """What torch's modules are made of: a dict with dicts of children and of parameters in it."""

    def __init__(self) -> None:
        self.__dict__['_modules'] = {}
        self.__dict__['_parameters'] = {}


def build(n_objects: int) -> Any:
    """A weight of app.PIPE.transformer.transformer_blocks[30].attn.to_q that more than the pipeline holds."""
    app = types.ModuleType('app')
    sys.modules['app'] = app
    app.__dict__['ballast'] = [{'index': index, 'more': [index]} for index in range(n_objects // 2)]
    app.__dict__['PIPE'] = types.SimpleNamespace(transformer=Part())
    at = app.__dict__['PIPE'].transformer
    at._modules['transformer_blocks'] = Part()
    at = at._modules['transformer_blocks']
    for index in range(57):
        at._modules[str(index)] = Part()
    for name in ('30', 'attn', 'to_q'):
        at = at._modules.setdefault(name, Part())
    weight = at._parameters['weight'] = Part()
    try:
        raise ValueError(weight)
    except ValueError as error:
        app.__dict__['outputs'] = {'seen': [[weight]], 'last': {'error': [error]}}
    app.__dict__['on_step'] = (lambda captured: lambda: captured)(weight)
    app.__dict__['cache'] = types.SimpleNamespace(entries=[{'key': types.SimpleNamespace(value=weight)}])
    return weight


def chain_to_module(referrer: object, skipped: set[int], is_batched: bool) -> list[object]:
    """Breadth first from a referrer to a module; the chain from there to it, or nothing."""
    parents: dict[int, object] = {}
    seen = {id(referrer), *skipped}
    level = [referrer]
    seen |= {id(parents), id(seen), id(level)}
    while level:
        following: list[object] = []
        seen |= {id(following), id(level)}
        for group in [level] if is_batched else [[child] for child in level]:
            found = gc.get_referrers(*group)
            for above in found:
                if id(above) in seen or above is group or isinstance(above, types.FrameType):
                    continue
                seen.add(id(above))
                parents[id(above)] = next(child for child in group if any(child is x for x in gc.get_referents(above)))
                if isinstance(above, types.ModuleType):
                    chain = [above]
                    while chain[-1] is not referrer:
                        chain.append(parents[id(chain[-1])])
                    return chain
                following.append(above)
            del found
        level = following
    return []


def by_referrers(target: object, is_batched: bool) -> list[list[object]]:
    """The chains of all referrers."""
    referrers = [found for found in gc.get_referrers(target) if not isinstance(found, types.FrameType)]
    skipped = {id(target), id(referrers), *map(id, referrers)}
    return [chain_to_module(referrer, skipped, is_batched) for referrer in referrers]


def timed(n_times: int, function: Callable[..., Any], *arguments: object) -> tuple[list[float], Any]:
    """Seconds of each call, and what the last one gave."""
    took: list[float] = []
    result = None
    for _ in range(n_times):
        result = None
        start = time.process_time()
        result = function(*arguments)
        took.append(time.process_time() - start)
    return took, result


def main() -> int:
    target = build(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
    n_tracked = len(gc.get_objects())
    gc.disable()
    fast, chains = timed(7, unstick.holders, target)
    single, found = timed(2, by_referrers, target, False)
    batched, _ = timed(2, by_referrers, target, True)
    texts = [chain.text for chain in chains if chain.kind == 'module']
    n_found = len([chain for chain in found if chain])
    assert n_found and len(texts) >= n_found, 'holders() must find what the search finds'
    report = {
        'objects': n_tracked,
        'holders_s': round(min(fast), 4),
        'holders_median_s': round(statistics.median(fast), 4),
        'one_at_a_time_s': round(min(single), 4),
        'level_at_a_time_s': round(min(batched), 4),
        'times_faster_than_one_at_a_time': round(min(single) / min(fast), 1),
        'times_faster_than_level_at_a_time': round(min(batched) / min(fast), 1),
        'n_chains_of_search': n_found,
        'chains': texts,
    }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == '__main__':
    sys.exit(main())
