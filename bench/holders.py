# SPDX-License-Identifier: Apache-2.0
"""holders() beside the same search made of gc.get_referrers(): bench/holders.py [OBJECTS].

A weight lies where one lies in a FLUX pipeline, among OBJECTS others, a million if left out. The search looks for one
chain only, a scan of the heap for each level of it; holders() looks for all. Both must come to the same module. Times
are of the process, so that other work on the machine does not count. Prints one JSON object.
"""

import gc
import json
import statistics
import sys
import time
import types

import unstick


class Part:
    """What torch's modules are made of: a dict with dicts of children and of parameters in it."""

    def __init__(self) -> None:
        self.__dict__['_modules'] = {}
        self.__dict__['_parameters'] = {}


def build(n_objects: int) -> tuple[object, object]:
    """The ballast, and a weight of app.PIPE.transformer.transformer_blocks[30].attn.to_q."""
    ballast = [{'index': index, 'more': [index]} for index in range(n_objects // 2)]
    module = types.ModuleType('app')
    sys.modules['app'] = module
    pipe = types.SimpleNamespace(transformer=Part())
    module.__dict__['PIPE'] = pipe
    at = pipe.transformer
    at._modules['transformer_blocks'] = blocks = Part()
    for index in range(57):
        blocks._modules[str(index)] = Part()
    at = blocks._modules['30']
    for name in ('attn', 'to_q'):
        at._modules[name] = Part()
        at = at._modules[name]
    at._parameters['weight'] = Part()
    return ballast, at._parameters['weight']


def by_referrers(target: object, skipped: list[object]) -> list[object]:
    """Breadth first towards a module, a whole scan of the heap per level; the chain from the module on."""
    seen = {id(target), *map(id, skipped)}
    parents: dict[int, object] = {}
    level: list[object] = [target]
    seen |= {id(seen), id(parents), id(level), id(sys._getframe())}
    while level:
        found = gc.get_referrers(*level)
        seen.add(id(found))
        following: list[object] = []
        seen.add(id(following))
        for referrer in found:
            if id(referrer) in seen or isinstance(referrer, types.FrameType):
                continue
            seen.add(id(referrer))
            for child in level:
                if any(child is held for held in gc.get_referents(referrer)):
                    parents[id(referrer)] = child
                    break
            if isinstance(referrer, types.ModuleType):
                chain: list[object] = [referrer]
                while chain[-1] is not target:
                    chain.append(parents[id(chain[-1])])
                return chain
            following.append(referrer)
        level = following
    return []


def timed(function: object, *arguments: object) -> tuple[float, object]:
    start = time.process_time()
    result = function(*arguments)  # type: ignore[operator]
    return time.process_time() - start, result


def main() -> int:
    n_objects = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    ballast, target = build(n_objects)
    n_tracked = len(gc.get_objects())
    gc.disable()
    fast = [timed(unstick.holders, target) for _ in range(7)]
    slow = [timed(by_referrers, target, [ballast]) for _ in range(3)]
    text = next(chain.text for chain in fast[0][1] if chain.kind == 'module')  # type: ignore[attr-defined]
    fast_s, slow_s = min(seconds for seconds, _ in fast), min(seconds for seconds, _ in slow)
    assert isinstance(slow[0][1][0], types.ModuleType), 'the search came to no module'  # type: ignore[index]
    print(
        json.dumps(
            {
                'objects': n_tracked,
                'holders_s': round(fast_s, 4),
                'holders_median_s': round(statistics.median(seconds for seconds, _ in fast), 4),
                'get_referrers_s': round(slow_s, 4),
                'times_faster': round(slow_s / fast_s, 1),
                'chain': text,
                'get_referrers_levels': len(slow[0][1]) - 1,  # type: ignore[arg-type]
            },
            indent=2,
        )
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
