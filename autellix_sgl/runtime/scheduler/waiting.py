"""SGLang's waiting queue, kept in the core scheduler's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from autellix_sgl.core import CallScheduler
from autellix_sgl.runtime.scheduler.ledger import CallLedger

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req

# One admission looks at as many calls as there are free slots, and at so many beyond: SGLang passes
# over a call whose context is still on its way from storage, or whose LoRA adapter is not loaded.
PASSED_OVER = 64


class WaitingCalls:
    """Stands where SGLang's Scheduler keeps ``waiting_queue: list[Req]``.

    Only the parts of a list that SGLang uses outside admission: append, length and iteration, in
    scheduling order. Appending an unknown request is its arrival, appending a known one puts it
    back. During admission the scheduler swaps an :class:`AdmissionWindow` in, so upstream never
    walks the whole queue.
    """

    def __init__(self, calls: CallScheduler, ledger: CallLedger) -> None:
        self._calls = calls
        self._ledger = ledger
        self._requests: dict[str, Req] = {}

    def append(self, request: Req) -> None:
        self._ledger.queued(request)
        self._requests[request.rid] = request

    def admit(self, request: Req) -> None:
        """The request went into the batch."""
        self._requests.pop(request.rid, None)
        self._ledger.admitted(request)

    def remove(self, request: Req) -> None:
        """The request waits no more, and will not run again."""
        self._requests.pop(request.rid, None)
        self._ledger.left(request)

    def get(self, rid: str) -> Req | None:
        """The waiting request of that id."""
        return self._requests.get(rid)

    def worst_that_never_ran(self) -> Req | None:
        """Who is refused first where only so many may wait."""
        rid = self._calls.worst_that_never_ran()
        return None if rid is None else self._requests[rid]

    def offered(self) -> Iterator[Req]:
        """The requests that may be admitted, best first."""
        return (self._requests[rid] for rid in self._calls.offered())

    @property
    def num_offered(self) -> int:
        """How many may be admitted."""
        return self._calls.num_waiting - self._calls.num_held

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Req]:
        return (self._requests[rid] for rid in self._calls.waiting())

    def window(self, limit: int, on_draw: Callable[[Req], None]) -> AdmissionWindow:
        """The head of the queue for one admission, of which *limit* are looked at together."""
        return AdmissionWindow(self, limit, on_draw)


class AdmissionWindow:
    """The best waiting requests, drawn from the queue as upstream's admission asks for them.

    ``head`` are those that its policy may order, at most *limit*, drawn when they are first asked
    for: upstream may append before (a request whose grammar has just been compiled), which is an
    arrival like any other. When admission walks on beyond them, because it passes over requests
    that cannot run yet, PASSED_OVER more can follow. ``drawn`` is all that it was given; *on_draw*
    is told of each before upstream looks at it.
    """

    def __init__(self, queue: WaitingCalls, limit: int, on_draw: Callable[[Req], None]) -> None:
        self._queue = queue
        self._limit = limit
        self._on_draw = on_draw
        self._source: Iterator[Req] = iter(())
        self._walked = False
        self._head: list[Req] | None = None
        self.drawn: list[Req] = []

    @property
    def head(self) -> list[Req]:
        if self._head is None:
            self._source = self._queue.offered()
            self._head = self._draw(self._limit)
        return self._head

    def __len__(self) -> int:
        return self._queue.num_offered

    def __iter__(self) -> Iterator[Req]:
        """The head, and on the first walk what comes after it."""
        yield from self.head
        if self._walked:
            yield from self.drawn[len(self.head) :]
            return
        self._walked = True
        for _ in range(PASSED_OVER):
            more = self._draw(1)
            if not more:
                return
            yield more[0]

    def append(self, request: Req) -> None:
        self._queue.append(request)

    def _draw(self, count: int) -> list[Req]:
        found = [request for _, request in zip(range(count), self._source, strict=False)]
        for request in found:
            self._on_draw(request)
        self.drawn.extend(found)
        return found
