"""The HTTP side: identity is read before an endpoint runs, and programs can be looked at.

Both hang on SGLang's FastAPI app. The middleware is added before SGLang adds its API-key check, so
the check runs first and guards these routes like all others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, HTTPException, Query
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autellix_sgl.core import Program
from autellix_sgl.errors import InvalidProgram, UnknownProgram
from autellix_sgl.runtime.identity import check_id, identity_of_body
from autellix_sgl.runtime.service_header import ServiceHeaderMiddleware
from autellix_sgl.runtime.tokenizer_manager import (
    IDENTITY_ATTRIBUTE,
    ProgramTokenizerManager,
)

GENERATION_PATHS = (
    "/generate",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
)

MAX_PAGE = 1000


class IdentityMiddleware:
    """Reads a generation request's program into its ASGI scope, or answers HTTP 400.

    Before the endpoint, so that a streamed request with a bad id gets a status and not an event.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in GENERATION_PATHS:
            await self._app(scope, receive, send)
            return
        messages, complete = await _read_body(receive)
        if complete:
            body = b"".join(message.get("body", b"") for message in messages)
            try:
                scope[IDENTITY_ATTRIBUTE] = identity_of_body(body)
            except InvalidProgram as error:
                await _bad_request(error)(scope, receive, send)
                return
        await self._app(scope, _replay(messages, receive), send)


async def _read_body(receive: Receive) -> tuple[list[Message], bool]:
    """All of a request's messages, and whether its body is complete (the client may be gone)."""
    messages: list[Message] = []
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            return messages, False
        if not message.get("more_body", False):
            return messages, True


def _replay(messages: Iterable[Message], receive: Receive) -> Receive:
    """A receive that gives *messages* again and then goes on with the real one."""
    pending = iter(messages)

    async def replayed() -> Message:
        for message in pending:
            return message
        return await receive()

    return replayed


def _bad_request(error: InvalidProgram) -> JSONResponse:
    return JSONResponse(
        {
            "error": {
                "message": str(error),
                "type": "invalid_request_error",
                "param": error.field,
                "code": 400,
            }
        },
        status_code=400,
    )


def install(app: FastAPI, manager: ProgramTokenizerManager) -> None:
    """Add the middleware and the ``/v1/programs`` routes for *manager* to SGLang's app."""
    app.add_middleware(IdentityMiddleware)
    if manager.program_args.carry_service:
        app.add_middleware(ServiceHeaderMiddleware, service_of=manager.service_of)

    @app.get("/v1/programs", tags=["programs"])
    async def list_programs(
        limit: int = Query(100, ge=1, le=MAX_PAGE, description="At most this many."),
        after: str | None = Query(None, description="Continue after this program id."),
    ) -> dict[str, Any]:
        """Live programs, oldest first, and the table's counters."""
        return page_of_programs(manager, limit=limit, after=after)

    @app.get("/v1/programs/{program_id:path}", tags=["programs"])
    async def get_program(program_id: str) -> dict[str, Any]:
        """One live program."""
        return describe(_find(manager, program_id))

    @app.delete("/v1/programs/{program_id:path}", tags=["programs"])
    async def end_program(program_id: str) -> dict[str, Any]:
        """The program is over: forget it, now or when its last active call has left."""
        _find(manager, program_id)
        return describe(manager.table.end(program_id))


def _find(manager: ProgramTokenizerManager, program_id: str) -> Program:
    try:
        return manager.table.program(check_id("program_id", program_id))
    except InvalidProgram as error:
        raise HTTPException(status_code=400, detail=str(error)) from error
    except UnknownProgram as error:
        raise HTTPException(status_code=404, detail=str(error)) from error


def page_of_programs(
    manager: ProgramTokenizerManager, *, limit: int, after: str | None
) -> dict[str, Any]:
    """One page of the table, oldest program first; raises HTTP 404 if *after* is not live."""
    programs = iter(manager.table)
    if after is not None:
        _find(manager, after)
        for program in programs:
            if program.id == after:
                break
    page = [describe(program) for _, program in zip(range(limit + 1), programs, strict=False)]
    more = len(page) > limit
    statistics = manager.table.statistics()
    return {
        "object": "list",
        "data": page[:limit],
        "has_more": more,
        "statistics": {name: getattr(statistics, name) for name in statistics.__slots__},
    }


def describe(program: Program) -> dict[str, Any]:
    """A program's state as JSON. Service and wait in modelled ms, times in Unix seconds."""
    return {
        "id": program.id,
        "object": "program",
        "transient": program.transient,
        "ended": program.ended,
        "created_at": program.created_at,
        "last_arrival_at": program.last_arrival_at,
        "last_completion_at": program.last_completion_at,
        "service_ms": program.service_ms,
        "total_service_ms": program.total_service_ms,
        "total_wait_ms": program.total_wait_ms,
        "calls_completed": program.calls_completed,
        "calls_aborted": program.calls_aborted,
        "preemptions": program.preemptions,
        "promotions": program.promotions,
        "replicas": {str(replica): calls for replica, calls in program.engines.items()},
        "threads": dict(program.threads),
        "active_calls": [
            {
                "id": call.id,
                "thread": call.thread,
                "arrived_at": call.arrived_at,
                "priority_ms": call.priority_ms,
            }
            for call in program.active.values()
        ],
    }
