"""The best that any eviction could have found: Belady's, over the uses that a run has made.

A run's eviction is judged by the uses that it led to: which contexts were taken, let grow and let
go, in which order. Over the same uses, evicting what is used furthest in the future keeps the most
(tokens cost alike to compute), and nobody who does not know the future can do better.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autellix_sgl.sim.branch import Branch
from autellix_sgl.sim.eviction import EvictionOrder
from autellix_sgl.sim.prefix_cache import PrefixCache


@dataclass(frozen=True, slots=True)
class Use:
    """A context's first ``length`` tokens are taken, or let go with ``grown`` tokens more.

    Without a branch: running calls have written ``grown`` tokens.
    """

    branch: Branch | None
    length: int
    grown: int = 0
    taken: bool = False
    again: bool = False


class RecordedCache(PrefixCache):
    """A pool that remembers what it was asked, to be judged by :meth:`hit_rates` afterwards."""

    def __init__(
        self, capacity: int, *, shared: bool = True, order: EvictionOrder | None = None
    ) -> None:
        super().__init__(capacity, shared=shared, order=order)
        self._made_uses: list[Use] = []
        self._found = 0

    def acquire(self, branch: Branch, length: int, *, again: bool = False) -> None:
        self._made_uses.append(Use(branch, length, taken=True, again=again))
        if not again:
            self._found += _found(self, branch, length)
        super().acquire(branch, length, again=again)

    def grow(self, tokens: int) -> None:
        self._made_uses.append(Use(None, 0, tokens))
        super().grow(tokens)

    def release(self, branch: Branch, length: int, grown: int) -> None:
        self._made_uses.append(Use(branch, length, grown))
        super().release(branch, length, grown)

    def hit_rates(self) -> tuple[float, float]:
        """The share of the prompts' tokens that was found, and the share that could have been.

        Of calls that come back after a preemption nothing is counted, as in the hit rate.
        """
        asked = sum(use.length for use in self._made_uses if use.taken and not use.again)
        best = _Clairvoyant(self.capacity, self._made_uses).play()
        return self._found / max(1, asked), best / max(1, asked)


def _found(cache: PrefixCache, branch: Branch, length: int) -> int:
    """Tokens that need no computing; the last always does."""
    return min(cache.matched(branch, length), length - 1)


class _Clairvoyant(PrefixCache):
    def __init__(self, capacity: int, uses: Sequence[Use]) -> None:
        super().__init__(capacity)
        self._made_uses = uses
        self._now = 0
        self._copies: dict[int, Branch] = {}
        self._evictable: dict[int, Branch] = {}
        # By branch: the numbers of the uses that need it, how much of it each needs, and whether
        # the last token of that is the context's, which is computed in any case.
        self._needed_at: dict[int, list[int]] = {}
        self._needed: dict[int, list[tuple[int, bool]]] = {}
        for number, use in enumerate(uses):
            if use.taken and use.branch is not None:
                for depth, (branch, tokens) in enumerate(_needs(use.branch, use.length)):
                    self._needed_at.setdefault(branch.number, []).append(number)
                    self._needed.setdefault(branch.number, []).append((tokens, depth == 0))

    def play(self) -> int:
        """Make all uses; returns the tokens found."""
        found = 0
        for number, use in enumerate(self._made_uses):
            self._now = number
            if use.branch is None:
                self.grow(use.grown)
                continue
            branch = self._copy_of(use.branch)
            if use.taken:
                if not use.again:
                    found += _found(self, branch, use.length)
                self.acquire(branch, use.length)
            else:
                self.release(branch, use.length, use.grown)
        return found

    def _copy_of(self, branch: Branch) -> Branch:
        """The branch in this pool that stands for one of the run's."""
        if branch.number not in self._copies:
            parent = None if branch.parent is None else self._copy_of(branch.parent)
            self._copies[branch.number] = Branch(branch.number, parent, branch.start, branch.tip)
        return self._copies[branch.number]

    def shrink(self) -> None:
        while self.used > self.capacity:
            leaves = [branch for branch in self._evictable.values() if branch.evictable]
            self._evictable = {branch.number: branch for branch in leaves}
            if not leaves:
                return
            _, _, keep, branch = max(self._last_use(branch) for branch in leaves)
            self._resize(branch, max(keep, branch.held - (self.used - self.capacity)))
            self._offer(branch)

    def _last_use(self, branch: Branch) -> tuple[float, int, int, Branch]:
        """When the end of what is held is needed next, and how much is needed before that."""
        times, needs = self._needed_at.get(branch.number, []), self._needed.get(branch.number, [])
        keep = 0
        for index in range(bisect_right(times, self._now), len(times)):
            tokens, is_end = needs[index]
            if is_end and tokens == branch.held:
                return (math.inf, branch.number, branch.held - 1, branch)
            if tokens >= branch.held:
                return (times[index], branch.number, keep, branch)
            keep = max(keep, tokens)
        return (math.inf, branch.number, keep, branch)

    def _offer(self, branch: Branch) -> None:
        self._evictable[branch.number] = branch


def _needs(branch: Branch, length: int) -> Iterable[tuple[Branch, int]]:
    """The branches that a context's first *length* tokens lie on, with how much of each."""
    node: Branch | None = branch
    while node is not None:
        if length > node.start:
            yield node, length - node.start
        length, node = min(length, node.start), node.parent
