# SPDX-License-Identifier: Apache-2.0
"""holders() beside the same search made of gc.get_referrers(): bench/holders.py [OBJECTS].

A tensor-like object lies at the end of a realistic chain (module, pipeline, transformer, block list, block, dict),
among OBJECTS others, a million if left out. Both must name the same chain. Prints one JSON object.
"""

import gc
import json
import statistics
import sys
import time
import types

import unstick


class Part:
    """Something with attributes in a dict."""


def build(n_objects: int) -> tuple[object, object]:
    """The ballast, and the object in question."""
    ballast = [{'index': index, 'more': [index]} for index in range(n_objects // 2)]
    module = types.ModuleType('app')
    sys.modules['app'] = module
    at: object = module
    for name in ('PIPE', 'transformer', 'blocks'):
        setattr(at, name, Part())
        at = getattr(at, name)
    at.items = [Part() for _ in range(50)]  # type: ignore[attr-defined]
    at.items[30]._parameters = {'weight': Part()}  # type: ignore[attr-defined]
    return ballast, at.items[30]._parameters['weight']  # type: ignore[attr-defined]


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
    start = time.perf_counter()
    result = function(*arguments)  # type: ignore[operator]
    return time.perf_counter() - start, result


def main() -> int:
    n_objects = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    ballast, target = build(n_objects)
    n_tracked = len(gc.get_objects())
    gc.disable()
    fast = [timed(unstick.holders, target) for _ in range(7)]
    slow = [timed(by_referrers, target, [ballast]) for _ in range(3)]
    text = next(chain.text for chain in fast[0][1] if chain.kind == 'module')  # type: ignore[attr-defined]
    fast_s, slow_s = min(seconds for seconds, _ in fast), min(seconds for seconds, _ in slow)
    print(
        json.dumps(
            {
                'objects': n_tracked,
                'holders_s': round(fast_s, 4),
                'holders_median_s': round(statistics.median(seconds for seconds, _ in fast), 4),
                'get_referrers_s': round(slow_s, 4),
                'times_faster': round(slow_s / fast_s, 1),
                'chain': text,
                'get_referrers_chain': [type(thing).__name__ for thing in slow[0][1]],  # type: ignore[attr-defined]
            },
            indent=2,
        )
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
