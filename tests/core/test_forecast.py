"""What a kind's ended programs say of those that go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import Levels
from autellix_sgl.core.calls.model import Itinerary
from autellix_sgl.core.programs.forecast import (
    ENOUGH_PROGRAMS,
    HINT_CLAMP,
    MAX_LEGS,
    Forecast,
    Hints,
    ServiceHistory,
)

LEVELS = Levels.geometric(12, 200.0, 2.0)
services_ms = st.lists(st.floats(1, 1e6), min_size=ENOUGH_PROGRAMS + 1, max_size=60)


def learned(
    services: list[float], *, known: bool = True, calls: int = 10, tokens: int = 1000
) -> ServiceHistory:
    """A kind whose programs ended with these services."""
    history = ServiceHistory(known=known)
    for service_ms in services:
        history.ended(service_ms, calls=calls, tokens=tokens)
    return history


def itinerary(
    history: ServiceHistory, attained_ms: float = 0.0, hints: Hints | None = None
) -> Itinerary:
    return Forecast(LEVELS).itinerary(history, attained_ms, hints)


def level_at(legs: Itinerary, ms: float) -> int:
    """The level that a call is in after *ms* of service."""
    for level, quantum_ms in legs:
        if quantum_ms is None or ms < quantum_ms:
            return level
        ms -= quantum_ms
    raise AssertionError("the last leg has an end")


def test_until_enough_programs_are_known_the_policys_own_levels_hold() -> None:
    history = learned([5000.0] * (ENOUGH_PROGRAMS - 2))
    assert itinerary(history) == ()
    for _ in range(3):
        history.moved(None, 0.0)
    assert itinerary(history) != ()


def test_a_kind_of_short_programs_goes_before_a_kind_of_long_ones() -> None:
    short, long = itinerary(learned([300.0] * 20)), itinerary(learned([60_000.0] * 20))
    assert short[0][0] < long[0][0]


def test_a_program_near_its_end_gets_better_while_it_is_served() -> None:
    """Programs of one length: each moment served is one less to go."""
    legs = itinerary(learned([20_000.0] * 50))
    assert level_at(legs, 18_000) < level_at(legs, 0.0)


def test_where_long_programs_are_longer_still_it_gets_worse() -> None:
    legs = itinerary(learned([100.0] * 50 + [100_000.0] * 50))
    assert level_at(legs, 5000.0) > level_at(legs, 0.0)


def test_an_itinerary_begins_at_what_the_program_has_had() -> None:
    history = learned([20_000.0] * 50)
    whole, later = itinerary(history), itinerary(history, 17_000.0)
    assert level_at(later, 0.0) == level_at(whole, 17_000.0)


def test_a_kind_of_which_none_has_ended_is_not_taken_for_short() -> None:
    """Its young do not go before its old: then none would ever end."""
    history = ServiceHistory(known=True)
    for _ in range(40):
        history.moved(None, 8000.0)
    young, old = itinerary(history)[0][0], itinerary(history, 8000.0)[0][0]
    assert old <= young
    assert young > 0


def test_a_program_is_counted_where_it_is_and_not_when_it_idles() -> None:
    history = learned([300.0] * 20)
    before = history.programs
    place = history.moved(None, 0.0)
    assert history.programs == before + 1
    place = history.moved(place, 5000.0)
    assert history.programs == before + 1
    assert history.moved(place, None) is None
    assert history.programs == before


def test_programs_of_no_known_kind_teach_no_order() -> None:
    """A mixture's young programs are not all short; they are left to attained service."""
    assert itinerary(learned([300.0] * 50, known=False)) == ()


def test_it_follows_a_kind_that_changes() -> None:
    (level, _), *_ = itinerary(learned([300.0] * 2000 + [60_000.0] * 4000))
    assert level >= LEVELS.level_of(10_000.0)


