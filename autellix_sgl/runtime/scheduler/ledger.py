"""Which of SGLang's requests is which of the core's calls, and that neither is lost.

A request is known by itself and not by its id: under overlap a finished one is seen once more in
the batch that was in flight, and by then its client may have sent another with the same id.

SGLang and the core each keep account of what waits and what runs. Where they turn out to disagree,
something here is wrong, but nobody's answer need be: the fault is logged with the ids, mended in
the core and counted. Where SGLang's own strict checks are on, as in the tests, it ends the process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from autellix_sgl.core import CallScheduler, CallStamp
from autellix_sgl.runtime.scheduler.counters import SchedulerCounters
from autellix_sgl.runtime.scheduler.recomputation import Recomputation

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req

logger = logging.getLogger(__name__)

# On SGLang's request: what the process table knew of its program when it was sent.
STAMP_ATTRIBUTE = "autellix_stamp"

# Prompts that agree in this many tokens are taken to begin with one system prompt.
ROOT_TOKENS = 128

# Of the ids of a fault, those that are logged.
IDS_LOGGED = 20


class CallLedger:
    """Tells the core *calls* of what becomes of SGLang's requests."""

    def __init__(
        self,
        calls: CallScheduler,
        counters: SchedulerCounters,
        recomputation: Recomputation,
        *,
        strict: bool,
    ) -> None:
        self._calls = calls
        self._counters = counters
        self._recomputation = recomputation
        self._strict = strict
        self._requests: dict[str, Req] = {}
        # Running calls that the latest audit did not find in any batch.
        self._missing: set[str] = set()

    # -- stamps ---------------------------------------------------------------------------------

    def tag(self, request: Req, stamp: CallStamp) -> None:
        """The request has just been made; it may be queued much later, or never."""
        setattr(request, STAMP_ATTRIBUTE, stamp)

    def stamp_of(self, request: Req) -> CallStamp:
        """One without a stamp (health check, embedding) is a program of one call."""
        return getattr(request, STAMP_ATTRIBUTE, None) or CallStamp(program=request.rid)

    # -- events ---------------------------------------------------------------------------------

    def __contains__(self, request: Req) -> bool:
        """Whether that very request is a call here."""
        return self._requests.get(request.rid) is request

    def __len__(self) -> int:
        return len(self._requests)

    def queued(self, request: Req) -> None:
        """The request begins to wait: it arrives, or it comes back from the batch."""
        rid = request.rid
        if request in self:
            if self._calls.call(rid).waiting:
                self._fault("queued while it waits", [rid])
            else:
                self._calls.requeue(rid)
            return
        if rid in self._calls:
            self._fault("a second request came with the id of one that is here", [rid])
            self._drop(rid)
        self._requests[rid] = request
        self._calls.arrive(rid, self.stamp_of(request), request.seqlen, root_of(request))

    def admitted(self, request: Req) -> None:
        """The request went into the batch."""
        if request not in self or not self._calls.call(request.rid).waiting:
            self._fault("admitted, but it was not waiting", [request.rid])
            return
        if self.has_run(request):
            _leave_out_last_wait(request)
        self._calls.admit(request.rid, request.seqlen, request.prefix_len)
        self._recomputation.came_back(request)

    def left(self, request: Req) -> None:
        """The request left for good, from wherever it was; one that never was a call is none."""
        if request in self:
            self._drop(request.rid, request.seqlen)

    def has_run(self, request: Req) -> bool:
        """Whether the request, which waits, has been in the batch before."""
        return request in self and self._calls.call(request.rid).preemptions > 0

    # -- faults ---------------------------------------------------------------------------------

    def audit(self, present: Iterable[Req]) -> None:
        """*present* are all requests that SGLang has in its batches.

        A running call that two audits in a row do not find there is no call any more: one alone
        may meet a request on its way from one place to another.
        """
        here = {request.rid for request in present}
        missing = {rid for rid in self._calls.running() if rid not in here}
        lost = [rid for rid in self._calls.running() if rid in missing & self._missing]
        self._missing = missing
        if lost:
            self._fault("accounted as running, but in no batch", lost)
            for rid in lost:
                self._drop(rid)

    def expect_nothing(self) -> None:
        """SGLang has no request at all."""
        left_over = [*self._requests, *(r for r in self._calls.ids() if r not in self._requests)]
        if left_over:
            self._fault("idle, but still accounted for", left_over)
            for rid in left_over:
                self._drop(rid)
        self._missing.clear()

    def _drop(self, rid: str, tokens: int = 0) -> None:
        self._requests.pop(rid, None)
        self._recomputation.forget(rid)
        if rid in self._calls:
            self._calls.remove(rid, tokens)

    def _fault(self, what: str, rids: list[str]) -> None:
        self._counters.accounting_faults += len(rids)
        shown = ", ".join(rids[:IDS_LOGGED])
        more = f" and {len(rids) - IDS_LOGGED} more" if len(rids) > IDS_LOGGED else ""
        message = f"calls out of account: {what}: {shown}{more}"
        if self._strict:
            raise AssertionError(message)
        logger.error("%s; mended", message)


def root_of(request: Req) -> int:
    """A number that requests have in common whose prompts begin alike, the same on all ranks."""
    return hash(tuple(request.origin_input_ids[:ROOT_TOKENS])) & 0xFFFFFFFF


def _leave_out_last_wait(request: Req) -> None:
    """SGLang's running timeout counts from the first forward; time preempted is not running."""
    stats = request.time_stats
    stats.forward_entry_time += max(
        0.0, stats.last_forward_entry_time - stats.wait_queue_entry_time
    )
