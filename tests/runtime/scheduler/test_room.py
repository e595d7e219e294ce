"""Room is counted in the KV pool that is short of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import autellix_sgl.runtime  # noqa: F401 (prepares the process for sglang)
from autellix_sgl.runtime.scheduler.preemption_pass import PreemptionPass
from autellix_sgl.runtime.scheduler.room import Length, Room, room_in, short_of
from autellix_sgl.runtime.scheduler.waiting import WaitingCalls

WINDOW = 64


def test_a_pool_of_a_window_holds_no_more_than_that_of_a_request() -> None:
    """What a request has beyond it has left that pool again, and so has what is set aside."""
    pool = room_in(100, [Length(200, 50), Length(10, 20), Length(60, 20)], WINDOW)
    assert pool == Room(100 - 0 - 20 - 4, WINDOW)
    assert pool.taken_by(1000) == WINDOW
    assert room_in(100, [Length(200, 50)]) == Room(50)
    assert Room(0).taken_by(1000) == 1000


def test_the_pool_that_is_short_is_the_one_that_counts() -> None:
    """The pool of all tokens if both are, or neither is."""
    roomy, tight = Room(1000), Room(30, WINDOW)
    assert short_of(100, (roomy, tight)) == tight
    assert short_of(20, (roomy, tight)) == roomy
    assert short_of(2000, (roomy, tight)) == roomy


@given(
    st.integers(-100, 1000),
    st.lists(st.builds(Length, st.integers(0, 300), st.integers(0, 300)), max_size=5),
)
def test_without_a_window_room_is_what_it_always_was(free: int, running: list[Length]) -> None:
    """Free tokens less all that is set aside."""
    assert room_in(free, running).free == free - sum(length.reserved for length in running)


class Queue(WaitingCalls):
    """Two waiting calls of new programs."""

    def __init__(self) -> None:
        pass

    def offered(self) -> Any:
        return iter([request("new", 40), request("newer", 40)])


def request(rid: str, tokens: int) -> Any:
    return SimpleNamespace(
        rid=rid,
        seqlen=tokens,
        num_matched_prefix_tokens=0,
        output_ids=[],
        sampling_params=SimpleNamespace(max_new_tokens=100, ignore_eos=False),
    )


def preemption_pass(*, hybrid: bool, all_tokens: int, of_windows: int) -> PreemptionPass:
    """One whose scheduler has that many tokens free in its pools, and calls waiting."""
    budget = SimpleNamespace(remaining_total=all_tokens, remaining_swa=of_windows)
    scheduler: Any = SimpleNamespace(
        token_to_kv_pool_allocator=SimpleNamespace(create_prefill_budget=lambda tree: budget),
        tree_cache=SimpleNamespace(sliding_window_size=WINDOW),
        page_size=1,
        is_hybrid_swa=hybrid,
        waiting=Queue(),
        new_token_ratio_tracker=SimpleNamespace(current=0.5),
        schedule_policy="fcfs",
        calls=SimpleNamespace(call=lambda rid: SimpleNamespace(key=(0, rid))),
    )
    made = PreemptionPass(scheduler)
    made.memory_is_short = True
    return made


def test_preemption_counts_the_windows_where_only_they_are_short() -> None:
    """Candidates ask for a window's tokens, and that is what a running call would free."""
    batch: Any = SimpleNamespace(reqs=[request("old", 500)])
    made = preemption_pass(hybrid=True, all_tokens=10_000, of_windows=10)
    room = made._room(batch)
    assert room == Room(10, WINDOW + 1)
    assert [candidate.tokens for candidate in made._candidates(room)] == [WINDOW + 1] * 2


def test_preemption_counts_all_tokens_where_they_are_short() -> None:
    """With windows, too, and of course without."""
    batch: Any = SimpleNamespace(reqs=[request("old", 500)])
    for hybrid, all_tokens, of_windows in ((True, 100, 10), (True, 1000, 1000), (False, 1000, 0)):
        made = preemption_pass(hybrid=hybrid, all_tokens=all_tokens, of_windows=of_windows)
        room = made._room(batch)
        assert room == Room(all_tokens - 50)
        assert [candidate.tokens for candidate in made._candidates(room)] == [141] * 2
