"""Why the calls of one scheduler wait: what of it a :class:`WaitClock` has to be told."""

from __future__ import annotations

from collections.abc import Mapping

from autellix_sgl.core.calls.account import Account
from autellix_sgl.core.calls.model import Call
from autellix_sgl.core.calls.queue import CallQueue
from autellix_sgl.core.calls.waits import NO_WAITS, Reason, Standing, WaitClock, add, settled
from autellix_sgl.core.scheduling.shares import SharedQueue


class WaitReasons:
    """Looks at a scheduler's *calls*, its *queue* and those *running*, and keeps its calls' waits.

    The front is looked for again only after something has happened that may have moved it.
    """

    def __init__(
        self, calls: Mapping[str, Call], queue: CallQueue | SharedQueue, running: Mapping[str, Call]
    ) -> None:
        self._calls = calls
        self._queue = queue
        self._running = running
        self._clock = WaitClock()
        self._front: Standing | None = None
        self.short_of = Reason.SLOTS

    def begin(self, call: Call) -> None:
        """The call was queued, or is held."""
        if call.held:
            return
        call.mark = self._clock.begin(call.tenant, call.standing)
        self._front = None

    def end(self, call: Call, waited_ms: float) -> None:
        """The call was taken out of where it waited, after *waited_ms* there."""
        call.waits = self._with(call, waited_ms)
        if call.account is not None and call.account.first is None:
            self._clock.forget(call.tenant)
        self._front = None

    def ran(self) -> None:
        """A running call left, or has another standing."""
        self._front = None

    def turned(self, account: Account, before: int) -> None:
        """A tenant has left the turn *before*, with all its calls."""
        self._clock.move(account.tenant, before, account.turn)
        self._front = None

    def pass_time(self, ms: float) -> None:
        """A step took *ms*."""
        if len(self._queue):
            if self._front is None:
                self._front = self._find_front()
            self._clock.advance(self._front, ms, self.short_of)

    def until_now(self, call: Call, clock_ms: float) -> tuple[float, tuple[float, ...]]:
        """How long the call has waited, and that by reason; the wait that goes on included."""
        if call.queued_at_ms is None:
            return call.wait_ms, settled(call.wait_ms, call.waits)
        waited_ms = clock_ms - call.queued_at_ms
        total_ms = call.wait_ms + waited_ms
        return total_ms, settled(total_ms, self._with(call, waited_ms))

    def _with(self, call: Call, waited_ms: float) -> tuple[float, ...]:
        if call.held:
            return add(call.waits, (waited_ms, *NO_WAITS[1:]))
        return add(call.waits, self._clock.end(call.tenant, call.standing, call.mark, waited_ms))

    def _find_front(self) -> Standing:
        """The better of the best waiting call's standing and the worst running one's."""
        best = self._calls[self._queue.head(1)[0]].standing
        self._clock.forget_turns_before(best[0])
        return min(best, max((call.standing for call in self._running.values()), default=best))
