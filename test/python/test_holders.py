# SPDX-License-Identifier: Apache-2.0
"""holders() names each kind of planted holder, and nothing where there is none; cycles() finds what was planted."""

import contextvars
import functools
import gc
import sys
import threading
import time
import weakref

import pytest

import unstick


class Pipe:
    def forward(self):
        pass


class Slotted:
    __slots__ = ('held',)


HELD = []
PIPE = None
HERE = __name__


def texts(reference):
    return [chain.text for chain in unstick.holders(reference())]


def plant():
    """An object that nothing holds but what the test makes of it, and a weak reference to it."""
    pipe = Pipe()
    return pipe, weakref.ref(pipe)


@pytest.fixture(autouse=True)
def _clean(collected):
    yield
    HELD.clear()
    globals()['PIPE'] = None


def test_none_for_a_temporary():
    # Not inside an assert, which pytest rewrites into one that keeps what it sees in variables.
    chains = unstick.holders(Pipe())
    assert chains == ()
    assert str(chains) == 'no holder'


def test_none_for_a_weak_one():
    pipe, reference = plant()
    table = weakref.WeakValueDictionary({'pipe': pipe})
    chains = unstick.holders(pipe)
    assert [chain.text for chain in chains] == ['frame test_none_for_a_weak_one() local "pipe"']
    assert table['pipe'] is reference()


def test_global_list():
    pipe, reference = plant()
    HELD.append(pipe)
    del pipe
    assert texts(reference) == [f'module {HERE} -> HELD -> [0]']


def test_module_attribute_and_instance_attribute():
    global PIPE
    PIPE = Pipe()
    PIPE.transformer = Pipe()
    pipe, transformer = weakref.ref(PIPE), weakref.ref(PIPE.transformer)
    assert texts(pipe) == [f'module {HERE} -> PIPE']
    assert texts(transformer) == [f'module {HERE} -> PIPE -> .transformer']


def test_closure():
    def close_over(captured):
        return lambda: captured

    pipe, reference = plant()
    HELD.append(close_over(pipe))
    del pipe
    (text,) = texts(reference)
    assert text.startswith(f'module {HERE} -> HELD -> [0] -> closure "captured" of ')


def test_default_argument():
    pipe, reference = plant()
    HELD.append(lambda held=pipe: held)
    del pipe
    (text,) = texts(reference)
    assert 'default of ' in text


def test_exception_traceback():
    pipe, reference = plant()

    def generate(latents):
        raise ValueError

    try:
        generate(pipe)
    except ValueError as error:
        # Without the test's own frame, whose variable is of no interest here.
        HELD.append(error.with_traceback(error.__traceback__.tb_next))
    del pipe
    assert texts(reference) == [
        f'module {HERE} -> HELD -> [0] -> exception traceback of ValueError -> '
        'frame test_exception_traceback.<locals>.generate() local "latents"'
    ]


def test_exception_being_handled():
    _, reference = plant()

    class HeldError(Exception):
        pass

    try:
        failure = HeldError()
        failure.pipe = Pipe()
        reference = weakref.ref(failure.pipe)
        raise failure
    except HeldError:
        del failure
        assert texts(reference) == ['HeldError being handled of this thread -> .pipe']


def test_cycle_through_itself():
    pipe, reference = plant()
    pipe.forward = pipe.forward
    del pipe
    assert texts(reference) == ['cycle through the Pipe itself -> .forward -> bound method Pipe.forward']


def test_unreachable_cycle():
    pipe, reference = plant()
    ring = [pipe]
    ring.append(ring)
    del pipe, ring
    chains = unstick.holders(reference())
    assert [(chain.kind, chain.text) for chain in chains] == [('garbage', 'unreachable cycle -> [0]')]


def test_bound_method_in_an_instance_dict():
    pipe, reference = plant()
    hook = Pipe()
    hook.forward = pipe.forward
    HELD.append(hook)
    del pipe, hook
    assert texts(reference) == [f'module {HERE} -> HELD -> [0] -> .forward -> bound method Pipe.forward']


def test_generator_frame():
    def generate():
        latents = Pipe()
        yield weakref.ref(latents)
        yield latents

    generator = generate()
    reference = next(generator)
    HELD.append(generator)
    del generator
    assert texts(reference) == [
        f'module {HERE} -> HELD -> [0] -> generator frame test_generator_frame.<locals>.generate() local "latents"'
    ]


