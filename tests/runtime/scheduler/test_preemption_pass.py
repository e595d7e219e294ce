"""Memory pressure with a cache that holds on to what is inserted, as a host tier does."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from autellix_sgl.runtime.scheduler import preemption, preemption_pass
from autellix_sgl.runtime.scheduler.preemption_pass import PreemptionPass
from tests.runtime.scheduler.requests import House, Request

POOL = 1000


@dataclass
class Tree:
    """Contexts that are kept can be evicted, unless their copy to the host has them *locked*.

    ``backs_up``: whatever is inserted below the threshold is copied, as with ``write_through``.
    """

    backs_up: bool = True
    always_locks: bool = False
    write_through_threshold: int = 1
    free: int = 0
    evictable: int = 0
    locked: int = 0
    dropped: int = 0

    def supports_mamba(self) -> bool:
        return False

    def release(self, request: Any, *, checkpoint: bool) -> None:
        if not checkpoint:
            self.free += request.seqlen
            self.dropped += 1
        elif self.always_locks or (self.backs_up and self.write_through_threshold <= 1):
            self.locked += request.seqlen
        else:
            self.evictable += request.seqlen


@dataclass
class Batch:
    reqs: list[Any]
    tree_cache: Tree
    needs: int
    batch_is_full: bool = False

    def filter_batch(self, keep_indices: list[int] | None = None) -> None:
        if keep_indices is not None:
            self.reqs = [self.reqs[i] for i in keep_indices]

    def check_decode_mem(self) -> bool:
        return self.tree_cache.free + self.tree_cache.evictable >= self.needs


@dataclass
class Stream:
    waited_for: list[object] = field(default_factory=list)

    def wait_stream(self, other: object) -> None:
        self.waited_for.append(other)


def pressed(
    monkeypatch: pytest.MonkeyPatch, tree: Tree, *, calls: int, needs: int, host_tier: bool = True
) -> tuple[PreemptionPass, Batch, Any]:
    """*calls* of 100 tokens run, nothing is free, and the next step needs *needs*."""
    house = House()
    requests = [house.arrive(str(number)) for number in range(calls)]
    for request in requests:
        request.seqlen = 100
        house.waiting.admit(request)

    def release_kv_cache(request: Request, cache: Tree, *, checkpoint: bool) -> None:
        cache.release(request, checkpoint=checkpoint)

    monkeypatch.setattr(preemption, "release_kv_cache", release_kv_cache)
    monkeypatch.setattr(Request, "reset_for_retract", lambda _: None, raising=False)
    monkeypatch.setattr(preemption_pass, "can_be_preempted", lambda _: True)
    ratio = SimpleNamespace(estimate_new_token_ratio_after_retract=lambda _: 0.5)
    monkeypatch.setattr(preemption_pass, "NewTokenRatioTracker", ratio)

    def budget(cache: Tree) -> Any:
        return SimpleNamespace(remaining_total=cache.free + cache.evictable)

    scheduler = SimpleNamespace(
        calls=house.calls,
        ledger=house.ledger,
        waiting=house.waiting,
        counters=house.counters,
        recomputation=SimpleNamespace(taken_out=lambda _: None),
        digest=SimpleNamespace(taken_out=lambda _: None),
        tree_cache=tree,
        token_to_kv_pool_allocator=SimpleNamespace(create_prefill_budget=budget),
        new_token_ratio_tracker=SimpleNamespace(current=1.0),
        is_hybrid_swa=False,
        enable_overlap=True,
        enable_hierarchical_cache=host_tier,
        schedule_stream=Stream(),
        forward_stream=object(),
        _reqs_finishing_inflight=lambda _: [],
    )
    batch: Any = Batch(list(requests), tree, needs)
    making: Any = PreemptionPass(scheduler)  # type: ignore[arg-type]
    return making, batch, scheduler


def test_what_a_victim_leaves_is_not_copied_while_room_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Write-through would lock each victim's context; it takes the two victims that it takes."""
    tree = Tree()
    making, batch, _ = pressed(monkeypatch, tree, calls=8, needs=150)
    victims = making.make_room(batch)
    assert [request.rid for request in victims] == ["7", "6"]
    assert (tree.evictable, tree.locked, tree.dropped) == (200, 0, 0)
    assert tree.write_through_threshold == 1


def test_a_cache_that_locks_whatever_comes_does_not_empty_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After one victim that made no room the next ones free theirs: no more than it takes."""
    tree = Tree(always_locks=True)
    making, batch, _ = pressed(monkeypatch, tree, calls=8, needs=150)
    victims = making.make_room(batch)
    assert [request.rid for request in victims] == ["7", "6", "5"]
    assert (tree.free, tree.locked, tree.dropped) == (200, 100, 2)
    assert len(batch.reqs) == 5


@pytest.mark.parametrize("host_tier", [True, False])
def test_with_a_host_tier_the_step_in_flight_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, host_tier: bool
) -> None:
    """What is evicted is copied at once, and the step that writes it may not have run."""
    making, batch, scheduler = pressed(monkeypatch, Tree(), calls=3, needs=50, host_tier=host_tier)
    making.make_room(batch)
    expected = [scheduler.forward_stream] if host_tier else []
    assert scheduler.schedule_stream.waited_for == expected


def test_the_threshold_is_put_back_when_a_release_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the cache leaves its own setting as it was."""
    tree = Tree()

    def fails(*_: Any, **__: Any) -> None:
        assert tree.write_through_threshold == sys.maxsize
        raise RuntimeError("no")

    monkeypatch.setattr(preemption, "release_kv_cache", fails)
    request: Any = Request("r")
    with pytest.raises(RuntimeError, match="no"):
        preemption.release(request, tree)
    assert tree.write_through_threshold == 1


def test_nobody_makes_room_that_a_result_in_flight_will_make(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Upstream waits a step for it; a victim would be taken out for nothing."""
    making, batch, scheduler = pressed(monkeypatch, Tree(), calls=3, needs=150)
    scheduler._reqs_finishing_inflight = lambda running: running.reqs[:1]
    assert making.make_room(batch) == []
    assert len(batch.reqs) == 3


@pytest.mark.parametrize(("running", "stays_full"), [(2, True), (0, False)])
def test_a_full_batch_is_looked_at_again_at_the_next_pass(
    running: int, stays_full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when upstream has seen a call finish; an empty one at once."""
    making, batch, _ = pressed(monkeypatch, Tree(), calls=running, needs=0)
    making.was_full = True
    batch.batch_is_full = False
    assert making.consider(batch) == []
    assert batch.batch_is_full is stays_full
