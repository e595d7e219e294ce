"""Why calls wait: each step's time, for each waiting call, goes to one reason.

    share   who keeps it waiting has a tenant with an earlier turn
    level   who keeps it waiting has a better level
    memory  nobody better does; the KV pool has no room for the next call
    slots   nobody better does; the batch is full, or the step's prefill budget is

Who keeps a call waiting is the *front*: the better of the best waiting call and the worst running
one. A call behind the front waits for its standing, a call of the front's own standing for room. So
at any moment all waiting calls of one standing wait for one reason, and time is kept by standing
and not by call: a step adds to two sums, and a call that stops to wait reads how far they have come
since it began.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

Standing = tuple[int, int]
"""Turn and level of a call, which others may share; the turn is 0 where tenants have no shares."""

Mark = tuple[float, float, float]
"""Time that the front was in a standing's turn, and of it there, for memory and for slots."""

START: Mark = (0.0, 0.0, 0.0)

# A nanosecond: what is less in a split of a wait is rounding.
GRAIN_MS = 2.0**-20

# Standings are looked through for such as nobody can have any more when there are so many, or
# three times as many as were kept the last time.
FEW_STANDINGS = 256


class Reason(StrEnum):
    """Why a call waits, in the order in which the reasons apply."""

    ADMISSION = "admission"
    SHARE = "share"
    LEVEL = "level"
    MEMORY = "memory"
    SLOTS = "slots"


REASONS = tuple(Reason)
NO_WAITS = (0.0,) * len(REASONS)


class WaitClock:
    """Sums of time by standing of the front; see the module's docstring.

    A tenant's calls change their standing together, when its turn changes. Then an offset for each
    level makes up for the difference between the sums, so that no call need be looked at.
    """

    def __init__(self) -> None:
        self._in_turn: dict[int, float] = {}
        self._at_front: dict[Standing, tuple[float, float]] = {}
        self._offsets: dict[str, dict[int, Mark]] = {}
        self._sweep_at = FEW_STANDINGS

    def advance(self, front: Standing, ms: float, short_of: Reason) -> None:
        """Time passes while *front* is the front and *short_of* (memory or slots) the shortage."""
        turn = front[0]
        self._in_turn[turn] = self._in_turn.get(turn, 0.0) + ms
        memory, slots = self._at_front.get(front, (0.0, 0.0))
        if short_of is Reason.MEMORY:
            memory += ms
        else:
            slots += ms
        self._at_front[front] = (memory, slots)

    def begin(self, tenant: str, standing: Standing) -> Mark:
        """A call of that standing begins to wait; the mark is for :meth:`end`."""
        self._offsets.setdefault(tenant, {}).setdefault(standing[1], START)
        return self._read(tenant, standing)

    def end(self, tenant: str, standing: Standing, mark: Mark, waited_ms: float) -> Sequence[float]:
        """What a wait of *waited_ms* was for, by REASONS; the sum can be off by rounding."""
        in_turn, memory, slots = _difference(self._read(tenant, standing), mark)
        share = max(0.0, waited_ms - in_turn)
        level = max(0.0, in_turn - memory - slots)
        return (0.0, share, level, memory, slots)

    def move(self, tenant: str, before: int, after: int) -> None:
        """A tenant's turn changed, and with it the standing of all its calls."""
        offsets = self._offsets.get(tenant, {})
        for level in offsets:
            now = self._read(tenant, (before, level))
            offsets[level] = _difference(now, self._sums((after, level)))

    def forget(self, tenant: str) -> None:
        """None of the tenant's calls waits."""
        self._offsets.pop(tenant, None)

    def forget_turns_before(self, turn: int) -> None:
        """No call that waits is in an earlier turn than that (amortised O(1))."""
        if len(self._at_front) < self._sweep_at:
            return
        self._in_turn = {t: ms for t, ms in self._in_turn.items() if t >= turn}
        self._at_front = {at: sums for at, sums in self._at_front.items() if at[0] >= turn}
        self._sweep_at = FEW_STANDINGS + 2 * len(self._at_front)

    def _read(self, tenant: str, standing: Standing) -> Mark:
        return _sum(self._sums(standing), self._offsets[tenant][standing[1]])

    def _sums(self, standing: Standing) -> Mark:
        memory, slots = self._at_front.get(standing, (0.0, 0.0))
        return (self._in_turn.get(standing[0], 0.0), memory, slots)


def settled(wait_ms: float, waits: Sequence[float]) -> tuple[float, ...]:
    """*waits* (by REASONS), made to add up to *wait_ms* exactly, in any order of addition.

    They are sums and differences of times in another order than *wait_ms* is, so the last bits
    differ. All but the longest are cut to whole grains, which are no finer than the last bit of
    *wait_ms*, and the longest gets what is left: sums of such numbers up to *wait_ms* are exact.
    """
    grain = max(GRAIN_MS, math.ulp(wait_ms))
    longest = max(range(len(waits)), key=waits.__getitem__)
    parts = list(waits)
    left = wait_ms
    for number, ms in enumerate(waits):
        if number != longest:
            part = min(ms, left)
            parts[number] = part - math.fmod(part, grain)
            left -= parts[number]
    parts[longest] = left
    return tuple(parts)


def by_reason(waits: Sequence[float]) -> list[tuple[Reason, float]]:
    """The reasons that took any time, the one that took most first."""
    found = [(reason, ms) for reason, ms in zip(REASONS, waits, strict=True) if ms > 0]
    return sorted(found, key=lambda pair: -pair[1])


def add(waits: Sequence[float], more: Sequence[float]) -> tuple[float, ...]:
    """Two splits of waits, added reason by reason."""
    return tuple(one + other for one, other in zip(waits, more, strict=True))


def _difference(one: Mark, other: Mark) -> Mark:
    return (one[0] - other[0], one[1] - other[1], one[2] - other[2])


def _sum(one: Mark, other: Mark) -> Mark:
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2])