def test_coroutine_frame():
    async def generate():
        latents = Pipe()
        HELD.append(weakref.ref(latents))
        await Pause()
        return latents

    class Pause:
        def __await__(self):
            yield

    coroutine = generate()
    coroutine.send(None)
    reference = HELD.pop()
    HELD.append(coroutine)
    try:
        (text,) = texts(reference)
        assert 'coroutine frame ' in text
        assert text.endswith('local "latents"')
    finally:
        coroutine.close()


class InThread:
    """A thread that runs function and waits; entered, function has run."""

    def __init__(self, function):
        self.has_run, self.may_end = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=function, args=(self.pause,), name='painter')

    def pause(self):
        self.has_run.set()
        self.may_end.wait(60)

    def __enter__(self):
        self.thread.start()
        assert self.has_run.wait(60)
        return self

    def __exit__(self, *exception):
        self.may_end.set()
        self.thread.join()


def test_frame_of_another_thread():
    found = []

    def paint(pause):
        latents = Pipe()
        found.append(weakref.ref(latents))
        pause()
        return latents

    with InThread(paint):
        (text,) = texts(found[0])
    assert text == 'frame test_frame_of_another_thread.<locals>.paint() of thread "painter" local "latents"'


def test_threading_local():
    local = threading.local()
    local.pipe = Pipe()
    found = []

    def paint(pause):
        local.pipe = Pipe()
        found.append(weakref.ref(local.pipe))
        pause()

    (own,) = texts(weakref.ref(local.pipe))
    with InThread(paint):
        (other,) = texts(found[0])
    if sys.version_info < (3, 13):
        assert own == 'threading.local of this thread -> .pipe'
        assert other == 'threading.local of thread "painter" -> .pipe'
    else:
        assert "['pipe']" in own
        assert 'local' in other


def test_context_variable():
    variable = contextvars.ContextVar('variable')
    pipe, reference = plant()
    token = variable.set(pipe)
    del pipe
    try:
        assert any('context' in text for text in texts(reference))
    finally:
        variable.reset(token)


def test_slot_set_partial_and_keys():
    pipe, reference = plant()
    slotted = Slotted()
    slotted.held = pipe
    HELD.extend([slotted, {pipe}, functools.partial(print, pipe), {'a': {7: pipe}}])
    del pipe, slotted
    found = texts(reference)
    assert f'module {HERE} -> HELD -> [0] -> .held' in found
    assert f'module {HERE} -> HELD -> [1] -> {{...}}' in found
    assert f"module {HERE} -> HELD -> [3] -> ['a'] -> [7]" in found
    assert len(found) == 4


def test_class_attribute():
    class Owner:
        pass

    pipe, reference = plant()
    Owner.pipe = pipe
    HELD.append(Owner)
    del pipe, Owner
    assert texts(reference) == [f'module {HERE} -> HELD -> [0] -> .pipe']


def test_variable_in_a_cell_is_named_once():
    pipe = Pipe()

    def unused():
        return pipe

    del unused
    assert [chain.text for chain in unstick.holders(pipe)] == [
        'frame test_variable_in_a_cell_is_named_once() local "pipe"'
    ]


def test_asking_changes_nothing():
    pipe, reference = plant()
    HELD.append(pipe)
    before = sys.getrefcount(pipe)
    unstick.holders(pipe)
    assert sys.getrefcount(pipe) == before
    HELD.clear()
    del pipe
    assert reference() is None, 'no frame kept a dict of its variables'


def test_locals_that_somebody_took_stay_as_they_are():
    pipe, reference = plant()
    taken = locals()
    unstick.holders(pipe)
    assert taken['pipe'] is reference()


def test_the_collector_is_left_as_it_was():
    gc.disable()
    try:
        unstick.holders(HELD)
        assert not gc.isenabled()
    finally:
        gc.enable()
    unstick.holders(HELD)
    assert gc.isenabled()


def test_limits_without_end():
    thing = ['held']
    with pytest.raises(ValueError, match='below 0'):
        unstick.holders(thing, limit=-1)
    assert len(unstick.holders(thing, limit=(1 << 63) - 1)) == 1


