"""What a replica asks of a scheduler: the core's CallScheduler, or an oracle in its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from autellix_sgl.core import (
    CallScheduler,
    CallStamp,
    CallStatistics,
    Candidate,
    Reason,
    Running,
    StepWork,
)
from autellix_sgl.core.calls.cost import CostModel


class CallRecord(Protocol):
    """The live record of a call: its place in the order, and what it has had."""

    preemptions: int

    @property
    def key(self) -> Any: ...


class Scheduler(Protocol):
    """The events and questions of a :class:`CallScheduler` that jumps (``jump``), as used here."""

    clock_ms: float
    cost_model: CostModel

    def arrive(
        self, call_id: str, stamp: CallStamp, tokens: int = 0, root: int = 0
    ) -> CallRecord: ...
    def admit(self, call_id: str, tokens: int = 0, cached_tokens: int = 0) -> None: ...
    def requeue(self, call_id: str) -> None: ...
    def step(self, work: StepWork, repeat: int = 1) -> None: ...
    def remove(self, call_id: str, tokens: int = 0) -> CallStatistics: ...
    def end_program(self, program: str) -> None: ...
    def admit_programs(self) -> None: ...
    def promote_starving(self) -> list[str]: ...
    def short_of(self, reason: Reason) -> None: ...
    def begin_pass(self) -> None: ...
    def choose_victims(
        self,
        candidates: Iterable[Candidate],
        running: Sequence[Running],
        *,
        free_slots: int,
        free_tokens: int,
        min_steps_left: int,
    ) -> list[str]: ...
    def head(self, limit: int) -> list[str]: ...
    def offered(self) -> Iterator[str]: ...
    def first_waiting_key(self) -> Any: ...
    @property
    def pass_due(self) -> bool: ...
    @property
    def steps_to_pass(self) -> int: ...
    @property
    def next_promotion_ms(self) -> float: ...
    @property
    def num_waiting(self) -> int: ...


def preempts(scheduler: Scheduler) -> bool:
    """Whether the scheduler ever takes a running call out for a better one."""
    return scheduler.policy.uses_levels if isinstance(scheduler, CallScheduler) else True
