# SPDX-License-Identifier: Apache-2.0
"""What a call takes beside the weights, learned from an allocator's figures."""

import pytest

import unstick

pytestmark = pytest.mark.torch
pytest.importorskip('torch')

from unstick.working import FIRST_CALL_BYTES, MARGIN_BYTES, Reading, Working, reading, trim_all  # noqa: E402

MIB = 1 << 20


def of(free: int, reserved: int, allocated: int, peak: int) -> Reading:
    return Reading(free * MIB, reserved * MIB, allocated * MIB, peak * MIB)


def test_the_first_call_goes_by_a_guess() -> None:
    working = Working()
    assert working.needed_bytes == FIRST_CALL_BYTES
    assert working.begin(of(1024, 0, 0, 0)) == FIRST_CALL_BYTES - 1024 * MIB
    assert working.begin(of(8192, 0, 0, 0)) == 0


def test_what_torch_only_caches_is_available() -> None:
    assert of(100, 300, 250, 300).available_bytes == 150 * MIB


def test_a_call_that_makes_the_peak_says_what_it_took() -> None:
    """Even where torch has given its cache back in the middle, and reserves less at the end."""
    working = Working()
    working.begin(of(9000, 200, 100, 150))
    working.end(of(9000, 300, 100, 900))
    assert working.learned_bytes == 800 * MIB
    assert working.needed_bytes == 1000 * MIB + MARGIN_BYTES


def test_below_an_older_peak_it_is_at_most_what_is_reserved() -> None:
    working = Working()
    working.begin(of(9000, 200, 100, 5000))
    working.end(of(9000, 700, 100, 5000))
    assert working.learned_bytes == 600 * MIB


def test_the_most_is_kept() -> None:
    working = Working()
    for peak in (900, 950):
        working.begin(of(9000, 100, 100, 100))
        working.end(of(9000, peak, 100, peak))
    working.begin(of(9000, 100, 100, 950))
    working.end(of(9000, 100, 100, 950))
    assert working.learned_bytes == 850 * MIB


def test_after_a_failure_the_next_call_finds_twice_the_room() -> None:
    working = Working()
    working.fail()
    assert working.learned_bytes == FIRST_CALL_BYTES
    working.fail()
    assert working.learned_bytes == 2 * FIRST_CALL_BYTES


def test_an_end_without_a_beginning_says_nothing() -> None:
    working = Working()
    working.end(of(1, 1, 1, 1))
    working.begin(of(1, 1, 1, 1))
    working.end(None)
    assert working.learned_bytes == 0


def test_the_host_device_has_no_allocator_to_ask(device: unstick.Device) -> None:
    assert reading(device) is None
    assert not trim_all()
