"""Two servers behind SGLang's model gateway, as tools/gateway.py starts them.

The tests share the servers and leave fewer of them: their order matters.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

import autellix_sgl
from bench.servers import free_port
from tests.engine.harness import cost_file, generation, tiny_flags

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
CALLS = 3
SERVER = "x-smg-routed-worker-id"


@dataclass
class Fleet:
    """The gateway's address, and the process of each server behind it by its address."""

    gateway: str
    pids: dict[str, int]


@pytest.fixture(scope="module")
def fleet(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Everything up; stopped afterwards by the script itself."""
    folder = tmp_path_factory.mktemp("gateway")
    flags = [*tiny_flags(tiny_model, slots=8), "--program-cost-model", cost_file(folder)]
    words = [sys.executable, str(ROOT / "tools" / "gateway.py"), "--port", str(free_port())]
    log = folder / "gateway.log"
    with log.open("wb") as errors:
        script = subprocess.Popen(
            [*words, "--", *flags],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        assert script.stdout is not None
        line = script.stdout.readline()
        assert line, log.read_text(errors="replace")[-4000:]
        parts = json.loads(line)
        yield Fleet(parts["gateway"], {s["url"]: s["pid"] for s in parts["servers"]})
    finally:
        script.send_signal(signal.SIGTERM)
        assert script.wait(timeout=180) == 0


@dataclass
class Agent:
    """A program that makes one call after another, with a client of our library."""

    program: autellix_sgl.Program
    http: httpx.AsyncClient
    servers: list[str] = field(default_factory=list)
    answered: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.program.id

    async def call(self, tokens: int = 12) -> httpx.Response:
        """One call through the gateway; a good answer is noted."""
        number = sum(self.name.encode())
        body = {
            "input_ids": [(number * 7919 + i * 31) % 40_000 + 10 for i in range(60)],
            "sampling_params": generation(tokens),
        }
        response = await self.http.post("/generate", json=body)
        if response.status_code == 200:
            self.servers.append(response.headers[SERVER])
            self.answered.append(response.json()["meta_info"])
        return response


@asynccontextmanager
async def agents_of(fleet: Fleet, name: str, count: int) -> AsyncIterator[list[Agent]]:
    """So many programs, none of which has made a call."""
    async with AsyncExitStack() as stack:
        agents = []
        for number in range(count):
            program = autellix_sgl.program(id=f"{name}-{number}", base_url=fleet.gateway)
            http = await stack.enter_async_context(program.async_httpx(timeout=120))
            agents.append(Agent(program, http))
        yield agents


async def make_calls(agents: list[Agent]) -> list[set[str]]:
    """Several calls of every program, the programs at once, all answered; who answered each's."""

    async def chain(agent: Agent) -> set[str]:
        responses = [(await agent.call()).raise_for_status() for _ in range(CALLS)]
        return {response.headers[SERVER] for response in responses}

    return await asyncio.gather(*(chain(agent) for agent in agents))


async def fly(
    http: httpx.AsyncClient, agents: list[Agent], tokens: int, server: str
) -> list[asyncio.Task[httpx.Response]]:
    """A long call of every program, once all those that go to *server* are in it."""
    flying = [asyncio.create_task(agent.call(tokens)) for agent in agents]
    expected = sum(agent.servers[-1] == server for agent in agents)
    async with asyncio.timeout(60):
        while await active_calls(http, server) < expected:
            await asyncio.sleep(0)
    return flying


async def active_calls(http: httpx.AsyncClient, server: str) -> int:
    page = (await http.get(f"{server}/v1/programs", params={"limit": 1})).json()
    return int(page["statistics"]["active_calls"])


async def programs_at(http: httpx.AsyncClient, server: str) -> dict[str, dict[str, Any]]:
    page = (await http.get(f"{server}/v1/programs", params={"limit": 1000})).json()
    return {program["id"]: program for program in page["data"]}


def run(scenario: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    """Play *scenario* with a client for what is asked of servers and gateway."""

    async def play() -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            await scenario(http)

    asyncio.run(play())


def test_a_server_taken_out_finishes_its_calls(fleet: Fleet) -> None:
    """No call fails, its programs go on elsewhere at once, and it can be put back."""

    async def scenario(http: httpx.AsyncClient) -> None:
        leaving, staying = fleet.pids
        async with agents_of(fleet, "early", 6) as agents:
            await make_calls(agents)
            flying = await fly(http, agents, 300, leaving)
            await take_out(http, leaving)
            assert await make_calls(agents) == [{staying}] * len(agents)
            for response in await asyncio.gather(*flying):
                assert response.status_code == 200
        await put_back(http, leaving)

    async def take_out(http: httpx.AsyncClient, server: str) -> None:
        workers = (await http.get(f"{fleet.gateway}/workers")).json()["workers"]
        [found] = [worker["id"] for worker in workers if worker["url"] == server]
        (await http.delete(f"{fleet.gateway}/workers/{found}")).raise_for_status()

    async def put_back(http: httpx.AsyncClient, server: str) -> None:
        """The gateway forgets a server some time after it said that it would."""
        async with asyncio.timeout(60):
            while not (await add(http, server)).is_success:
                await asyncio.sleep(0.1)
            while await healthy(http) < len(fleet.pids):
                await asyncio.sleep(0.1)

    async def add(http: httpx.AsyncClient, server: str) -> httpx.Response:
        return await http.post(f"{fleet.gateway}/workers", json={"url": server})

    async def healthy(http: httpx.AsyncClient) -> int:
        return int((await http.get(f"{fleet.gateway}/readiness")).json()["healthy_workers"])

    run(scenario)


def test_programs_stay_and_survive_a_killed_server(fleet: Fleet) -> None:
    """Pinned while their server lives; when it is killed, told so, and then served by the other.

    Nothing is answered twice, and at the other server a program is as old as it was.
    """

    async def scenario(http: httpx.AsyncClient) -> None:
        lost, kept = fleet.pids
        async with agents_of(fleet, "run", 20) as agents:
            used = await make_calls(agents)
            assert {len(servers) for servers in used} == {1}
            assert set.union(*used) == {lost, kept}
            await kill_midway(http, agents, lost)
            moved = [agent for agent in agents if agent.servers[0] == lost]
            await until_moved(moved)
            for agent in moved:
                check_age(agent, kept)
            assert await make_calls(agents) == [{kept}] * len(agents)
            served = await programs_at(http, kept)
            for agent in agents:
                assert served[agent.name]["calls_completed"] == agent.servers.count(kept)
                assert served[agent.name]["calls_aborted"] == 0
            answers = [meta["id"] for agent in agents for meta in agent.answered]
            assert len(set(answers)) == len(answers)

    async def kill_midway(http: httpx.AsyncClient, agents: list[Agent], lost: str) -> None:
        flying = await fly(http, agents, 400, lost)
        os.kill(fleet.pids[lost], signal.SIGKILL)
        for agent, response in zip(agents, await asyncio.gather(*flying), strict=True):
            if agent.servers[0] == lost:
                assert response.status_code >= 500
                assert response.json()["error"]["code"] == "call_upstream_request_error"
            else:
                assert response.status_code == 200

    async def until_moved(moved: list[Agent]) -> None:
        """The gateway looks every 2 s; until then calls are refused as never sent."""
        async with asyncio.timeout(60):
            for agent in moved:
                while (response := await agent.call()).status_code != 200:
                    assert response.json()["error"]["code"] == "call_upstream_connection_failed"

    def check_age(agent: Agent, kept: str) -> None:
        assert agent.servers[-1] == kept
        before, first = (meta["program"] for meta in agent.answered[-2:])
        had = before["priority_ms"] + before["service_ms"]
        assert first["id"] == agent.name
        assert first["priority_ms"] == pytest.approx(had, abs=0.01)

    run(scenario)


def test_a_server_that_is_told_to_end_finishes_its_calls(fleet: Fleet) -> None:
    """SIGTERM, as a supervisor sends it; the calls in flight are answered."""

    async def scenario(http: httpx.AsyncClient) -> None:
        _, last = fleet.pids
        async with agents_of(fleet, "late", 4) as agents:
            await make_calls(agents)
            flying = await fly(http, agents, 300, last)
            os.kill(fleet.pids[last], signal.SIGTERM)
            for response in await asyncio.gather(*flying):
                assert response.status_code == 200

    run(scenario)
