"""The queue and the window that admission walks."""

from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.runtime.scheduler.waiting import PASSED_OVER
from tests.runtime.scheduler.requests import House, Request


def test_a_window_draws_no_more_than_is_looked_at() -> None:
    """Ten thousand wait, two slots are free: three are drawn, and one more for each passed over."""
    house = House()
    seen: list[Request] = []
    requests = [house.arrive(str(number)) for number in range(10_000)]
    window = house.waiting.window(3, on_draw=seen.append)
    assert window.head == window.drawn == requests[:3]
    for number, request in enumerate(window):
        assert request is requests[number]
        if number == 6:
            break
    assert window.drawn == requests[:7]
    assert list(window) == requests[:7] == seen


def test_calls_that_cannot_run_yet_hold_up_only_so_many() -> None:
    """Behind candidates that are still on their way from storage others are offered, so many."""
    house = House()
    requests = [house.arrive(str(number)) for number in range(200)]
    window = house.waiting.window(2, on_draw=lambda _: None)
    assert list(window) == requests[: 2 + PASSED_OVER]


def test_a_request_that_is_queued_before_the_head_is_drawn_can_be_in_it() -> None:
    """Its grammar has just been compiled, and its program has had the least."""
    house = House()
    house.arrive("old", served_ms=100.0)
    window = house.waiting.window(1, on_draw=lambda _: None)
    fresh = Request("fresh")
    window.append(fresh)
    assert window.head == [fresh]


@given(st.lists(st.tuples(st.sampled_from([0.0, 3.0, 9.0]), st.booleans()), max_size=20))
def test_who_is_refused_is_the_last_in_order_that_never_ran(
    calls: list[tuple[float, bool]],
) -> None:
    """Whatever waits, preempted calls among it."""
    house = House()
    for number, (served_ms, ran) in enumerate(calls):
        request = house.arrive(str(number), served_ms=served_ms)
        if ran:
            house.waiting.admit(request)
            house.waiting.append(request)
    never_ran = [request for request in house.waiting if not house.ledger.has_run(request)]
    assert house.waiting.worst_that_never_ran() is (never_ran[-1] if never_ran else None)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 9.0])), max_size=20))
def test_with_shares_the_order_of_tenants_says_who_is_refused(
    calls: list[tuple[str, float]],
) -> None:
    """The last in the queue's own order, whoever's it is."""
    house = House(share_turn_ms=5.0)
    for number, (tenant, served_ms) in enumerate(calls):
        request = house.arrive(str(number), served_ms=served_ms, tenant=tenant)
        if tenant == "b":
            account = house.calls.call(request.rid).account
            assert account is not None
            house.calls._charge_share(house.calls.call(request.rid), 3.0)
    waiting = list(house.waiting)
    assert house.waiting.worst_that_never_ran() is (waiting[-1] if waiting else None)
