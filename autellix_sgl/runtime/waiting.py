"""SGLang's waiting queue, kept in the core scheduler's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from sglang.srt.managers.schedule_batch import Req

from autellix_sgl.core import CallScheduler, CallStamp

# Prompts that agree in this many tokens are taken to begin with one system prompt.
ROOT_TOKENS = 128


class WaitingCalls:
    """Stands where SGLang's Scheduler keeps ``waiting_queue: list[Req]``.

    Only the parts of a list that SGLang uses outside admission: append, pop, length, iteration and
    indexing, all in scheduling order. Appending an unknown request is its arrival, appending a
    known one puts it back; popping is an abort, of which *forget* is told. During admission the
    scheduler swaps a short :class:`AdmissionWindow` in, so upstream never walks the whole queue.
    """

    def __init__(
        self,
        calls: CallScheduler,
        stamps: Mapping[str, CallStamp],
        forget: Callable[[Req], None],
    ) -> None:
        self._calls = calls
        self._stamps = stamps
        self._forget = forget
        self._requests: dict[str, Req] = {}

    def append(self, request: Req) -> None:
        rid = request.rid
        if rid in self._calls:
            self._calls.requeue(rid)
        else:
            self._calls.arrive(rid, self.stamp_of(request), request.seqlen, root_of(request))
        self._requests[rid] = request

    def stamp_of(self, request: Req) -> CallStamp:
        """One without a stamp (health check, embedding) is a program of one call."""
        return self._stamps.get(request.rid) or CallStamp(program=request.rid)

    def admit(self, request: Req) -> None:
        """The request went into the batch."""
        del self._requests[request.rid]
        self._calls.admit(request.rid, request.seqlen, request.prefix_len)

    def pop(self, index: int) -> Req:
        """Remove the request at *index* for good (SGLang pops only to abort)."""
        request = self[index]
        del self._requests[request.rid]
        self._forget(request)
        return request

    def head(self, limit: int) -> list[Req]:
        """At most *limit* requests, best first; costs what it returns."""
        return [self._requests[rid] for rid in self._calls.head(limit)]

    def offered(self) -> Iterator[Req]:
        """The requests that may be admitted, best first."""
        return (self._requests[rid] for rid in self._calls.offered())

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Req]:
        return (self._requests[rid] for rid in self._calls.waiting())

    def __getitem__(self, index: int) -> Req:
        try:
            return next(islice(self, index, None))
        except StopIteration:
            raise IndexError(index) from None

    def window(self, limit: int) -> AdmissionWindow:
        """The head of the queue as the plain list that upstream's admission walks."""
        return AdmissionWindow(self, limit)


def root_of(request: Req) -> int:
    """A number that requests have in common whose prompts begin alike, the same on all ranks."""
    return hash(tuple(request.origin_input_ids[:ROOT_TOKENS])) & 0xFFFFFFFF


class AdmissionWindow(list[Req]):
    """The best waiting requests, for one admission pass. ``offered`` is all it ever held.

    Upstream may append while it walks (a request whose grammar has just been compiled): that is an
    arrival like any other, and a candidate of this pass.
    """

    def __init__(self, queue: WaitingCalls, limit: int) -> None:
        super().__init__(queue.head(limit))
        self.offered = list(self)
        self._queue = queue

    def append(self, request: Req) -> None:
        self._queue.append(request)
        self.offered.append(request)
        super().append(request)
