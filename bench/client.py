"""The load generator's HTTP side: cheap, since it runs on the server's own cores.

aiohttp and not httpx: with 300 calls in flight a call costs 0.1 ms of CPU, against 15.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from bench.engines import Engine
from bench.records import Answer
from bench.replay import Call, ReplayError

# What an engine keeps back of its context length for itself; SGLang's is 6 tokens.
CONTEXT_MARGIN_TOKENS = 8

# Servers close an idle connection after 5 s; one that is about to be closed must not be used.
KEEP_ALIVE_S = 2.0


class Client:
    """Calls to one running server; made by :func:`connected`."""

    def __init__(self, http: aiohttp.ClientSession, engine: Engine) -> None:
        self._http = http
        self._engine = engine
        self._releases: list[asyncio.Task[Any]] = []

    async def send(self, call: Call) -> Answer:
        """The answer to *call*; raises ReplayError for any but HTTP 200."""
        path, body = self._engine.request(call)
        return self._engine.answer(await self._post(path, body, f"program {call.program}"))

    def ended(self, program: str) -> None:
        """Tell a server that wants to know; nothing waits for its answer."""
        release = self._engine.release(program)
        if release is not None:
            told = self._post(*release, f"release of {program}")
            self._releases.append(asyncio.create_task(told))

    async def context_tokens(self) -> int:
        """The longest prompt and output together that the server takes."""
        async with self._http.get("/v1/models") as response:
            found = orjson.loads(await response.read())
        return int(found["data"][0]["max_model_len"]) - CONTEXT_MARGIN_TOKENS

    async def flush(self) -> None:
        """Empty the server's prefix cache; raises ReplayError if it does not."""
        await self._engine.flush(self._http)

    async def settle(self) -> None:
        """Wait until what :meth:`ended` told has arrived."""
        await asyncio.gather(*self._releases)

    async def _post(self, path: str, body: dict[str, Any], what: str) -> Any:
        try:
            async with self._http.post(path, data=orjson.dumps(body)) as response:
                content = await response.read()
        except aiohttp.ClientError as error:
            raise ReplayError(f"{what}: {type(error).__name__}: {error}") from error
        if response.status != 200:
            said = content.decode(errors="replace")[:500]
            raise ReplayError(f"{what}: HTTP {response.status}: {said}")
        return orjson.loads(content)


@asynccontextmanager
async def connected(url: str, engine: Engine) -> AsyncIterator[Client]:
    """A client of the server at *url*, without limits: how many calls wait is its business."""
    async with aiohttp.ClientSession(
        url,
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"Content-Type": "application/json"},
    ) as http:
        client = Client(http, engine)
        yield client
        await client.settle()
