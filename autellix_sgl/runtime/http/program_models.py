"""What ``/v1/programs`` answers, as the OpenAPI schema describes it.

Milliseconds are modelled, times of day are Unix seconds of the wall clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from autellix_sgl.core import ActiveCall, Program, Reason, by_reason
from autellix_sgl.core.programs.program import LeftCall

MEANINGS: Mapping[Reason, str] = {
    Reason.ADMISSION: "its program was held back until others had ended",
    Reason.SHARE: "calls of tenants that had less of their share went first",
    Reason.LEVEL: "calls of a better level went first: their programs had less service",
    Reason.MEMORY: "its turn had come, and the KV pool had no room",
    Reason.SLOTS: "its turn had come, and the batch was full",
}


class ActiveCallModel(BaseModel):
    """A call in the system."""

    id: str
    thread: str = Field(description="The thread of the program that it was counted for.")
    arrived_at: float = Field(description="Unix seconds.")
    priority_ms: float = Field(description="The program's service when the call arrived.")


class ProgramModel(BaseModel):
    """A live program's row of the process table."""

    id: str
    object: str = "program"
    tenant: str | None = Field(description="Whose it is, on a server with tenants.")
    user: str | None = Field(description="The end user that its latest call named.")
    source: str | None = Field(description="Which field named it; null: its calls named none.")
    transient: bool = Field(description="Whether it stands for a request that named no program.")
    kind: str | None = Field(
        description="Shared with programs whose first prompts begin alike. Null: not known, or the "
        "policy does not look."
    )
    ended: bool = Field(description="Whether it goes with its last active call.")
    created_at: float = Field(description="Unix seconds.")
    last_arrival_at: float | None = Field(description="Unix seconds.")
    last_completion_at: float | None = Field(description="Unix seconds.")
    service_ms: float = Field(
        description="What orders its next call: by policy the sum, or the longest chain."
    )
    total_service_ms: float = Field(description="Sum over its calls that have left.")
    total_wait_ms: float = Field(description="Sum over its calls that have left.")
    calls_completed: int
    calls_aborted: int
    preemptions: int
    promotions: int
    replicas: dict[str, int] = Field(description="Calls by the replica that ran them.")
    threads: dict[str, int] = Field(description="Finished calls by thread, the latest 256.")
    active_calls: list[ActiveCallModel]

    @classmethod
    def of(cls, program: Program) -> ProgramModel:
        """The state of *program* now."""
        return cls(
            id=program.id,
            tenant=program.tenant or None,
            user=program.user,
            source=program.source,
            transient=program.transient,
            kind=program.kind,
            ended=program.ended,
            created_at=program.created_at,
            last_arrival_at=program.last_arrival_at,
            last_completion_at=program.last_completion_at,
            service_ms=program.service_ms,
            total_service_ms=program.total_service_ms,
            total_wait_ms=program.total_wait_ms,
            calls_completed=program.calls_completed,
            calls_aborted=program.calls_aborted,
            preemptions=program.preemptions,
            promotions=program.promotions,
            replicas={str(replica): calls for replica, calls in program.engines.items()},
            threads=dict(program.threads),
            active_calls=[
                ActiveCallModel(
                    id=call.id,
                    thread=call.thread,
                    arrived_at=call.arrived_at,
                    priority_ms=call.priority_ms,
                )
                for call in program.active.values()
            ],
        )


class ProgramList(BaseModel):
    """A page of one tenant's live programs, oldest first."""

    object: str = "list"
    data: list[ProgramModel]
    has_more: bool
    statistics: dict[str, int] = Field(
        description="The table's counters; to a tenant only how many programs it has."
    )
    identified: dict[str, int] | None = Field(
        description="Requests by what named their program. Null to a tenant."
    )
    ignored: dict[str, int] | None = Field(
        description="Values that could not be used as an id, by field. Null to a tenant."
    )


class AbortedProgram(BaseModel):
    """What an abort has set off."""

    aborted: list[str] = Field(description="The ids of the calls that are being aborted.")
    program: ProgramModel


class WaitReason(BaseModel):
    """One reason of a wait, and how much of it that was."""

    reason: Reason
    ms: float
    meaning: str

    @classmethod
    def listed(cls, waits: Sequence[float]) -> list[WaitReason]:
        """The reasons in a split of a wait, the one that took most first."""
        return [
            cls(reason=reason, ms=ms, meaning=MEANINGS[reason]) for reason, ms in by_reason(waits)
        ]


class ExplainedCall(BaseModel):
    """Why one call waited, or waits."""

    id: str
    thread: str
    state: str = Field(description="waiting, running, finished or aborted.")
    level: int
    waited_ms: float = Field(description="Until now, or until it left.")
    reasons: list[WaitReason] = Field(description="Longest first; their ms add up to waited_ms.")

    @classmethod
    def of_active(cls, call: ActiveCall, answer: Mapping[str, Any]) -> ExplainedCall:
        """A call in the system, with its scheduler's answer."""
        return cls(
            id=call.id,
            thread=call.thread,
            state="waiting" if answer["waiting"] else "running",
            level=answer["level"],
            waited_ms=answer["waited_ms"],
            reasons=WaitReason.listed(answer["waits"]),
        )

    @classmethod
    def of_left(cls, call: LeftCall) -> ExplainedCall:
        """A call that has left."""
        return cls(
            id=call.id,
            thread=call.thread,
            state="aborted" if call.aborted else "finished",
            level=call.statistics.level,
            waited_ms=call.statistics.wait_ms,
            reasons=WaitReason.listed(call.statistics.waits),
        )


class ProgramExplanation(BaseModel):
    """Why a program's calls waited and wait. Milliseconds are modelled."""

    id: str
    object: str = "program.explanation"
    tenant: str | None = Field(description="Whose it is, on a server with tenants.")
    waited_ms: float = Field(description="Sum over its calls that have left.")
    reasons: list[WaitReason] = Field(description="Longest first; their ms add up to waited_ms.")
    active_calls: list[ExplainedCall] = Field(
        description="Its calls in the system, the oldest first, at most 100."
    )
    last_calls: list[ExplainedCall] = Field(description="The latest 4 that left, the latest first.")

    @classmethod
    def of(cls, program: Program, answers: Mapping[str, Mapping[str, Any]]) -> ProgramExplanation:
        """*answers*: what the schedulers say of its calls, by id."""
        return cls(
            id=program.id,
            tenant=program.tenant or None,
            waited_ms=program.total_wait_ms,
            reasons=WaitReason.listed(program.settled_waits),
            active_calls=[
                ExplainedCall.of_active(call, answers[call.id])
                for call in program.active.values()
                if call.id in answers
            ],
            last_calls=[ExplainedCall.of_left(call) for call in reversed(program.last_calls)],
        )
