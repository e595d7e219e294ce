"""One generation request on its way: whose it is, and what can be said of its calls so far."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autellix_sgl.runtime.asgi import scope_of
from autellix_sgl.runtime.identity import ANONYMOUS, Identity

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.managers.io_struct import GenerateReqInput

    from autellix_sgl.runtime.wire import CallReport

# Where a ProgramRequest is kept: in the ASGI scope, then on SGLang's request object.
REQUEST_ATTRIBUTE = "autellix_request"

# Whose the calls are that are made in this process, without HTTP.
LOCAL_IDENTITY: ContextVar[Identity] = ContextVar("autellix_local_identity", default=ANONYMOUS)

PROGRAM_HEADER = b"x-program-id"
LEVEL_HEADER = b"x-program-level"
WAITED_HEADER = b"x-program-waited-ms"
SERVICE_HEADER = b"x-program-service-ms"


@dataclass(slots=True)
class Progress:
    """What the response's headers say; filled in as calls arrive, start and finish.

    A request can be several calls. ``level`` is the worst of theirs and ``waited_ms`` (modelled)
    the longest wait, as far as the schedulers have told. ``service_ms`` is what the program has
    had: at the arrival of the latest call, then with the call that left last.
    """

    program: str | None = None
    level: int | None = None
    waited_ms: float | None = None
    service_ms: float | None = None

    def note(self, report: CallReport) -> None:
        """A scheduler told of a call: at its first output if it is streamed, and at its last."""
        self.level = max(self.level or 0, report.level)
        self.waited_ms = max(self.waited_ms or 0.0, report.wait_ms)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The response headers, as far as there is something to say."""
        headers: list[tuple[bytes, bytes]] = []
        if self.program is not None:
            headers.append((PROGRAM_HEADER, self.program.encode()))
        if self.level is not None:
            headers.append((LEVEL_HEADER, str(self.level).encode()))
        if self.waited_ms is not None:
            headers.append((WAITED_HEADER, f"{self.waited_ms:.3f}".encode()))
        if self.service_ms is not None:
            headers.append((SERVICE_HEADER, f"{self.service_ms:.3f}".encode()))
        return headers


@dataclass(frozen=True, slots=True)
class ProgramRequest:
    """Goes with a request from the middleware to where its calls are sent and reported.

    ``continuable``: a later request may name the response to continue it.
    """

    identity: Identity
    progress: Progress
    continuable: bool = False

    @classmethod
    def of(cls, identity: Identity) -> ProgramRequest:
        """A request that did not come over HTTP."""
        return cls(identity, Progress(identity.program))

    def named(self, request_id: str) -> ProgramRequest:
        """The same request, with a program of its own if it named none."""
        identity = self.identity.or_own(request_id, kept=self.continuable)
        return replace(self, identity=identity)

    def for_prompt(self, index: int) -> ProgramRequest:
        """The same request, seen as its prompt *index*."""
        return replace(self, identity=self.identity.for_prompt(index))


def request_of(obj: GenerateReqInput) -> ProgramRequest:
    """What goes with *obj* since it entered the tokenizer manager."""
    request: ProgramRequest = getattr(obj, REQUEST_ATTRIBUTE)
    return request


def request_behind(obj: GenerateReqInput, request: Request | None) -> ProgramRequest:
    """What the middleware left in the HTTP request, or what a call in this process says."""
    if request is not None:
        ours = scope_of(request).get(REQUEST_ATTRIBUTE)
        return ours if isinstance(ours, ProgramRequest) else ProgramRequest.of(ANONYMOUS)
    identity = LOCAL_IDENTITY.get()
    if identity.program is None and obj.session_id is not None:
        identity = Identity(obj.session_id, source="session_id")
    return ProgramRequest.of(identity)
