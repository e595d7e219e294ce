"""When waiting calls starve: Algorithm 1's rule, known in advance.

A call starves once (W + w) / (T + t) reaches the ratio. While it waits only w grows, so the moment
is known when the wait begins, and only the calls that are due are looked at.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush

from autellix_sgl.core.calls.levels import Levels
from autellix_sgl.core.calls.model import Call
from autellix_sgl.errors import ConfigError


class Starvation:
    """The clock readings at which the waiting calls are due. ``ratio`` is beta; 0: never."""

    def __init__(self, ratio: float, levels: Levels) -> None:
        if ratio < 0:
            raise ConfigError(f"starvation ratio must be >= 0, got {ratio}")
        self.ratio = ratio
        self._levels = levels
        # When each waiting call is due, and its ticket then; the heap has older waits' entries too.
        self._due: dict[str, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, str]] = []

    def begin(self, call: Call, clock_ms: float) -> None:
        """A call begins to wait. At the top there is nowhere to be promoted to."""
        if self.ratio <= 0 or call.level == 0:
            return
        stamp = call.stamp
        service_ms = stamp.program_service_ms
        if stamp.itinerary:
            # Attained service brings a call to its level by itself. A kind that is known to be
            # long begins there, and would starve by the rule before it has waited at all.
            service_ms = max(service_ms, self._levels.boundaries_ms[call.level - 1])
        due_ms = (
            clock_ms
            + self.ratio * (service_ms + call.recent_service_ms)
            - stamp.program_wait_ms
            - call.recent_wait_ms
        )
        self._due[call.id] = (due_ms, call.ticket)
        heappush(self._heap, (due_ms, call.ticket, call.id))
        self._forget_stale()

    def end(self, call: Call) -> None:
        """A call stops to wait."""
        self._due.pop(call.id, None)

    def next_due(self, clock_ms: float) -> str | None:
        """A call that is due, the longest first; it is not due again before it waits anew."""
        while self._heap and self._heap[0][0] <= clock_ms:
            due_ms, ticket, call_id = heappop(self._heap)
            if self._due.get(call_id) == (due_ms, ticket):
                del self._due[call_id]
                return call_id
        return None

    @property
    def next_due_ms(self) -> float:
        """The reading at which a call may next be due, or infinity.

        Never too late; too early when the entry's wait is over, which next_due clears.
        """
        return self._heap[0][0] if self._heap else math.inf

    def _forget_stale(self) -> None:
        """Rebuild the heap once most of its entries are of waits that are over (amortised O(1))."""
        if len(self._heap) > 64 + 2 * len(self._due):
            self._heap = [(*due, call_id) for call_id, due in self._due.items()]
            heapify(self._heap)
