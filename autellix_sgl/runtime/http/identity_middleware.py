"""Reads a generation request's program before the endpoint runs, and heads the response with it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autellix_sgl.errors import InvalidProgram
from autellix_sgl.runtime.asgi import path_of
from autellix_sgl.runtime.http.tenant_middleware import caller_of
from autellix_sgl.runtime.tokenizer.call_progress import REQUEST_ATTRIBUTE, Progress

if TYPE_CHECKING:
    from autellix_sgl.runtime.tokenizer.manager import ProgramTokenizerManager

RESPONSES = "/v1/responses"
STORED_RESPONSE = RESPONSES + "/"

GENERATION_PATHS = frozenset(
    {
        "/generate",
        "/v1/completions",
        "/v1/chat/completions",
        RESPONSES,
        "/v1/messages",
    }
)


class IdentityMiddleware:
    """Leaves a ProgramRequest in the request's ASGI scope, or answers HTTP 400.

    Before the endpoint, so that a streamed request with a bad id gets a status and not an event.
    """

    def __init__(self, app: ASGIApp, *, manager: ProgramTokenizerManager) -> None:
        self._app = app
        self._manager = manager

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = path_of(scope)
        if path.startswith(STORED_RESPONSE) and not self._may_use(scope, path):
            await _refuse(scope, receive, send, InvalidProgram("response_id", "is unknown"), 404)
            return
        if path not in GENERATION_PATHS:
            await self._app(scope, receive, send)
            return
        await self._identified(scope, receive, send)

    async def _identified(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, left = await _read_body(receive)
        again = _replay(body, left, receive)
        if left is not None:
            await self._app(scope, again, send)
            return
        try:
            request = self._manager.identify(
                scope["headers"],
                body,
                tenant=caller_of(scope).tenant,
                stores=path_of(scope) == RESPONSES,
            )
        except InvalidProgram as error:
            await _refuse(scope, receive, send, error, 400)
            return
        scope[REQUEST_ATTRIBUTE] = request
        headed = HeadedSend(send, request.progress)
        await self._app(scope, again, headed)

    def _may_use(self, scope: Scope, path: str) -> bool:
        """Whether a stored response is the caller's; without tenants everything is everybody's."""
        caller = caller_of(scope)
        response = path.removeprefix(STORED_RESPONSE).partition("/")[0]
        owned = self._manager.responses.program_of(caller.tenant, response) is not None
        return caller.admin or owned


class HeadedSend:
    """Sends a response with the program's headers added.

    The start is held back until the first piece of the body: by then a streamed call has its first
    token, so that how long it waited is known. SGLang itself sends nothing in between.
    """

    def __init__(self, send: Send, progress: Progress) -> None:
        self._send = send
        self._progress = progress
        self._start: MutableMapping[str, Any] | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is not None:
            start, self._start = self._start, None
            start["headers"] = [*start.get("headers", ()), *self._progress.headers()]
            await self._send(start)
        await self._send(message)


async def _read_body(receive: Receive) -> tuple[bytes, Message | None]:
    """The request's body, and the message with which the client left before it was all there."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(pieces), message
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces), None


def _replay(body: bytes, left: Message | None, receive: Receive) -> Receive:
    """A receive that gives the body again, in one piece, and then goes on with the real one."""
    pending = [{"type": "http.request", "body": body, "more_body": left is not None}]
    if left is not None:
        pending.append(dict(left))
    coming = iter(pending)

    async def replayed() -> Message:
        for message in coming:
            return message
        return await receive()

    return replayed


async def _refuse(
    scope: Scope, receive: Receive, send: Send, error: InvalidProgram, status: int
) -> None:
    """Answer in the form that clients of OpenAI's and of Anthropic's APIs both understand."""
    problem = {
        "message": str(error),
        "type": "invalid_request_error" if status == 400 else "not_found_error",
        "param": error.field,
        "code": status,
    }
    response = JSONResponse({"type": "error", "error": problem}, status_code=status)
    await response(scope, receive, send)
