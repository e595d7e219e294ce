"""How much room a KV pool has, and how much of it a request takes.

With sliding-window layers there are two pools: one holds every token of a request, the other those
in its window. A preemption makes room in both, so it is enough to count in the one that is short.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Length(NamedTuple):
    """Of a running request: tokens it has, and tokens that are set aside for what it may make."""

    tokens: int
    reserved: int


@dataclass(frozen=True, slots=True)
class Room:
    """One pool; ``free`` tokens are neither held nor set aside, negative if too many are.

    ``window``: the most tokens of a request that this pool holds, None if it holds all.
    """

    free: int
    window: int | None = None

    def taken_by(self, tokens: int) -> int:
        """What a request of *tokens* takes of this pool, in tokens."""
        return tokens if self.window is None else min(tokens, self.window)


def room_in(free: int, running: Iterable[Length], window: int | None = None) -> Room:
    """A pool with *free* tokens, less what is set aside for *running*."""
    pool = Room(free, window)
    aside = sum(
        pool.taken_by(length.tokens + length.reserved) - pool.taken_by(length.tokens)
        for length in running
    )
    return Room(free - aside, window)


def short_of(asked: int, pools: Iterable[Room]) -> Room:
    """The first of *pools* that has no room for a request of *asked* tokens, or the first."""
    every = list(pools)
    return next((pool for pool in every if pool.taken_by(asked) > pool.free), every[0])
