"""When an idle program comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core.memory.gaps import ToolGaps

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


def test_the_chance_of_return_is_the_share_of_gaps_that_ended_in_a_call() -> None:
    assert learned([1.0, 1.0, 1.0, None] * 50).return_chance == pytest.approx(0.75, abs=0.01)


def test_a_kind_with_short_gaps_is_back_soon_or_never() -> None:
    gaps = learned([0.1, 0.1, 0.1, None] * 50)
    assert gaps.return_within(0.5) > 0.7
    assert gaps.return_within(1000.0, idle_s=10.0) < 0.05


def test_a_kind_with_long_gaps_is_still_expected_after_a_while() -> None:
    gaps = learned([300.0] * 50)
    assert gaps.return_within(1000.0, idle_s=60.0) > 0.9
    assert gaps.return_within(1.0, idle_s=60.0) < 0.1


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
    assert 0 <= soon <= later + 1e-9 <= 1 + 2e-9
