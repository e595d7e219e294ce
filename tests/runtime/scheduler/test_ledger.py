"""The ledger: a request is known by itself, and a fault of ours costs nobody an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import CallStamp
from autellix_sgl.runtime.scheduler.ledger import STAMP_ATTRIBUTE
from tests.runtime.scheduler.requests import House, Request


def test_a_finished_request_that_is_seen_again_does_not_take_its_namesake_along() -> None:
    """Under overlap a request leaves twice; the next one of its id is another call."""
    house = House()
    first = house.arrive("same")
    house.waiting.admit(first)
    house.ledger.left(first)
    second = house.arrive("same")
    house.ledger.left(first)
    assert second in house.ledger
    assert list(house.waiting) == [second]
    house.waiting.admit(second)
    house.ledger.left(second)
    assert len(house.ledger) == 0


def test_a_request_that_never_was_a_call_leaves_without_a_trace() -> None:
    """Refused before it was queued: nothing is kept of it, its stamp neither."""
    house = House()
    refused = Request("refused")
    house.ledger.tag(refused, CallStamp(program="p"))
    house.ledger.left(refused)
    later = Request("refused")
    house.waiting.append(later)
    assert house.ledger.stamp_of(later).program == "refused"
    assert house.counters.accounting_faults == 0


def test_a_stamp_waits_with_a_request_whose_grammar_is_compiled() -> None:
    """It is tagged when it is made, and queued when others have come and gone."""
    house = House()
    slow, other = Request("slow"), Request("other")
    house.ledger.tag(slow, CallStamp(program="mine", priority_ms=5.0))
    house.ledger.tag(other, CallStamp(program="its"))
    house.waiting.append(other)
    house.waiting.append(slow)
    assert house.ledger.stamp_of(slow).program == "mine"
    assert house.calls.call("slow").level == 1


def test_time_preempted_is_not_time_running() -> None:
    """What SGLang's running timeout counts from moves on by the wait."""
    house = House()
    request = house.arrive("r")
    request.time_stats.wait_queue_entry_time = 0.5
    request.time_stats.forward_entry_time = request.time_stats.last_forward_entry_time = 1.0
    house.waiting.admit(request)
    assert request.time_stats.forward_entry_time == 1.0
    house.waiting.append(request)
    request.time_stats.wait_queue_entry_time = 3.0
    request.time_stats.last_forward_entry_time = 9.0
    house.waiting.admit(request)
    assert request.time_stats.forward_entry_time == 7.0


@pytest.mark.parametrize("strict", [True, False])
def test_what_is_left_over_when_nothing_runs_is_mended_and_counted(strict: bool) -> None:
    """The tests' servers end on it; others go on, with nothing left."""
    house = House(strict=strict)
    house.waiting.admit(house.arrive("lost"))
    if strict:
        with pytest.raises(AssertionError, match="lost"):
            house.ledger.expect_nothing()
        return
    house.ledger.expect_nothing()
    assert house.counters.accounting_faults == 1
    assert house.calls.num_running == len(house.ledger) == 0


def test_a_running_call_that_is_in_no_batch_is_found_by_the_second_audit() -> None:
    """One audit can meet a request on its way; two in a row cannot."""
    house = House(strict=False)
    here, lost = house.arrive("here"), house.arrive("lost")
    for request in (here, lost):
        house.waiting.admit(request)
    house.ledger.audit([here])
    assert house.calls.num_running == 2
    house.ledger.audit([here, lost])
    house.ledger.audit([here])
    assert house.calls.num_running == 2
    house.ledger.audit([here])
    assert list(house.calls.running()) == ["here"]
    assert house.counters.accounting_faults == 1


def test_a_second_request_with_a_live_id_replaces_the_first_in_the_account() -> None:
    """It cannot come about by a client; if it does, the one that is here runs on, uncharged."""
    house = House(strict=False)
    first, second = house.arrive("twice"), house.arrive("twice")
    assert first not in house.ledger
    assert second in house.ledger
    assert list(house.waiting) == [second]
    house.ledger.left(first)
    assert second in house.ledger


events = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=60)


@given(events)
def test_whatever_happens_the_account_and_the_queue_agree(steps: list[tuple[int, int]]) -> None:
    """Requests of six ids arrive, run, come back and leave in any order, sensible or not."""
    house = House(strict=False)
    latest: dict[int, Request] = {}
    for number, event in steps:
        request = latest.get(number)
        if request is None or event == 0:
            latest[number] = house.arrive(str(number))
        elif event == 1:
            house.waiting.admit(request)
        elif event == 2:
            house.waiting.append(request)
        elif event == 3:
            house.ledger.left(request)
            house.waiting.remove(request)
        else:
            house.waiting.remove(request)
        house.calls.check()
        waiting = list(house.waiting)
        assert len(waiting) == len(house.waiting) == house.calls.num_waiting
        assert all(request in house.ledger for request in waiting)
    house.ledger.expect_nothing()
    assert house.calls.num_running == len(house.ledger) == 0
    assert not hasattr(Request("x"), STAMP_ATTRIBUTE)
