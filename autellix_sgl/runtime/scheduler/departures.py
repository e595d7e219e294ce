"""Calls that leave before they are done: aborted, or refused where only so many may wait.

SGLang aborts whatever begins with the given id, and looks at all that waits to find it. Here an
abort is for the one call of that id. A call that waits and has run before (it was preempted, parked
or retracted) ends as a running one does, through the output streamer: with the tokens it has, its
usage and its charge. One that never ran is answered with a word, as in SGLang.
"""

from __future__ import annotations

from concurrent.futures import Future
from http import HTTPStatus
from typing import Any

from sglang.srt.managers.io_struct import AbortReq
from sglang.srt.managers.schedule_batch import FINISH_ABORT, Req
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.mem_cache.common import release_kv_cache

from autellix_sgl.runtime.scheduler.ledger import CallLedger
from autellix_sgl.runtime.scheduler.waiting import WaitingCalls

Reason = dict[str, Any]
"""Why a call ends, as it stands in the answer: ``type``, ``message`` and maybe ``status_code``."""

QUEUE_IS_FULL: Reason = {
    "type": "abort",
    "status_code": HTTPStatus.SERVICE_UNAVAILABLE,
    "message": "The request queue is full.",
}


class Departures:
    """Ends calls of *scheduler* that wait in *waiting*, wait for their grammar, or run."""

    def __init__(self, scheduler: Scheduler, waiting: WaitingCalls, ledger: CallLedger) -> None:
        self._scheduler = scheduler
        self._waiting = waiting
        self._ledger = ledger

    def abort_all_waiting(self) -> None:
        """End every call in the queue, the last one first: that moves nobody up."""
        for req in reversed(list(self._waiting)):
            self._end_waiting(req, None)

    def abort(self, message: AbortReq) -> None:
        """End the call that the message names; one that runs takes part in one more step."""
        scheduler, rid = self._scheduler, message.rid
        waiting = self._waiting.get(rid)
        if waiting is not None:
            self._end_waiting(waiting, message.finished_reason)
        if scheduler.chunked_req is not None and scheduler.chunked_req.rid == rid:
            scheduler._pending_chunked_abort_req = scheduler.chunked_req
        for req in scheduler.grammar_manager.grammar_queue:
            if req.rid == rid:
                _abort_before_grammar(req)
        for req in scheduler.collect_inflight_reqs():
            if req.rid == rid and not req.finished():
                req.to_finish = _abort_running(message)

    def refuse_one_above(self, limit: int | None) -> None:
        """After an arrival: if more than *limit* wait, refuse the worst that has never run.

        A call that has run is never refused. So the queue can be longer than its limit, by the
        calls that were taken out of the batch, and then each arrival costs one.
        """
        if limit is None or len(self._waiting) <= limit:
            return
        worst = self._waiting.worst_that_never_ran()
        if worst is not None:
            self._end_waiting(worst, QUEUE_IS_FULL)
            worst.time_stats.trace_ctx.abort(abort_info={"reason": QUEUE_IS_FULL["message"]})

    def _end_waiting(self, req: Req, reason: Reason | None) -> None:
        scheduler = self._scheduler
        if self._ledger.has_run(req):
            req.to_finish = _abort_for(reason)
            scheduler.retire_unadmitted_request(req)
        else:
            scheduler._release_aborted_request(req)
            scheduler.beam_coordinator.retire_group(req)
            answer = AbortReq(rid=req.rid, finished_reason=reason)
            scheduler.send_abort_output(answer, req)
        if req.kv.holds_mamba:
            release_kv_cache(req, scheduler.tree_cache, checkpoint=False)
        self._waiting.remove(req)


def _abort_for(reason: Reason | None) -> FINISH_ABORT:
    if reason is None:
        return FINISH_ABORT()
    return FINISH_ABORT(reason["message"], reason.get("status_code"), reason.get("err_type"))


def _abort_running(message: AbortReq) -> FINISH_ABORT:
    """As SGLang: an abort that says why comes from one of its timeouts."""
    if message.abort_message:
        return FINISH_ABORT(message.abort_message, HTTPStatus.SERVICE_UNAVAILABLE)
    return FINISH_ABORT()


def _abort_before_grammar(req: Req) -> None:
    """It will run one step over one token, which ends it."""
    if isinstance(req.grammar, Future):
        req.grammar.cancel()
    req.set_finish_with_abort("Aborted while its grammar was compiled.")
