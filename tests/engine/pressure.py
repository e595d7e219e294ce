"""A long call under pressure: short calls of new programs push in while it streams."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.engine.harness import Server, generation

# After every so many chunks of the long call, so many short calls come.
EVERY = 12
SHORT_CALLS = 5
SHORT_TOKENS = 3
ATTEMPTS = 5

Between = Callable[[httpx.AsyncClient], Awaitable[None]]


@dataclass(frozen=True)
class Answer:
    """What a call returned; ``texts`` are those of its streamed chunks."""

    tokens: list[int]
    text: str
    meta: dict[str, Any]
    texts: tuple[str, ...]

    @property
    def preemptions(self) -> int:
        return int(self.meta["program"]["preemptions"])


def alone(server: Server, body: Mapping[str, Any]) -> Answer:
    """The answer of a streamed call that nobody disturbs."""

    async def nothing(_: httpx.AsyncClient) -> None:
        return

    return disturbed(server, body, nothing)


def pressed(
    server: Server,
    body: Mapping[str, Any],
    *,
    short: Mapping[str, Any] | None = None,
    attempts: int = ATTEMPTS,
) -> Answer:
    """The answer of a streamed call that short calls, with *short* sampling, push out.

    On a busy machine the call may end before they come; then it is made again, *attempts* in all.
    """

    async def push(client: httpx.AsyncClient) -> None:
        calls = [short_call(client, server.url, short or {}) for _ in range(SHORT_CALLS)]
        await asyncio.gather(*calls)

    for attempt in range(attempts):
        answer = disturbed(server, body, push)
        if answer.preemptions > 0:
            break
        print(f"not preempted in attempt {attempt}")
    return answer


async def short_call(client: httpx.AsyncClient, url: str, sampling: Mapping[str, Any]) -> None:
    """A few tokens for a program of its own."""
    prompt = [random.randrange(100, 40000) for _ in range(8)]
    body = {"input_ids": prompt, "sampling_params": generation(SHORT_TOKENS, **sampling)}
    response = await client.post(f"{url}/generate", json=body)
    response.raise_for_status()


def disturbed(server: Server, body: Mapping[str, Any], between: Between) -> Answer:
    """The answer of a streamed call; *between* is awaited after every EVERY chunks."""

    async def run() -> Answer:
        async with httpx.AsyncClient(timeout=300) as client:
            return await _stream(client, server.url, body, between)

    return asyncio.run(run())


async def _stream(
    client: httpx.AsyncClient, url: str, body: Mapping[str, Any], between: Between
) -> Answer:
    last: dict[str, Any] = {}
    texts: list[str] = []
    request = {**body, "stream": True}
    async with client.stream("POST", f"{url}/generate", json=request) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            last = json.loads(line.removeprefix("data: "))
            texts.append(last["text"])
            if len(texts) % EVERY == 0 and last["meta_info"]["finish_reason"] is None:
                await between(client)
    return Answer(last["output_ids"], last["text"], last["meta_info"], tuple(texts))
