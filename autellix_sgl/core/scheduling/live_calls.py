"""The calls of one scheduler, and where each of them is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from autellix_sgl.core.calls.account import Account
from autellix_sgl.core.calls.levels import Levels
from autellix_sgl.core.calls.model import Call
from autellix_sgl.core.calls.queue import CallQueue, Key
from autellix_sgl.core.memory.no_memory import NoMemory
from autellix_sgl.core.memory.program_memory import ProgramMemory
from autellix_sgl.core.scheduling.shares import NoShares, Shares
from autellix_sgl.core.scheduling.starvation import Starvation
from autellix_sgl.core.scheduling.wait_reasons import WaitReasons
from autellix_sgl.errors import UnknownCall


class LiveCalls:
    """Calls that run, wait and are offered, or wait and are held; and the clock they wait by.

    A held call is one whose program *memory* has not let in. The calls that are offered are in the
    order of their keys, those that are held by level and ticket, whatever turn their tenants are
    in. :class:`CallScheduler` adds the events; here are the moves between these places, and what
    can be asked.
    """

    def __init__(
        self,
        levels: Levels,
        shares: Shares | NoShares,
        memory: ProgramMemory | NoMemory,
        starvation: Starvation,
    ) -> None:
        self.levels = levels
        self.memory = memory
        self.clock_ms = 0.0
        self._calls: dict[str, Call] = {}
        self._running: dict[str, Call] = {}
        self._shares = shares
        self._queue = shares.queue
        self._held = CallQueue()
        self._waits = WaitReasons(self._calls, self._queue, self._running)
        self._shares.when_turned(self._waits.turned)
        self._starvation = starvation

    # -- questions ------------------------------------------------------------------------------

    def __contains__(self, call_id: object) -> bool:
        return call_id in self._calls

    def call(self, call_id: str) -> Call:
        """The live record of a call; raises UnknownCall."""
        try:
            return self._calls[call_id]
        except KeyError:
            raise UnknownCall(call_id, "was asked for, but is not here") from None

    def waits_of(self, call_id: str) -> tuple[float, tuple[float, ...]]:
        """How long a call has waited until now, and that by reason; raises UnknownCall."""
        return self._waits.until_now(self.call(call_id), self.clock_ms)

    def accounts(self) -> Iterable[Account]:
        """The tenants' accounts here, where they have shares."""
        return self._shares.accounts()

    def head(self, limit: int) -> list[str]:
        """At most *limit* ids of calls that wait and are not held, best first."""
        return self._queue.head(limit)

    def offered(self) -> Iterator[str]:
        """The ids of all calls that wait and are not held, best first."""
        return iter(self._queue)

    def waiting(self) -> Iterator[str]:
        """All waiting call ids, best first; those that are held come last."""
        return chain(self._queue, self._held)

    def worst_that_never_ran(self) -> str | None:
        """Of the waiting calls that were never admitted the worst; held ones are worse than others.

        Costs a look at each call that ran before and waits behind it.
        """
        worst_first = chain(self._held.worst_first(), self._queue.worst_first())
        return next((c for _, c in worst_first if not self._calls[c].preemptions), None)

    def ids(self) -> Iterator[str]:
        """All calls, in the order of their arrival."""
        return iter(self._calls)

    def running(self) -> Iterator[str]:
        """The calls in the batch, in the order of their admission."""
        return iter(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._queue) + len(self._held)

    @property
    def num_held(self) -> int:
        return len(self._held)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def first_waiting_key(self) -> Key | None:
        """The key of the best call that waits and is not held."""
        return self._queue.first_key()

    def calls_per_level(self) -> list[int]:
        """How many live calls each level holds, best level first."""
        counts = [0] * self.levels.count
        for call in self._calls.values():
            counts[call.level] += 1
        return counts

    def check(self) -> None:
        """Raise AssertionError if a call is lost, in two places, or out of step with the queue."""
        waiting = list(self.waiting())
        assert len(waiting) + len(self._running) == len(self._calls), (
            f"{len(waiting)} waiting + {len(self._running)} running != {len(self._calls)} calls"
        )
        for call_id in waiting:
            call = self._calls[call_id]
            assert call.waiting, f"{call_id} is queued but its record says it runs"
            assert call_id not in self._running, f"{call_id} is queued and running"
            held = self.memory.holds(call.stamp.program)
            assert call.held == held, f"{call_id} is in the wrong queue"
        for call_id, call in self._running.items():
            assert not call.waiting, f"{call_id} runs but its record says it waits"
            assert self._calls.get(call_id) is call, f"{call_id} runs but is not known"

    # -- for the events -------------------------------------------------------------------------

    def _expect(self, call_id: str, *, waiting: bool) -> Call:
        """The call, which must wait, or run; raises UnknownCall."""
        call = self._calls.get(call_id)
        if call is None:
            raise UnknownCall(call_id, "is not here")
        if call.waiting != waiting:
            raise UnknownCall(call_id, "runs already" if waiting else "is waiting already")
        return call

    def _enqueue(self, call: Call) -> None:
        """The call begins to wait; its ``queued_at_ms`` says since when."""
        call.held = self.memory.holds(call.stamp.program)
        if call.held:
            self._held.push(call.place, call.id)
        else:
            self._queue.push(call.key, call.id)
        self._waits.begin(call)
        self._starvation.begin(call, self.clock_ms)

    def _dequeue(self, call: Call) -> None:
        """The call stops to wait."""
        assert call.queued_at_ms is not None
        if call.held:
            self._held.remove(call.place)
        else:
            self._queue.remove(call.key)
        waited_ms = self.clock_ms - call.queued_at_ms
        self._waits.end(call, waited_ms)
        self._starvation.end(call)
        call.wait_ms += waited_ms
        call.recent_wait_ms += waited_ms
        call.queued_at_ms = None

    def _pass_time(self, ms: float) -> None:
        self.clock_ms += ms
        self._waits.pass_time(ms)

    def _calls_before(self, key: Key, held: bool) -> int:
        """How many calls are before *key* among those that are held, or among those offered."""
        return self._held.before(key[-2:]) if held else self._queue.before(key)

    def _held_programs(self) -> Iterator[str]:
        """The programs of the held calls, the best call first, some more than once."""
        held = (self._calls[call_id] for call_id in self._held)
        return (call.stamp.program for call in self._shares.in_order(held))
