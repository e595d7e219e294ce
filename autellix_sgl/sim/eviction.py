"""Which of the contexts that nobody runs on leaves the KV pool first."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Protocol

from autellix_sgl.core import CallScheduler
from autellix_sgl.core.memory.program_memory import LRU, Worth
from autellix_sgl.sim.branch import Branch
from autellix_sgl.sim.seam import Scheduler


class EvictionOrder(Protocol):
    """Knows the branches that it was offered, and passes over those that cannot go any more."""

    def offer(self, branch: Branch) -> None:
        """The branch can be evicted from now on, or has been used since it was offered."""

    def first(self) -> Branch | None:
        """The branch to evict first, which is not known any more; None if there is none."""


class LeastRecent:
    """SGLang's default: the branch whose last use is longest ago."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Branch]] = []

    def offer(self, branch: Branch) -> None:
        heappush(self._heap, (branch.used_at, branch.number, branch))

    def first(self) -> Branch | None:
        while self._heap:
            used_at, _, branch = heappop(self._heap)
            if branch.evictable and branch.used_at == used_at:
                return branch
        return None


class LeastWorth:
    """The branch of which *worth_of* says least now; of equals the least recently used."""

    def __init__(self, worth_of: Callable[[Branch], Worth]) -> None:
        self._worth_of = worth_of
        self._leaves: dict[int, Branch] = {}

    def offer(self, branch: Branch) -> None:
        self._leaves[branch.number] = branch

    def first(self) -> Branch | None:
        self._leaves = {n: branch for n, branch in self._leaves.items() if branch.evictable}
        if not self._leaves:
            return None
        least = min(self._leaves.values(), key=lambda b: (self._worth_of(b), b.used_at, b.number))
        return self._leaves.pop(least.number)


def eviction_order(scheduler: Scheduler, eviction: str) -> EvictionOrder:
    """The named order; by value, it is *scheduler* that says what a context is worth."""
    if eviction == LRU or not isinstance(scheduler, CallScheduler):
        return LeastRecent()

    def worth_of(branch: Branch) -> Worth:
        return scheduler.worth(branch.program or None, branch.thread, branch.used_ms)

    return LeastWorth(worth_of)
