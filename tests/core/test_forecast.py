"""What a kind's ended programs say of those that go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import Levels
from autellix_sgl.core.forecast import ENOUGH_PROGRAMS, HINT_CLAMP, MAX_LEGS, Forecast, Hints
from autellix_sgl.core.model import Itinerary

LEVELS = Levels.geometric(12, 200.0, 2.0)
services_ms = st.lists(st.floats(1, 1e6), min_size=ENOUGH_PROGRAMS, max_size=60)


def learned(
    services: list[float], *, kind: str | None = "kind", calls: int = 10, tokens: int = 1000
) -> Forecast:
    forecast = Forecast(LEVELS)
    for service_ms in services:
        forecast.ended("", kind, service_ms, calls=calls, tokens=tokens)
    return forecast


def level_at(legs: Itinerary, ms: float) -> int:
    """The level that a call is in after *ms* of service."""
    for level, quantum_ms in legs:
        if quantum_ms is None or ms < quantum_ms:
            return level
        ms -= quantum_ms
    raise AssertionError("the last leg has an end")


def test_until_enough_programs_have_ended_the_policys_own_levels_hold() -> None:
    forecast = learned([5000.0] * (ENOUGH_PROGRAMS - 1))
    assert forecast.itinerary("", "kind", 0.0) == ()
    forecast.ended("", "kind", 5000.0, calls=1, tokens=1)
    assert forecast.itinerary("", "kind", 0.0) != ()


def test_a_kind_of_short_programs_goes_before_a_kind_of_long_ones() -> None:
    forecast = learned([300.0] * 20, kind="short")
    for _ in range(20):
        forecast.ended("", "long", 60_000.0, calls=9, tokens=9)
    (short, _), *_ = forecast.itinerary("", "short", 0.0)
    (long, _), *_ = forecast.itinerary("", "long", 0.0)
    assert short < long


def test_a_program_near_its_end_gets_better_while_it_is_served() -> None:
    """Programs of one length: each moment served is one less to go."""
    legs = learned([20_000.0] * 50).itinerary("", "kind", 0.0)
    assert level_at(legs, 18_000) < level_at(legs, 0.0)


def test_where_long_programs_are_longer_still_it_gets_worse() -> None:
    legs = learned([100.0] * 50 + [100_000.0] * 50).itinerary("", "kind", 0.0)
    assert level_at(legs, 5000.0) > level_at(legs, 0.0)


def test_an_itinerary_begins_at_what_the_program_has_had() -> None:
    forecast = learned([20_000.0] * 50)
    whole = forecast.itinerary("", "kind", 0.0)
    later = forecast.itinerary("", "kind", 17_000.0)
    assert level_at(later, 0.0) == level_at(whole, 17_000.0)


def test_programs_of_no_known_kind_teach_no_order() -> None:
    """A mixture's young programs are not all short; they are left to attained service."""
    assert learned([300.0] * 50, kind=None).itinerary("", None, 0.0) == ()


def test_one_tenants_programs_say_nothing_of_anothers() -> None:
    forecast = learned([300.0] * 50)
    assert forecast.itinerary("another", "kind", 0.0) == ()


def test_it_follows_a_kind_that_changes() -> None:
    forecast = learned([300.0] * 2000 + [60_000.0] * 4000)
    (level, _), *_ = forecast.itinerary("", "kind", 0.0)
    assert level >= LEVELS.level_of(10_000.0)


def test_no_more_kinds_are_kept_than_asked() -> None:
    forecast = Forecast(LEVELS, max_kinds=2)
    for kind in ("a", "b", "c"):
        for _ in range(ENOUGH_PROGRAMS):
            forecast.ended("", kind, 300.0, calls=1, tokens=1)
    assert forecast.itinerary("", "a", 0.0) == ()
    assert forecast.itinerary("", "c", 0.0) != ()


@given(services_ms, st.floats(0, 1e7))
def test_every_itinerary_is_short_and_its_last_leg_has_no_end(
    services: list[float], attained_ms: float
) -> None:
    legs = learned(services).itinerary("", "kind", attained_ms)
    *rest, (_, last) = legs
    assert 1 <= len(legs) <= MAX_LEGS
    assert last is None
    assert all(0 <= level < LEVELS.count for level, _ in legs)
    assert all(quantum_ms is not None and quantum_ms > 0 for _, quantum_ms in rest)


# -- hints ----------------------------------------------------------------------------------------


def test_a_program_said_to_be_short_goes_sooner_and_one_said_to_be_long_later() -> None:
    forecast = learned([20_000.0, 30_000.0, 40_000.0] * 10)
    plain, less, more = (
        level_at(forecast.itinerary("", "kind", 5000.0, hints), 0.0)
        for hints in (None, Hints(calls=3), Hints(calls=500))
    )
    assert less < plain < more


def test_a_client_that_says_too_little_of_one_thing_is_held_to_the_other() -> None:
    forecast = learned([30_000.0] * 30)
    legs = [
        forecast.itinerary("", "kind", 0.0, hints)
        for hints in (Hints(tokens=2000), Hints(calls=1, tokens=2000))
    ]
    assert legs[0] == legs[1]


def test_without_a_history_a_hint_means_nothing() -> None:
    assert Forecast(LEVELS).itinerary("", "kind", 0.0, Hints(calls=1)) == ()


def test_in_an_unknown_kind_a_hint_corrects_attained_service() -> None:
    forecast = learned([5000.0] * 50, kind=None)
    assert level_at(forecast.itinerary("", None, 50_000.0, Hints(calls=1)), 0.0) < LEVELS.level_of(
        50_000.0
    )


@given(
    services_ms,
    st.floats(0, 1e6),
    st.one_of(st.none(), st.integers(1, 10**9)),
    st.one_of(st.none(), st.integers(1, 10**9)),
    st.sampled_from(["kind", None]),
)
def test_whatever_is_said_moves_a_call_by_one_level_at_most(
    services: list[float],
    attained_ms: float,
    calls: int | None,
    tokens: int | None,
    kind: str | None,
) -> None:
    """The clamp is a factor of two in rank, which is a level of the default growth."""
    assert HINT_CLAMP == 2.0
    forecast = learned(services, kind=kind)
    honest = forecast.itinerary("", kind, attained_ms)
    plain = honest[0][0] if honest else LEVELS.level_of(attained_ms)
    said = forecast.itinerary("", kind, attained_ms, Hints(calls, tokens))
    level = said[0][0] if said else plain
    assert plain - level <= 1


@pytest.mark.parametrize("hints", [None, Hints(calls=3)])
def test_the_same_history_gives_the_same_itinerary(hints: Hints | None) -> None:
    services = [float(number * number) for number in range(1, 40)]
    first, second = learned(services), learned(services)
    assert first.itinerary("", "kind", 77.0, hints) == second.itinerary("", "kind", 77.0, hints)
