"""When an idle program comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core.gaps import GapsByKind, ToolGaps

gaps_s = st.one_of(st.none(), st.floats(0, 1e6))  # None: no further call
idles_s = st.floats(0, 1e6)


def learned(gaps: list[float | None]) -> ToolGaps:
    tool_gaps = ToolGaps()
    for gap_s in gaps:
        if gap_s is None:
            tool_gaps.ended()
        else:
            tool_gaps.returned(gap_s)
    return tool_gaps


def test_before_anything_is_seen_most_programs_are_taken_to_go_on() -> None:
    gaps = ToolGaps()
    assert gaps.return_chance == 0.75
    assert gaps.return_within(1.0) == pytest.approx(0.375)
    assert gaps.wait_s() > 0


def test_the_chance_of_return_is_the_share_of_gaps_that_ended_in_a_call() -> None:
    assert learned([1.0, 1.0, 1.0, None] * 50).return_chance == pytest.approx(0.75, abs=0.01)


def test_a_kind_with_short_gaps_is_back_soon_or_never() -> None:
    gaps = learned([0.1, 0.1, 0.1, None] * 50)
    assert gaps.return_within(0.5) > 0.7
    assert gaps.still_returns(idle_s=10.0) < 0.05


def test_a_kind_with_long_gaps_is_still_expected_after_a_while() -> None:
    gaps = learned([300.0] * 50)
    assert gaps.still_returns(idle_s=60.0) > 0.9
    assert gaps.return_within(1.0, idle_s=60.0) < 0.1
    assert 150 < gaps.wait_s(idle_s=60.0) < 350


def test_the_wait_beyond_all_that_was_seen_is_as_long_again() -> None:
    assert learned([0.1] * 9).wait_s(idle_s=5000.0) == 5000.0


def test_it_follows_a_kind_that_changes() -> None:
    gaps = learned([0.1] * 3000 + [None] * 5000)
    assert gaps.return_chance < 0.05


@given(st.lists(gaps_s, max_size=60), idles_s, idles_s, idles_s)
def test_chances_are_chances_and_grow_with_the_time_allowed(
    seen: list[float | None], idle_s: float, one_s: float, more_s: float
) -> None:
    gaps = learned(seen)
    soon = gaps.return_within(one_s, idle_s=idle_s)
    later = gaps.return_within(one_s + more_s, idle_s=idle_s)
    ever = gaps.still_returns(idle_s=idle_s)
    assert 0 <= soon <= later + 1e-9 <= ever + 2e-9 <= 1 + 3e-9
    assert gaps.wait_s(idle_s=idle_s) > 0


def test_a_kind_that_is_hardly_known_is_taken_for_what_all_do() -> None:
    kinds = GapsByKind()
    for _ in range(100):
        kinds.returned("tools", 0.1)
        kinds.ended("once")
    kinds.returned("new", 50.0)
    assert kinds.of("tools").return_chance > 0.95
    assert kinds.of("once").return_chance < 0.05
    assert kinds.of("new") is kinds.of("never seen")
    assert 0.4 < kinds.of("new").return_chance < 0.6


def test_no_more_kinds_are_kept_than_asked() -> None:
    kinds = GapsByKind(max_kinds=3)
    for number in range(100):
        kinds.returned(f"kind {number}", 1.0)
    assert len(kinds) == 3


def test_the_kinds_seen_last_are_kept() -> None:
    kinds = GapsByKind(max_kinds=2)
    for _ in range(30):
        kinds.returned("mine", 1.0)
        kinds.ended("another")
    kinds.returned("mine", 1.0)
    kinds.ended("new")
    assert kinds.of("mine").return_chance > 0.9
