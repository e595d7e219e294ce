"""What a scheduler tells of itself on request, JSON-ready, and what it can be told."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from sglang.srt.managers.io_struct import (
    GetInternalStateReq,
    GetInternalStateReqOutput,
    SetInternalStateReq,
    SetInternalStateReqOutput,
)
from sglang.srt.managers.scheduler_components.internal_state import SchedulerInternalStateController

from autellix_sgl.core import CallScheduler
from autellix_sgl.runtime.scheduler.view import StateView
from autellix_sgl.runtime.wire import CALLS_KEY, ExplainCallsReq, cost_model_in

logger = logging.getLogger(__name__)

# Of the tenants that have shares, those that are shown.
TENANTS_SHOWN = 100


class ProgramStateController(SchedulerInternalStateController):  # type: ignore[misc]
    """SGLang's, plus the program's state on the way out and the cost model on the way in."""

    scheduler: StateView

    def get_internal_state(self, recv_req: GetInternalStateReq) -> GetInternalStateReqOutput:
        scheduler = self.scheduler
        if isinstance(recv_req, ExplainCallsReq):
            answer = {CALLS_KEY: explained(scheduler.calls, recv_req.calls)}
            return GetInternalStateReqOutput(internal_state=answer)
        digests = scheduler.digests()
        output = super().get_internal_state(recv_req)
        output.internal_state["program"] = {**program_state(scheduler), "digests": digests}
        return output

    def set_internal_state(self, recv_req: SetInternalStateReq) -> SetInternalStateReqOutput:
        cost_model = cost_model_in(recv_req)
        if cost_model is None:
            return super().set_internal_state(recv_req)
        self.scheduler.calls.use_cost_model(cost_model)
        self.scheduler.step_clock.forget()
        logger.info("Cost model: %s", self.scheduler.calls.cost_model)
        return SetInternalStateReqOutput(updated=True)


def program_state(scheduler: StateView) -> dict[str, Any]:
    """What doctor, metrics and calibration want to know."""
    calls = scheduler.calls
    return {
        "replica": scheduler.replica,
        "address": scheduler.address,
        "policy": calls.policy.name,
        "levels": list(calls.levels.describe()),
        "starvation_ratio": calls.starvation_ratio,
        "schedule_interval": calls.interval,
        "cost_model": calls.cost_model.as_dict(),
        "cost_error_now": scheduler.step_clock.error(calls.cost_model),
        "clock_ms": calls.clock_ms,
        "waiting": calls.num_waiting,
        "held": calls.num_held,
        "running": calls.num_running,
        "calls_per_level": calls.calls_per_level(),
        "shares": _tenants(calls),
        "remembered": scheduler.remembered,
        "locked_tokens": int(scheduler.tree_cache.protected_size()),
        "counters": scheduler.counters.as_dict(),
        "processes": [report.as_dict() for report in scheduler.process_reports],
        "samples": scheduler.step_clock.samples(),
    }


def explained(calls: CallScheduler, asked: Iterable[str]) -> dict[str, dict[str, Any]]:
    """How those of the calls *asked* for that are here have fared until now."""
    found = {}
    for rid in asked:
        if rid in calls:
            wait_ms, waits = calls.waits_of(rid)
            call = calls.call(rid)
            found[rid] = {
                "waiting": call.waiting,
                "level": call.level,
                "waited_ms": wait_ms,
                "waits": list(waits),
            }
    return found


def _tenants(calls: CallScheduler) -> list[dict[str, Any]]:
    """The tenants with calls here, as far as they have shares; the most served first."""
    live = [account for account in calls.accounts() if account.calls]
    return [
        {
            "tenant": account.tenant,
            "weight": account.weight,
            "turn": account.turn,
            "service_ms": account.service_ms,
            "calls": account.calls,
            "waiting": len(account.queue),
        }
        for account in sorted(live, key=lambda a: -a.service_ms)[:TENANTS_SHOWN]
    ]
