"""A storm of agent programs: many calls over few slots, contexts that grow as they generate."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from tests.engine.harness import Server, generation

PROGRAMS = 40
CALLS = 5
LENGTHS = (4, 12, 40, 90)
LONG = 40


@dataclass(frozen=True)
class Outcome:
    """One call: what was asked for and what came back. ``chunks`` is empty unless streamed."""

    program: int
    call: int
    asked: int
    tokens: list[int]
    text: str
    chunks: list[str]
    meta: dict[str, Any]


async def call(
    client: httpx.AsyncClient, url: str, body: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """One /generate; the last message, and the text after each streamed chunk."""
    if not body.get("stream"):
        response = await client.post(f"{url}/generate", json=body)
        response.raise_for_status()
        return response.json(), []
    last: dict[str, Any] = {}
    texts: list[str] = []
    async with client.stream("POST", f"{url}/generate", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                last = json.loads(line.removeprefix("data: "))
                texts.append(last["text"])
    return last, texts


async def program(
    client: httpx.AsyncClient, url: str, number: int, lengths: Sequence[int]
) -> list[Outcome]:
    """CALLS calls one after another; each prompt is the context so far and a few new tokens."""
    rng = random.Random(number)
    context = [rng.randrange(100, 40000) for _ in range(rng.randrange(20, 150))]
    outcomes = []
    for index in range(CALLS):
        asked = rng.choice(lengths)
        body = {
            "input_ids": context,
            "sampling_params": generation(asked),
            "program": {"id": f"storm-{number}", "end": index == CALLS - 1},
            "stream": index % 2 == 1,
        }
        last, chunks = await call(client, url, body)
        outcomes.append(
            Outcome(
                number, index, asked, last["output_ids"], last["text"], chunks, last["meta_info"]
            )
        )
        context = context + last["output_ids"] + [rng.randrange(100, 40000) for _ in range(8)]
    return outcomes


async def aborting_client(url: str, number: int) -> None:
    """A client that asks for a lot, streamed or not, and goes away in the middle."""
    rng = random.Random(1000 + number)
    body = {
        "input_ids": [rng.randrange(100, 40000) for _ in range(rng.randrange(30, 300))],
        "sampling_params": generation(400),
        "program": {"id": f"abort-{number}"},
        "stream": number % 2 == 0,
    }
    async with httpx.AsyncClient(timeout=rng.uniform(0.2, 4.0)) as client:
        with suppress(httpx.TimeoutException):
            await call(client, url, body)


def storm(
    server: Server,
    *,
    programs: int = PROGRAMS,
    lengths: Sequence[int] = LENGTHS,
    aborting: int = 0,
) -> list[Outcome]:
    """Run all programs at once (and some clients that give up); outcomes by program and call."""

    async def run() -> Iterable[list[Outcome]]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=600, limits=limits) as client:
            quitters = [
                asyncio.create_task(aborting_client(server.url, i)) for i in range(aborting)
            ]
            results = await asyncio.gather(
                *(program(client, server.url, i, lengths) for i in range(programs))
            )
            await asyncio.gather(*quitters)
            return results

    return [outcome for outcomes in asyncio.run(run()) for outcome in outcomes]
