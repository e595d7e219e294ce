"""Who waits for the end of the start, and who does not; what a client that leaves has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from autellix_sgl.runtime.tokenizer import opening as opening_module
from autellix_sgl.runtime.tokenizer.opening import OWN, Opening, OwnAddress, OwnRequests


class Client:
    """As much of an HTTP request as is looked at; it leaves when it is told to."""

    def __init__(self, *, own: bool = False) -> None:
        self.scope = {OWN: True} if own else {}
        self.left = False

    async def is_disconnected(self) -> bool:
        return self.left


class Call:
    """SGLang's stream of one call's outputs."""

    def __init__(self) -> None:
        self.begun = self.closed = False

    async def stream(self) -> AsyncGenerator[Any, None]:
        self.begun = True
        try:
            yield 1
            yield 2
        finally:
            self.closed = True


def closed() -> Opening:
    opening = Opening()
    opening.close()
    return opening


def generate(*, background: bool = False) -> Any:
    return SimpleNamespace(rid=None, background=background)


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_users_calls_wait_and_the_servers_own_do_not() -> None:
    """Nobody waits once it is open, nor where it was never closed."""
    user: Any = Client()
    own: Any = Client(own=True)
    opening = closed()
    assert opening.holds(user)
    assert not opening.holds(own)
    opening.open()
    assert not opening.holds(user)
    assert not Opening().holds(user)


def test_a_call_begins_when_it_is_let_go() -> None:
    """Not before, and then it is answered whole."""

    async def play() -> None:
        opening, call = closed(), Call()
        outputs = opening.outputs(call.stream(), generate(), Client())  # type: ignore[arg-type]
        answer = asyncio.ensure_future(anext(outputs))
        await until(lambda: opening.waiting == 1)
        assert not call.begun
        opening.open()
        assert [await answer, *[output async for output in outputs]] == [1, 2]
        assert call.closed
        assert opening.waiting == 0

    asyncio.run(play())


def test_a_client_that_leaves_while_it_waits_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its call never begins; one in the background has no client to wait for."""
    monkeypatch.setattr(opening_module, "DISCONNECT_PERIOD_S", 0.001)

    async def play() -> None:
        opening, call, client = closed(), Call(), Client()
        outputs = opening.outputs(call.stream(), generate(), client)  # type: ignore[arg-type]
        answer = asyncio.ensure_future(anext(outputs))
        behind, kept = Call(), generate(background=True)
        background = opening.outputs(behind.stream(), kept, client)  # type: ignore[arg-type]
        later = asyncio.ensure_future(anext(background))
        await until(lambda: opening.waiting == 2)
        client.left = True
        with pytest.raises(ValueError, match="left"):
            await answer
        assert opening.waiting == 1
        opening.open()
        assert await later == 1
        assert not call.begun
        await background.aclose()

    asyncio.run(play())


def test_a_client_that_leaves_in_the_middle_ends_its_call_at_once() -> None:
    """SGLang's clean-up runs when the answer is given up, not when it is collected."""

    async def play() -> None:
        opening, call = closed(), Call()
        outputs = opening.outputs(call.stream(), generate(), Client())  # type: ignore[arg-type]
        opening.open()
        assert await anext(outputs) == 1
        await outputs.aclose()
        assert call.closed

    asyncio.run(play())


def test_only_what_is_below_the_prefix_is_the_servers_own() -> None:
    """The path is taken off, a reverse proxy's stays; a user's request is not touched."""
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    prefix = Opening().prefix
    address = OwnAddress(SimpleNamespace(url=lambda: "http://here:1", ssl_ca_certs=None), prefix)
    assert address.url() == f"http://here:1{prefix}"
    assert address.ssl_ca_certs is None
    own = OwnRequests(app, prefix=prefix)
    for path, root in (
        (f"{prefix}/generate", ""),
        (f"/proxy{prefix}/generate", "/proxy"),
        ("/generate", ""),
        (f"{prefix}x/generate", ""),
    ):
        scope = {"type": "http", "path": path, "root_path": root}
        asyncio.run(own(scope, None, None))  # type: ignore[arg-type]
    assert [(scope["path"], scope.get(OWN, False)) for scope in seen] == [
        ("/generate", True),
        ("/proxy/generate", True),
        ("/generate", False),
        (f"{prefix}x/generate", False),
    ]
