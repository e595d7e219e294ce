"""How much service a program has yet to ask for, learned per kind: the order of ``gittins``.

Per kind it keeps a histogram of the total service that its programs had when they ended, and where
those are that have calls in the system. From these and from what a program has had, the Gittins
index says how soon its next milliseconds are likely to finish it, and the level that a call enters
follows; as the call is served, its rank changes, for better or worse, and the *itinerary* on its
stamp says when it is in which level.

A program that lapsed has ended, since a later call with its id is a new program to the table. One
that is idle may have ended already, and is not counted until it is known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from autellix_sgl.core.calls.levels import Levels
from autellix_sgl.core.calls.model import Itinerary
from autellix_sgl.core.programs.gittins import ranks_ms
from autellix_sgl.core.programs.histogram import GeometricHistogram
from autellix_sgl.core.programs.tenant_cache import TenantCache

# 10 ms to 17 hours of service.
FIRST_MS, GROWTH, BINS = 10.0, 1.25, 72
# Programs that count, the old ones less.
MEMORY = 1000.0
# Programs of a kind that must be known before its calls are ordered by what was learned. That they
# have ended is not asked: by attained service, a kind of equally long programs ends none of them
# while new ones come.
ENOUGH_PROGRAMS = 10
MAX_KINDS = 1024
# Legs of an itinerary; at the defaults a call stays in its level for about its attained service.
MAX_LEGS = 8
# A client's hint moves a call's rank by this factor at most: one level at the default growth.
HINT_CLAMP = 2.0
# Ranks are worked out again when the counts have changed in one program, or in this share of all.
REFRESH_SHARE = 1 / 32

UNKNOWN_KIND = "unknown"


@dataclass(frozen=True, slots=True)
class Hints:
    """What a client expects of a program in all: calls, and tokens that they generate."""

    calls: int | None = None
    tokens: int | None = None


class ServiceHistory:
    """One kind's programs: by service, those that ended and those with calls in the system.

    And what a call and a token of theirs cost, over those that ended. *known* is False for the
    programs of no known kind, which have nothing in common.
    """

    __slots__ = (
        "_alive",
        "_calls",
        "_ended",
        "_ranks",
        "_service_ms",
        "_stale_after",
        "_tokens",
        "known",
    )

    def __init__(self, *, known: bool) -> None:
        self.known = known
        self._ended = GeometricHistogram(first=FIRST_MS, growth=GROWTH, bins=BINS, memory=MEMORY)
        self._alive = [0] * BINS
        self._service_ms = self._calls = self._tokens = 0.0
        self._ranks: tuple[float, ...] = ()
        self._stale_after = 0.0

    def ended(
        self, service_ms: float, *, calls: int, tokens: int, elsewhere_ms: float = 0.0
    ) -> None:
        """A program ended that had *service_ms* in *calls*, which generated *tokens*.

        *elsewhere_ms* of its service it had in calls at another server, which are not among those.
        """
        self._ended.add(service_ms)
        fading = 1.0 - 1.0 / MEMORY
        self._service_ms = fading * self._service_ms + service_ms - elsewhere_ms
        self._calls = fading * self._calls + calls
        self._tokens = fading * self._tokens + tokens
        self._stale_after -= 1.0

    def moved(self, before: int | None, service_ms: float | None) -> int | None:
        """A program was counted in the bin *before* and has had *service_ms*; returns its bin.

        None: it has no call in the system.
        """
        now = None if service_ms is None else bisect_right(self.edges_ms, service_ms)
        if now != before:
            if before is not None:
                self._alive[before] -= 1
            if now is not None:
                self._alive[now] += 1
            self._stale_after -= 1.0
        return now

    @property
    def edges_ms(self) -> tuple[float, ...]:
        """Where bins of service end."""
        return self._ended.edges

    @property
    def programs(self) -> float:
        """How many are known, those that ended long ago counting less."""
        return self._ended.total + sum(self._alive)

    def ranks_ms(self) -> tuple[float, ...]:
        """The rank of a program in each bin, of which there must be some."""
        if self._stale_after <= 0:
            self._ranks = ranks_ms(self.edges_ms, self._ended.counts(), self._alive)
            self._stale_after = 1.0 + REFRESH_SHARE * self.programs
        return self._ranks

    def expected_ms(self, hints: Hints) -> float | None:
        """The total service that the hints amount to: the larger, where they differ."""
        said = []
        if hints.calls is not None and self._calls:
            said.append(hints.calls * self._service_ms / self._calls)
        if hints.tokens is not None and self._tokens:
            said.append(hints.tokens * self._service_ms / self._tokens)
        return max(said, default=None)


class Forecast:
    """Histories by tenant and kind, and the itineraries that follow from them.

    ``levels`` are the scheduler's: a rank stands where that much attained service would.
    """

    def __init__(self, levels: Levels, *, max_kinds: int = MAX_KINDS) -> None:
        self._levels = levels
        self._histories: TenantCache[str, ServiceHistory] = TenantCache(max_kinds)

    def history(self, tenant: str, kind: str | None) -> ServiceHistory:
        """What is known of a kind (None: of the programs of no known kind), and is to be told."""
        name = kind or UNKNOWN_KIND
        history = self._histories.find(tenant, name) or ServiceHistory(known=kind is not None)
        self._histories.put(tenant, name, history)
        return history

    def itinerary(
        self, history: ServiceHistory, attained_ms: float, hints: Hints | None = None
    ) -> Itinerary:
        """Where a call goes whose program has had *attained_ms*.

        Empty, which is the policy's own levels, for a kind that is not known, or too little.
        """
        learned = history.known and history.programs >= ENOUGH_PROGRAMS
        expected_ms = history.expected_ms(hints) if hints is not None else None
        if not learned and expected_ms is None:
            return ()
        ranks = history.ranks_ms() if learned else None

        def level_in(number: int, had_ms: float) -> int:
            # Without experience: least attained service first, as the policy's own levels have it.
            rank_ms = had_ms if ranks is None else ranks[number]
            # What has been exceeded was wrong, and counts for nothing.
            if expected_ms is not None and had_ms < expected_ms:
                said_ms = expected_ms - had_ms
                rank_ms = min(max(said_ms, rank_ms / HINT_CLAMP), rank_ms * HINT_CLAMP)
            return self._levels.level_of(rank_ms)

        return _legs(history.edges_ms, attained_ms, level_in)


def _legs(
    edges_ms: tuple[float, ...], attained_ms: float, level_in: Callable[[int, float], int]
) -> Itinerary:
    """(level, ms) for each run of bins with one level, the last without an end."""
    legs: list[tuple[int, float | None]] = []
    number, start_ms = bisect_right(edges_ms, attained_ms), attained_ms
    level, since_ms = level_in(number, start_ms), start_ms
    for edge_ms in edges_ms[number:]:
        number += 1
        following = level_in(number, edge_ms)
        if following != level:
            legs.append((level, edge_ms - since_ms))
            level, since_ms = following, edge_ms
            if len(legs) == MAX_LEGS - 1:
                break
    legs.append((level, None))
    return tuple(legs)
