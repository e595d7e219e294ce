"""What eviction and admission look up of programs' gaps."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core.memory.returns import EDGES_MS, MAX_KINDS, Returns

KIND = "kind"

gaps_ms = st.one_of(st.none(), st.floats(0, 1e7))  # None: no further call
idles_ms = st.floats(0, 1e8)


def learned(gaps: list[float | None], soon_ms: float = 30_000.0) -> Returns:
    returns = Returns(soon_ms)
    for gap_ms in gaps:
        if gap_ms is None:
            returns.ended(KIND)
        else:
            returns.returned(KIND, gap_ms)
    return returns


def test_programs_whose_tools_answer_at_once_are_expected_at_once() -> None:
    returns = learned([100.0] * 256)
    assert returns.until_ms(KIND, 0) < 500
    assert returns.soon(KIND, 0) > 0.9


def test_the_longer_a_program_is_silent_the_later_it_is_expected() -> None:
    """With short gaps and a few that last for minutes, as coding agents have."""
    returns = learned([100.0, 100.0, 100.0, 300_000.0] * 100)
    assert returns.until_ms(KIND, 0) < returns.until_ms(KIND, 5_000)
    assert returns.soon(KIND, 0) > 0.5 > returns.soon(KIND, 5_000)


def test_a_fixed_wait_is_nearer_its_end_the_longer_it_has_lasted() -> None:
    returns = learned([60_000.0] * 256)
    assert returns.until_ms(KIND, 50_000) < returns.until_ms(KIND, 0)


def test_programs_that_never_come_back_are_expected_late() -> None:
    assert learned([None] * 256).until_ms(KIND, 0) > learned([1000.0] * 256).until_ms(KIND, 0)


def test_what_soon_means_can_change() -> None:
    returns = learned([60_000.0] * 256)
    assert returns.soon(KIND, 0) < 0.1
    returns.use_horizon(100_000.0)
    assert returns.soon(KIND, 0) > 0.9


@given(st.lists(gaps_ms, max_size=200), idles_ms)
def test_answers_are_chances_and_times_whatever_was_seen(
    gaps: list[float | None], idle_ms: float
) -> None:
    returns = learned(gaps)
    assert 0 <= returns.soon(KIND, idle_ms) <= 1
    assert returns.until_ms(KIND, idle_ms) > 0


@given(st.lists(gaps_ms, max_size=200), st.lists(idles_ms, max_size=20))
def test_asking_changes_no_answer(gaps: list[float | None], idles: list[float]) -> None:
    """Ranks that hear of the same events agree, however often each has asked in between."""
    asked, silent = Returns(1000.0), learned(gaps, 1000.0)
    for number, gap_ms in enumerate(gaps):
        if idles:
            asked.until_ms(KIND, idles[number % len(idles)])
        if gap_ms is None:
            asked.ended(KIND)
        else:
            asked.returned(KIND, gap_ms)
    assert all(asked.until_ms(KIND, edge) == silent.until_ms(KIND, edge) for edge in EDGES_MS)


def test_beyond_all_that_was_seen_there_is_an_answer() -> None:
    assert learned([1.0] * 64).until_ms(KIND, math.nextafter(EDGES_MS[-1], math.inf)) > 0


def test_a_kind_that_is_hardly_known_is_taken_for_what_all_do() -> None:
    returns = Returns(10_000.0)
    for _ in range(128):
        returns.returned("tools", 100.0)
        returns.ended("once")
    returns.returned("new", 50.0)
    assert returns.soon("tools", 0) > 0.95
    assert returns.soon("once", 0) < 0.05
    assert returns.soon("new", 0) == returns.soon("never seen", 0)
    assert 0.4 < returns.soon("new", 0) < 0.6


def test_the_kinds_heard_of_last_are_kept() -> None:
    returns = Returns(10_000.0)
    for number in range(MAX_KINDS + 10):
        returns.returned("mine", 1.0)
        returns.ended(f"kind {number}")
    assert len(returns) == MAX_KINDS
    assert returns.soon("mine", 0) > 0.9
