"""What we add to SGLang's messages between processes.

Importing this module registers the types with SGLang's decoder, so a process that imports it can
read them; a process that sends or receives calls must.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from sglang.srt.managers.io_struct import (
    BaseReq,
    GetInternalStateReq,
    SetInternalStateReq,
    TokenizedGenerateReqInput,
    hook_custom_types,
)

from autellix_sgl.core import CallStamp, CostModel
from autellix_sgl.core.calls.cost import COEFFICIENTS
from autellix_sgl.core.calls.model import Itinerary

# The key under which call reports ride on SGLang's batch outputs.
REPORT_KEY = "autellix_program"

# The key under which a replica answers for its calls in the internal state.
CALLS_KEY = "program_calls"

# What the names begin with under which a cost model's numbers go to the schedulers.
COST_KEY_PREFIX = "program_cost_"


class ProgramTag(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A call's program and what the process table knew of it when the call was sent."""

    program: str
    thread: str
    priority_ms: float
    program_wait_ms: float
    program_service_ms: float
    itinerary: Itinerary = ()
    order: int = 0
    tenant: str = ""
    weight: float = 1.0
    kind: str = ""

    @classmethod
    def of(cls, stamp: CallStamp) -> ProgramTag:
        return cls(
            program=stamp.program,
            thread=stamp.thread,
            priority_ms=stamp.priority_ms,
            program_wait_ms=stamp.program_wait_ms,
            program_service_ms=stamp.program_service_ms,
            itinerary=stamp.itinerary,
            order=stamp.order,
            tenant=stamp.tenant,
            weight=stamp.weight,
            kind=stamp.kind,
        )

    def stamp(self) -> CallStamp:
        return CallStamp(
            program=self.program,
            thread=self.thread,
            priority_ms=self.priority_ms,
            program_wait_ms=self.program_wait_ms,
            program_service_ms=self.program_service_ms,
            itinerary=self.itinerary,
            order=self.order,
            tenant=self.tenant,
            weight=self.weight,
            kind=self.kind,
        )


class ProgramGenerateReqInput(TokenizedGenerateReqInput, kw_only=True):  # type: ignore[call-arg, misc]
    """SGLang's tokenized request with the program tag as one more field at its end."""

    program: ProgramTag

    @classmethod
    def of(cls, request: TokenizedGenerateReqInput, tag: ProgramTag) -> ProgramGenerateReqInput:
        fields: dict[str, Any] = {name: getattr(request, name) for name in FIELDS}
        return cls(**fields, program=tag)


FIELDS = TokenizedGenerateReqInput.__struct_fields__


class ExplainCallsReq(GetInternalStateReq, kw_only=True):  # type: ignore[call-arg, misc]
    """Asks every replica for the waits of those of *calls* that it has.

    It goes and is answered as SGLang's own question for the internal state, under CALLS_KEY.
    """

    calls: list[str]


class CallReport(NamedTuple):
    """How a finished call fared, from its scheduler back to the process table."""

    replica: int
    level: int
    service_ms: float
    wait_ms: float
    preemptions: int
    demotions: int
    promotions: int
    recomputed_tokens: int
    waits: tuple[float, ...]


class ProgramsOver(BaseReq, kw_only=True):  # type: ignore[call-arg, misc]
    """To the schedulers: no further call of these programs will come. Labels, as in stamps."""

    programs: list[str]


hook_custom_types(ProgramGenerateReqInput, ExplainCallsReq, ProgramsOver)


def cost_update(model: CostModel) -> dict[str, float]:
    """The numeric fields of a SetInternalStateReq that make every rank charge by *model*."""
    fields = {COST_KEY_PREFIX + name: float(getattr(model, name)) for name in COEFFICIENTS}
    if model.error is not None:
        fields[COST_KEY_PREFIX + "error"] = model.error
    return fields


def cost_model_in(request: SetInternalStateReq) -> CostModel | None:
    """The model that the request has, None if it is about something else."""
    fields = request.server_args
    if not fields or not all(name.startswith(COST_KEY_PREFIX) for name in fields):
        return None
    return CostModel.from_dict(
        {name.removeprefix(COST_KEY_PREFIX): value for name, value in fields.items()}
    )
