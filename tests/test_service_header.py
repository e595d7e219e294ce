"""The response header that carries a program's service to the next server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from autellix_sgl.runtime.service_header import SERVICE_HEADER, ServiceHeaderMiddleware


def headers_of_answer(service_ms: float | None, kind: str = "http") -> list[tuple[bytes, bytes]]:
    """What a client gets of an app that answers with one header of its own."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": f"{kind}.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": f"{kind}.response.body", "body": b"text"})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the body is the app's to read")

    middleware = ServiceHeaderMiddleware(app, service_of=lambda scope: service_ms)
    asyncio.run(middleware({"type": kind}, receive, send))
    assert sent[1]["body"] == b"text"
    return list(sent[0]["headers"])


@pytest.mark.parametrize(("service_ms", "shown"), [(0.0, b"0.000"), (1234.5678, b"1234.568")])
def test_the_programs_service_is_added(service_ms: float, shown: bytes) -> None:
    """In milliseconds, after the app's own headers."""
    assert headers_of_answer(service_ms) == [(b"a", b"b"), (SERVICE_HEADER, shown)]


def test_without_a_live_program_nothing_is_added() -> None:
    """A request that named none, or whose program ended with it."""
    assert headers_of_answer(None) == [(b"a", b"b")]


def test_only_http_is_touched() -> None:
    """Other connections pass through."""
    assert headers_of_answer(1.0, kind="websocket") == [(b"a", b"b")]