def test_limit_and_dicts():
    pipe, reference = plant()
    HELD.extend([[pipe] for _ in range(20)])
    del pipe
    assert len(texts(reference)) == 10
    chains = unstick.holders(reference(), limit=3)
    assert len(chains) == 3
    assert chains.as_dicts()[0]['kind'] == 'module'
    assert chains.as_dicts()[0]['steps'][-1] == {'label': '[0]', 'type': f'{Pipe.__name__}'}
    chains = unstick.holders(reference(), limit=0)
    assert chains == ()


def test_an_object_that_the_collector_does_not_track():
    text = 'untracked text, not interned'.upper()
    HELD.append({'text': text})
    found = [chain.text for chain in unstick.holders(text)]
    assert f"module {HERE} -> HELD -> [0] -> ['text']" in found


THINGS = [None, 7, int, type, sys, print, (), Pipe, Pipe.forward, HELD]


@pytest.mark.parametrize('thing', THINGS, ids=lambda thing: getattr(thing, '__name__', type(thing).__name__))
def test_whatever_is_asked_for(thing):
    if thing is not None:
        assert str(unstick.holders(thing, limit=1000))
    assert len(unstick.holders(thing, limit=3)) <= 3


def test_other_threads_may_do_what_they_like():
    may_end = threading.Event()

    def churn():
        own = threading.local()
        while not may_end.is_set():
            own.table = {'list': [own]}
            generators = [(lambda x: (yield x))(index) for index in range(5)]
            own.functions = [functools.partial(next, generator) for generator in generators]
            own.values = [function() for function in own.functions]
            try:
                raise KeyError(generators)
            except KeyError as error:
                own.error = error
            thread = threading.Thread(target=list, args=(range(10),))
            thread.start()
            thread.join()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=churn) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(20):
            pipe, reference = plant()
            HELD.append(pipe)
            del pipe
            assert texts(reference) == [f'module {HERE} -> HELD -> [0]']
            HELD.clear()
            unstick.cycles(of=Pipe)
            unstick.holders(sys)
    finally:
        may_end.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)


def test_frozen_objects_hold_too():
    pipe, reference = plant()
    HELD.append([pipe])
    del pipe
    gc.freeze()
    try:
        assert texts(reference) == [f'module {HERE} -> HELD -> [0] -> [0]']
    finally:
        gc.unfreeze()


def test_cycles_finds_what_was_planted_and_nothing_else():
    gc.disable()
    try:
        assert unstick.cycles(of=Pipe) == []
        ring = [Pipe(), {'more': Pipe()}]
        ring.append(ring)
        reachable = [Pipe()]
        reachable.append(reachable)
        other = Pipe()
        other.forward = other.forward
        unrelated = []
        unrelated.append(unrelated)
        del ring, other, unrelated
        found = unstick.cycles(of=Pipe)
        assert sorted((cycle.text, cycle.n_held) for cycle in found) == [
            ('Pipe -> .forward -> bound method Pipe.forward', 1),
            ('list -> [2]', 2),
        ] or len(found) == 2
        assert {cycle.n_held for cycle in found} == {1, 2}
        assert len(unstick.cycles(of=Pipe, collect=True)) == 2
        assert unstick.cycles(of=Pipe) == []
        assert reachable[0] is not None
    finally:
        gc.enable()


def test_a_collection_says_what_it_found():
    gc.disable()
    try:
        ring = [Pipe()]
        ring.append(ring)
        del ring
        found = unstick.cycles(collect=True, of=Pipe)
        assert found.collected_objects >= 2
        assert 'list -> [1]' in str(found)
    finally:
        gc.enable()


def test_a_long_chain_of_garbage_takes_no_stack():
    gc.disable()
    try:
        head = tail = [Pipe()]
        for _ in range(100_000):
            head = [head]
        tail.append(head)
        del head, tail
        (found,) = unstick.cycles(of=Pipe)
        assert found.n_objects == 100_002
    finally:
        gc.enable()


def test_a_million_objects_take_less_than_a_third_of_a_second():
    ballast = [{'index': index, 'more': [index]} for index in range(500_000)]
    HELD.append([{'pipe': Pipe()}])
    reference = weakref.ref(HELD[0][0]['pipe'])
    took = []
    for _ in range(5):
        start = time.process_time()
        found = texts(reference)
        took.append(time.process_time() - start)
    assert found == [f"module {HERE} -> HELD -> [0] -> [0] -> ['pipe']"]
    assert len(ballast) == 500_000
    assert min(took) < 0.3
