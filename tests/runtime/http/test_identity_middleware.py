"""Between the HTTP server and SGLang's endpoints: bodies pass unchanged, responses are headed."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from autellix_sgl.runtime.http.identity_middleware import IdentityMiddleware
from autellix_sgl.runtime.http.tenant_middleware import CALLER, Caller
from autellix_sgl.runtime.identity import ANONYMOUS, IdentityReader
from autellix_sgl.runtime.tokenizer.call_progress import (
    REQUEST_ATTRIBUTE,
    ProgramRequest,
    Progress,
)
from autellix_sgl.runtime.tokenizer.responses import ResponsePrograms


def report(level: int, wait_ms: float) -> Any:
    return SimpleNamespace(level=level, wait_ms=wait_ms)


class Manager:
    """What the middleware asks of the tokenizer manager."""

    def __init__(self) -> None:
        self.responses = ResponsePrograms(2)
        self._reader = IdentityReader(self.responses.program_of)

    def identify(self, headers: Any, body: bytes, *, tenant: str, stores: bool) -> ProgramRequest:
        identity = self._reader.read(headers, body, tenant=tenant).identity
        return ProgramRequest(identity, Progress(identity.program), continuable=stores)


class Endpoint:
    """An app that reads its body, lets a call be reported, and answers."""

    def __init__(self, *reports: Any) -> None:
        self.reports = reports
        self.body = b""
        self.requests: list[ProgramRequest] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            self.body += message.get("body", b"")
            more = message.get("more_body", False)
        request = scope.get(REQUEST_ATTRIBUTE) or ProgramRequest.of(ANONYMOUS)
        self.requests.append(request)
        start = {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]}
        await send(start)
        for each in self.reports:
            request.progress.note(each)
            request.progress.service_ms = 12.5
        await send({"type": "http.response.body", "body": b"hi", "more_body": False})


def exchange(
    app: Any, chunks: list[bytes], *, path: str = "/generate", **scope: Any
) -> tuple[list[Any], Manager]:
    """Everything sent in answer to a request whose body comes in *chunks*."""
    sent: list[Any] = []
    pending = [
        {"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)}
        for i, chunk in enumerate(chunks)
    ]

    async def receive() -> Any:
        return pending.pop(0) if pending else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    manager = Manager()
    whole = {"type": "http", "path": path, "headers": [], **scope}
    middleware = IdentityMiddleware(app, manager=manager)  # type: ignore[arg-type]
    asyncio.run(middleware(whole, receive, send))
    return sent, manager


def test_the_endpoint_reads_the_body_as_it_came() -> None:
    """However it was cut into pieces."""
    body = json.dumps({"text": "hi", "program": {"id": "läuft"}}).encode()
    endpoint = Endpoint()
    exchange(endpoint, [body[:7], b"", body[7:]])
    assert endpoint.body == body
    assert endpoint.requests[0].identity.program == "läuft"


def test_a_response_is_headed_with_what_its_first_piece_knows() -> None:
    """The start waits for the body: level and wait are the worst of the request's calls."""
    endpoint = Endpoint(report(0, 7.0), report(3, 1.5))
    sent, _ = exchange(endpoint, [b'{"program": {"id": "a"}}'])
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert dict(sent[0]["headers"]) == {
        b"x-a": b"1",
        b"x-program-id": b"a",
        b"x-program-level": b"3",
        b"x-program-waited-ms": b"7.000",
        b"x-program-service-ms": b"12.500",
    }


def test_what_is_not_known_is_not_in_the_headers() -> None:
    """No call was made, or none was reported yet."""
    sent, _ = exchange(Endpoint(), [b"{}"])
    assert [name for name, _ in sent[0]["headers"]] == [b"x-a"]


@pytest.mark.parametrize("path", ["/generate", "/llm/generate", "/v1/messages"])
def test_a_bad_id_never_reaches_the_endpoint(path: str) -> None:
    """HTTP 400 with the field, in a shape that OpenAI's and Anthropic's clients read."""
    endpoint = Endpoint()
    bad = [b'{"program": {"id": 7}}']
    sent, _ = exchange(endpoint, bad, path=path, root_path="/llm" if "llm" in path else "")
    assert sent[0]["status"] == 400
    answer = json.loads(sent[1]["body"])
    assert answer["type"] == "error"
    assert answer["error"]["param"] == "program.id"
    assert not endpoint.requests


def test_other_paths_and_clients_that_leave_pass_through() -> None:
    """A body is read only where programs are made, and only if it is all there."""
    endpoint = Endpoint()
    exchange(endpoint, [b'{"program": {"id": 7}}'], path="/encode")
    assert endpoint.requests[0].identity.program is None
    gone = Endpoint()
    exchange(gone, [])
    assert gone.requests[0].identity.program is None


def test_a_stored_response_is_its_tenants_alone() -> None:
    """Looking at another's, or cancelling it, answers as if it were not there."""

    def status(caller: Caller) -> int:
        manager_app = Endpoint()
        scope = {CALLER: caller}
        sent, _ = exchange(manager_app, [b""], path="/v1/responses/resp_1/cancel", **scope)
        return int(sent[0]["status"])

    assert status(Caller(admin=True)) == 200
    assert status(Caller("one")) == 404


def test_responses_are_remembered_by_tenant_and_only_so_many() -> None:
    """The oldest is forgotten first."""
    responses = ResponsePrograms(2)
    for number in range(3):
        responses.remember("one", f"resp_{number}", "run")
    assert len(responses) == 2
    assert responses.program_of("one", "resp_0") is None
    assert responses.program_of("one", "resp_2") == "run"
    assert responses.program_of("two", "resp_2") is None
