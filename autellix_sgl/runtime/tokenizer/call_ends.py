"""How calls leave the process table, whichever way they leave the server.

One that ends with a report is charged, before its client has the answer. Many ways out have none:
refused by a scheduler or before one, aborted while it waited, cut off with its client or with its
replica. All of them have in common that SGLang forgets its state, so that is what is watched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

from autellix_sgl.core import ActiveCall, CallStatistics, ProcessTable, Program, by_reason

if TYPE_CHECKING:
    from sglang.srt.managers.tokenizer_manager import ReqState

    from autellix_sgl.runtime.metrics import TableMetrics
    from autellix_sgl.runtime.tokenizer.replicas import Replicas
    from autellix_sgl.runtime.wire import CallReport

logger = logging.getLogger(__name__)

_NOTHING = object()


class CallStates(dict[str, "ReqState"]):
    """SGLang's states of the requests that somebody waits for, by id.

    *gone* is told of each id that leaves, by ``del`` or ``pop`` as SGLang does it.
    """

    def __init__(self, gone: Callable[[str], None]) -> None:
        super().__init__()
        self._gone = gone

    def __delitem__(self, rid: str) -> None:
        super().__delitem__(rid)
        self._gone(rid)

    def pop(self, rid: str, default: Any = _NOTHING) -> Any:
        """The state of *rid*, which leaves, or *default*; raises KeyError without one."""
        if rid not in self and default is not _NOTHING:
            return default
        state = super().pop(rid)
        self._gone(rid)
        return state


class CallEnds:
    """Takes calls out of *table*, and out of the load of the *replicas* where calls are placed."""

    def __init__(
        self, table: ProcessTable, replicas: Replicas | None, metrics: TableMetrics | None
    ) -> None:
        self._table = table
        self._replicas = replicas
        self._metrics = metrics

    def charge(self, meta_info: dict[str, Any], report: CallReport, *, aborted: bool) -> Program:
        """Charge a call that left to its program, and say in its response how it fared."""
        rid = meta_info["id"]
        call = self._table.active_call(rid)
        statistics = CallStatistics(
            level=report.level,
            service_ms=report.service_ms,
            wait_ms=report.wait_ms,
            preemptions=report.preemptions,
            demotions=report.demotions,
            promotions=report.promotions,
            waits=tuple(report.waits),
        )
        now, replica = time.time(), report.replica
        if aborted:
            program = self._table.abort(rid, statistics=statistics, now=now, engine=replica)
        else:
            program = self._table.complete(
                rid,
                statistics,
                now=now,
                engine=replica,
                output_tokens=meta_info["completion_tokens"],
            )
        if self._replicas is not None:
            self._replicas.leave(meta_info, aborted=aborted)
        if self._metrics is not None:
            self._metrics.observe(report)
        meta_info["program"] = _fared(call, report, meta_info.get("cached_tokens"))
        return program

    def gone(self, rid: str) -> None:
        """Nobody waits for *rid* any more: if it is a call that has not left yet, it has now."""
        if self._table.has_call(rid):
            self._table.abort(rid, now=time.time())
            self._forget(rid)

    def check(self, live: Container[str]) -> None:
        """Take out the calls that are not in *live*: a net for a way out that was overlooked."""
        stray = self._table.reconcile(live, now=time.time())
        for rid in stray:
            self._forget(rid)
        if stray:
            logger.error(
                "%d calls were in the process table and nobody waited for them: %s",
                len(stray),
                ", ".join(map(repr, stray)),
            )

    def _forget(self, rid: str) -> None:
        if self._replicas is not None:
            self._replicas.abort(rid)


def _fared(call: ActiveCall, report: CallReport, cached_tokens: int | None) -> dict[str, Any]:
    """What ``meta_info.program`` says of a call that has left."""
    return {
        "id": call.program,
        "thread": call.thread,
        "replica": report.replica,
        "level": report.level,
        "priority_ms": call.priority_ms,
        "service_ms": report.service_ms,
        "waited_ms": report.wait_ms,
        "wait_reasons": {reason.value: ms for reason, ms in by_reason(report.waits)},
        "preemptions": report.preemptions,
        "demotions": report.demotions,
        "promotions": report.promotions,
        "recomputed_tokens": report.recomputed_tokens,
        "cached_tokens": cached_tokens,
    }
