"""What ``/v1/programs`` answers, as the OpenAPI schema describes it.

Milliseconds are modelled, times of day are Unix seconds of the wall clock.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from autellix_sgl.core import Program


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
