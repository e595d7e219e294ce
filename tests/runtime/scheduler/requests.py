"""SGLang's request as far as the scheduler's own parts look at it, and those parts around it."""

from __future__ import annotations

from dataclasses import dataclass, field

from autellix_sgl.core import CallScheduler, CallStamp, CostModel, Levels, policy_named
from autellix_sgl.runtime.scheduler.counters import SchedulerCounters
from autellix_sgl.runtime.scheduler.ledger import STAMP_ATTRIBUTE, CallLedger
from autellix_sgl.runtime.scheduler.recomputation import Recomputation
from autellix_sgl.runtime.scheduler.waiting import WaitingCalls


@dataclass
class Kv:
    kv_committed_len: int = 0


@dataclass
class TimeStats:
    wait_queue_entry_time: float = 0.0
    forward_entry_time: float = 0.0
    last_forward_entry_time: float = 0.0


@dataclass(eq=False)
class Request:
    """One request; two of the same id are two."""

    rid: str
    seqlen: int = 10
    origin_input_ids: list[int] = field(default_factory=lambda: [1, 2, 3])
    prefix_len: int = 0
    kv: Kv = field(default_factory=Kv)
    time_stats: TimeStats = field(default_factory=TimeStats)


class House:
    """A core scheduler with three levels, and the queue and ledger in front of it."""

    def __init__(self, *, strict: bool = True, share_turn_ms: float | None = None) -> None:
        self.calls = CallScheduler(
            policy_named("plas"),
            Levels.geometric(3, 2.0, 2.0),
            CostModel(1.0),
            share_turn_ms=share_turn_ms,
        )
        self.counters = SchedulerCounters()
        self.ledger = CallLedger(
            self.calls, self.counters, Recomputation(self.counters), strict=strict
        )
        self.waiting = WaitingCalls(self.calls, self.ledger)

    def arrive(self, rid: str, *, served_ms: float = 0.0, tenant: str = "") -> Request:
        request = Request(rid)
        stamp = CallStamp(program=rid, priority_ms=served_ms, tenant=tenant)
        setattr(request, STAMP_ATTRIBUTE, stamp)
        self.waiting.append(request)
        return request
