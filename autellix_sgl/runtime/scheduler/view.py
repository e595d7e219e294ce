"""What the parts of a scheduler see of the whole: SGLang's scheduler, and ours in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req, ScheduleBatch

    from autellix_sgl.core import CallScheduler
    from autellix_sgl.runtime.process_report import ProcessReport
    from autellix_sgl.runtime.scheduler.counters import SchedulerCounters
    from autellix_sgl.runtime.scheduler.decision_digest import DecisionDigest
    from autellix_sgl.runtime.scheduler.ledger import CallLedger
    from autellix_sgl.runtime.scheduler.recomputation import Recomputation
    from autellix_sgl.runtime.scheduler.step_clock import StepClock
    from autellix_sgl.runtime.scheduler.waiting import WaitingCalls


class BatchView(Protocol):
    """What a preemption pass looks at, and the little that it sets: the chunked prefill it parks,
    and how eagerly SGLang admits after calls had to leave for want of memory."""

    calls: CallScheduler
    ledger: CallLedger
    waiting: WaitingCalls
    counters: SchedulerCounters
    recomputation: Recomputation
    digest: DecisionDigest

    # SGLang's own.
    schedule_policy: str
    enable_overlap: bool
    enable_hierarchical_cache: bool
    is_hybrid_swa: bool
    page_size: int
    chunked_prefill_size: int
    last_batch: ScheduleBatch | None
    chunked_req: Req | None
    _pending_chunked_abort_req: Req | None
    tree_cache: Any
    token_to_kv_pool_allocator: Any
    new_token_ratio_tracker: Any
    schedule_stream: Any
    forward_stream: Any

    def free_slots(self, running_batch: ScheduleBatch) -> int: ...

    def _reqs_finishing_inflight(self, batch: ScheduleBatch) -> list[Req]: ...


class StateView(Protocol):
    """What is told of a scheduler on request."""

    calls: CallScheduler
    counters: SchedulerCounters
    step_clock: StepClock
    process_reports: list[ProcessReport]
    address: str
    tree_cache: Any

    @property
    def replica(self) -> int: ...

    @property
    def remembered(self) -> int: ...

    def digests(self) -> list[str]: ...
