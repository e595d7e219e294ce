"""The routes of ``/v1/programs``: look at programs, end them, abort their calls.

They hang on SGLang's FastAPI app and are guarded by its API-key check like all others.
"""

from __future__ import annotations

from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request

from autellix_sgl.core import Program
from autellix_sgl.errors import InvalidProgram, UnknownProgram
from autellix_sgl.runtime.http.program_models import (
    AbortedProgram,
    ProgramExplanation,
    ProgramList,
    ProgramModel,
)
from autellix_sgl.runtime.http.tenant_middleware import caller_of
from autellix_sgl.runtime.identity import check_id

if TYPE_CHECKING:
    from autellix_sgl.runtime.tokenizer.manager import ProgramTokenizerManager

DEFAULT_PAGE = 100
MAX_PAGE = 1000
MAX_EXPLAINED = 100

TAGS: list[str | Enum] = ["programs"]

# Declared as a string and checked here: SGLang's answer to what FastAPI finds invalid quotes the
# file that the endpoint is in.
Limit = Annotated[
    str,
    Query(
        description="At most this many.",
        json_schema_extra={
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_PAGE,
            "default": DEFAULT_PAGE,
        },
    ),
]
After = Annotated[str | None, Query(description="Continue after this program.")]
ProgramId = Annotated[str, Path(description="The program's id; slashes need no escape.")]


def tenant_of(
    request: Request,
    tenant: Annotated[
        str | None, Query(description="Whose programs. Only with the administration key.")
    ] = None,
) -> str:
    """The tenant whose programs a request is about; raises HTTP 403 if they are not its own."""
    caller = caller_of(request.scope)
    if tenant is None or tenant == caller.tenant:
        return caller.tenant
    if not caller.admin:
        raise HTTPException(403, "tenant: another tenant's programs need the --admin-api-key")
    return tenant


Tenant = Annotated[str, Depends(tenant_of)]


def install(app: FastAPI, manager: ProgramTokenizerManager) -> None:
    """Add the routes for *manager* to SGLang's app."""

    @app.get("/v1/programs", tags=TAGS)
    async def list_programs(
        request: Request, tenant: Tenant, limit: Limit = str(DEFAULT_PAGE), after: After = None
    ) -> ProgramList:
        """Live programs, oldest first, and the table's counters."""
        all_counters = caller_of(request.scope).admin
        return page(manager, tenant, check_limit(limit), after, all_counters=all_counters)

    @app.get("/v1/programs/{program_id:path}/explain", tags=TAGS)
    async def explain_program(program_id: ProgramId, tenant: Tenant) -> ProgramExplanation:
        """Why the program's calls waited, and why those that wait now do."""
        program = find(manager, tenant, program_id)
        calls = islice(program.active, MAX_EXPLAINED)
        return ProgramExplanation.of(program, await manager.explain_calls(calls))

    @app.get("/v1/programs/{program_id:path}", tags=TAGS)
    async def get_program(program_id: ProgramId, tenant: Tenant) -> ProgramModel:
        """One live program."""
        return ProgramModel.of(find(manager, tenant, program_id))

    @app.delete("/v1/programs/{program_id:path}", tags=TAGS)
    async def end_program(program_id: ProgramId, tenant: Tenant) -> ProgramModel:
        """The program is over: forget it, now or when its last active call has left."""
        find(manager, tenant, program_id)
        return ProgramModel.of(manager.table.end(program_id, tenant=tenant))

    @app.post("/v1/programs/{program_id:path}/abort", tags=TAGS)
    async def abort_program(program_id: ProgramId, tenant: Tenant) -> AbortedProgram:
        """Abort all calls the program has in the system. It stays, and may make others."""
        program = find(manager, tenant, program_id)
        aborted = manager.abort_program(program)
        return AbortedProgram(aborted=aborted, program=ProgramModel.of(program))


def find(manager: ProgramTokenizerManager, tenant: str, program_id: str) -> Program:
    """A live program; raises HTTP 400 for what cannot be an id, 404 if there is none."""
    try:
        return manager.table.program(check_id("program_id", program_id), tenant=tenant)
    except InvalidProgram as error:
        raise HTTPException(400, str(error)) from error
    except UnknownProgram as error:
        raise HTTPException(404, str(error)) from error


def check_limit(limit: str) -> int:
    """The size of a page; raises HTTP 400."""
    if limit.isascii() and limit.isdecimal() and 1 <= int(limit) <= MAX_PAGE:
        return int(limit)
    raise HTTPException(400, f"limit: must be a whole number from 1 to {MAX_PAGE}, got {limit!r}")


def page(
    manager: ProgramTokenizerManager,
    tenant: str,
    limit: int,
    after: str | None,
    *,
    all_counters: bool,
) -> ProgramList:
    """One page of a tenant's programs, oldest first; raises HTTP 404 if *after* is not live."""
    programs = manager.table.programs_of(tenant)
    rest = iter(programs.values())
    if after is not None:
        find(manager, tenant, after)
        for program in rest:
            if program.id == after:
                break
    shown = [ProgramModel.of(program) for program in islice(rest, limit)]
    statistics = manager.table.statistics()
    return ProgramList(
        data=shown,
        has_more=next(rest, None) is not None,
        statistics={name: getattr(statistics, name) for name in statistics.__slots__}
        if all_counters
        else {"programs": len(programs)},
        identified=dict(manager.identities.recognised) if all_counters else None,
        ignored=dict(manager.identities.ignored) if all_counters else None,
    )