def test_histories_are_each_tenants_own() -> None:
    forecast = Forecast(LEVELS)
    mine = forecast.history("me", "kind")
    assert forecast.history("me", "kind") is mine
    assert forecast.history("me", "other") is not mine
    assert forecast.history("another", "kind") is not mine
    assert mine.known
    assert not forecast.history("me", None).known


def test_no_more_kinds_are_kept_than_asked() -> None:
    forecast = Forecast(LEVELS, max_kinds=2)
    first = forecast.history("", "a")
    for kind in ("b", "c"):
        forecast.history("", kind)
    assert forecast.history("", "a") is not first


@given(services_ms, st.floats(0, 1e7))
def test_every_itinerary_is_short_and_its_last_leg_has_no_end(
    services: list[float], attained_ms: float
) -> None:
    legs = itinerary(learned(services), attained_ms)
    *rest, (_, last) = legs
    assert 1 <= len(legs) <= MAX_LEGS
    assert last is None
    assert all(0 <= level < LEVELS.count for level, _ in legs)
    assert all(quantum_ms is not None and quantum_ms > 0 for _, quantum_ms in rest)


# -- hints ----------------------------------------------------------------------------------------


def test_a_program_said_to_be_short_goes_sooner_and_one_said_to_be_long_later() -> None:
    history = learned([20_000.0, 30_000.0, 40_000.0] * 10)
    plain, less, more = (
        level_at(itinerary(history, 5000.0, hints), 0.0)
        for hints in (None, Hints(calls=3), Hints(calls=500))
    )
    assert less < plain < more


def test_a_program_that_has_had_more_than_was_said_is_as_if_nothing_was_said() -> None:
    """From the moment on, also within a call."""
    history = learned([30_000.0] * 30, calls=10)
    assert itinerary(history, 5000.0, Hints(calls=1)) == itinerary(history, 5000.0)
    hinted, plain = itinerary(history, 0.0, Hints(calls=3)), itinerary(history)
    assert level_at(hinted, 0.0) < level_at(plain, 0.0)
    assert level_at(hinted, 15_000.0) == level_at(plain, 15_000.0)


def test_a_client_that_says_too_little_of_one_thing_is_held_to_the_other() -> None:
    history = learned([30_000.0] * 30)
    both, one = (
        itinerary(history, 0.0, hints)
        for hints in (Hints(calls=1, tokens=2000), Hints(tokens=2000))
    )
    assert both == one


def test_before_any_program_has_ended_a_hint_means_nothing() -> None:
    assert itinerary(ServiceHistory(known=True), 0.0, Hints(calls=1)) == ()


def test_in_an_unknown_kind_a_hint_corrects_attained_service() -> None:
    history = learned([5000.0] * 50, known=False, calls=1)
    legs = itinerary(history, 50_000.0, Hints(calls=11))
    assert level_at(legs, 0.0) == LEVELS.level_of(50_000.0) - 1


@given(
    services_ms,
    st.floats(0, 1e6),
    st.one_of(st.none(), st.integers(1, 10**9)),
    st.one_of(st.none(), st.integers(1, 10**9)),
    st.booleans(),
)
def test_whatever_is_said_moves_a_call_up_by_one_level_at_most(
    services: list[float],
    attained_ms: float,
    calls: int | None,
    tokens: int | None,
    known: bool,
) -> None:
    """The clamp is a factor of two in rank, which is a level of the default growth."""
    assert HINT_CLAMP == 2.0
    history = learned(services, known=known)
    plain, said = (itinerary(history, attained_ms, hints) for hints in (None, Hints(calls, tokens)))
    fair = plain[0][0] if plain else LEVELS.level_of(attained_ms)
    assert fair - (said[0][0] if said else fair) <= 1


@pytest.mark.parametrize("hints", [None, Hints(calls=3)])
def test_the_same_history_gives_the_same_itinerary(hints: Hints | None) -> None:
    services = [float(number * number) for number in range(1, 40)]
    assert itinerary(learned(services), 77.0, hints) == itinerary(learned(services), 77.0, hints)
