"""A storm of agent programs: many calls over few slots, contexts that grow as they generate.

Each program's calls ask for another thing each, drawn by the program's number: penalties, a minimal
length, log-probabilities, a grammar, stop strings, two answers, an id used again. A call that is
refused or aborted is sent again, as an agent would, until it is answered in full.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.engine.harness import Server, generation

PROGRAMS = 40
CALLS = 5
LENGTHS = (4, 12, 40, 90)
LONG = 40

# What a client waits before it sends a refused call again.
BACK_OFF_S = 0.05

PENALTIES = {"frequency_penalty": 1.5, "presence_penalty": 0.7, "repetition_penalty": 1.2}

# Tokens that the model would end with, were it not for a minimal length.
MANY_TOKENS = list(range(100, 40000, 7))

# Sampling parameters and request fields by kind of call.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "penalties": (PENALTIES, {}),
    "minimum": ({"stop_token_ids": MANY_TOKENS, "ignore_eos": False}, {}),
    "logprobs": ({}, {"return_logprob": True, "top_logprobs_num": 2}),
    "prompt-logprobs": ({}, {"return_logprob": True, "logprob_start_len": 0}),
    "grammar": ({"regex": "[a-z ]{8,400}"}, {}),
    "stop": ({"stop": ["a", "qu", "the end"]}, {}),
    "two": ({"n": 2}, {}),
    "bias": ({"logit_bias": {"500": 3.0, "900": -3.0}}, {}),
}
ORDER = tuple(KINDS)
FULL_LENGTH = ("plain", "penalties", "logprobs", "prompt-logprobs", "two", "bias")


@dataclass(frozen=True)
class Outcome:
    """One call: what was asked for and what came back.

    ``tokens`` are those of all its answers, one after another. ``chunks`` is empty unless it was
    streamed, ``refused`` counts how often it had to be sent again.
    """

    program: int
    call: int
    kind: str
    asked: int
    tokens: list[int]
    text: str
    chunks: list[str]
    meta: dict[str, Any]
    refused: int = 0
    logprobs: list[float] = field(default_factory=list)


Answer = tuple[int, list[dict[str, Any]], list[str]]
"""Status, the last message of each of the call's answers, the text after each streamed chunk."""


async def call(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Answer:
    """One /generate."""
    if not body.get("stream"):
        response = await client.post(f"{url}/generate", json=body)
        answer = response.json()
        return response.status_code, answer if isinstance(answer, list) else [answer], []
    last: dict[int, dict[str, Any]] = {}
    texts: list[str] = []
    async with client.stream("POST", f"{url}/generate", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                message = json.loads(line.removeprefix("data: "))
                last[message.get("index", 0)] = message
                texts.append(message.get("text", ""))
        return response.status_code, [last[index] for index in sorted(last)], texts


def answered(answer: Answer) -> bool:
    """Whether the call came to its own end: it was neither refused nor aborted."""
    status, messages, _ = answer
    return (
        status == 200
        and bool(messages)
        and all("meta_info" in message for message in messages)
        and all(message["meta_info"]["finish_reason"]["type"] != "abort" for message in messages)
    )


async def insistent(
    client: httpx.AsyncClient, url: str, body: dict[str, Any]
) -> tuple[Answer, int]:
    """Send a call until it is answered; how often it was not."""
    refused = 0
    while not answered(answer := await call(client, url, body)):
        status, messages, _ = answer
        assert status in (200, 503), (status, messages)
        refused += 1
        await asyncio.sleep(BACK_OFF_S)
    return answer, refused


async def program(
    client: httpx.AsyncClient,
    url: str,
    number: int,
    lengths: Sequence[int],
    kinds: Sequence[str],
    outcomes: list[Outcome],
) -> None:
    """CALLS calls one after another; each prompt is the context so far and a few new tokens."""
    rng = random.Random(number)
    context = [rng.randrange(100, 40000) for _ in range(rng.randrange(20, 150))]
    for index in range(CALLS):
        asked = rng.choice(lengths)
        kind = kinds[(number + index * 2) % len(kinds)]
        sampling, fields = KINDS[kind]
        if kind == "minimum":
            sampling = {**sampling, "min_new_tokens": asked // 2}
        body = {
            "input_ids": context,
            "sampling_params": {**generation(asked), **sampling},
            "program": {"id": f"storm-{number}", "end": index == CALLS - 1},
            "stream": index % 2 == 1 and kind != "two",
            **fields,
        }
        if kind != "two" and number % 3 == 0:
            body["rid"] = f"storm-{number}"
        answer, refused = await insistent(client, url, body)
        outcome = _outcome(number, index, kind, asked, answer, refused)
        outcomes.append(outcome)
        answer_ids = answer[1][0]["output_ids"]
        context = context + answer_ids + [rng.randrange(100, 40000) for _ in range(8)]


def _outcome(
    number: int, index: int, kind: str, asked: int, answer: Answer, refused: int
) -> Outcome:
    _, messages, texts = answer
    first = messages[0]
    logprobs = [row[0] for row in first["meta_info"].get("output_token_logprobs", ())]
    tokens = [token for message in messages for token in message["output_ids"]]
    return Outcome(
        program=number,
        call=index,
        kind=kind,
        asked=asked,
        tokens=tokens,
        text=first["text"],
        chunks=texts,
        meta=first["meta_info"],
        refused=refused,
        logprobs=logprobs,
    )


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


async def operator(client: httpx.AsyncClient, url: str, served: list[Outcome]) -> None:
    """Pauses the server in every way, continues it, and aborts everything, as calls come back."""
    orders: list[tuple[str, dict[str, Any]]] = [
        ("pause_generation", {"mode": "retract"}),
        ("continue_generation", {}),
        ("pause_generation", {"mode": "in_place"}),
        ("continue_generation", {}),
        ("abort_request", {"abort_all": True}),
        ("pause_generation", {"mode": "abort"}),
        ("continue_generation", {}),
    ]
    for turn in range(2):
        for number, (path, body) in enumerate(orders):
            at = 20 + 70 * turn + 8 * number
            while len(served) < at and path != "continue_generation":
                await asyncio.sleep(BACK_OFF_S)
            response = await client.post(f"{url}/{path}", json=body)
            assert response.status_code == 200, (path, response.text)


def storm(
    server: Server,
    *,
    programs: int = PROGRAMS,
    lengths: Sequence[int] = LENGTHS,
    kinds: Sequence[str] = ORDER,
    aborting: int = 0,
    disturbed: bool = False,
) -> list[Outcome]:
    """Run all programs at once (and some clients that give up, and an operator who does not leave
    the server alone); outcomes by program and call."""

    outcomes: list[Outcome] = []

    async def run() -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=600, limits=limits) as client:
            tasks = [asyncio.create_task(aborting_client(server.url, i)) for i in range(aborting)]
            tasks += [
                asyncio.create_task(program(client, server.url, i, lengths, kinds, outcomes))
                for i in range(programs)
            ]
            if disturbed:
                await operator(client, server.url, outcomes)
            await asyncio.gather(*tasks)

    asyncio.run(run())
    return sorted(outcomes, key=lambda outcome: (outcome.program, outcome.call))
