"""Two servers behind SGLang's model gateway, as tools/gateway.py starts them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.servers import free_port
from tests.engine.harness import cost_file, generation, tiny_flags

pytestmark = pytest.mark.engine

pytest.importorskip("smg", reason="the gateway is not installed: pip install smg==1.13.0")

ROOT = Path(__file__).parents[2]
PROGRAMS = 20
CALLS = 3
SERVICE = "x-program-service-ms"
SERVER = "x-smg-routed-worker-id"


@dataclass
class Fleet:
    """The gateway's address, and the address and process of each server behind it."""

    gateway: str
    pids: dict[str, int]
    log: Path


@pytest.fixture
def fleet(tiny_model: Path, tmp_path: Path) -> Iterator[Fleet]:
    """Everything up; everything stopped afterwards, the draining way."""
    flags = [*tiny_flags(tiny_model, slots=8), "--program-cost-model", cost_file(tmp_path)]
    words = [sys.executable, str(ROOT / "tools" / "gateway.py"), "--port", str(free_port())]
    log = tmp_path / "gateway.log"
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
        yield Fleet(parts["gateway"], {s["url"]: s["pid"] for s in parts["servers"]}, log)
    finally:
        script.send_signal(signal.SIGTERM)
        script.wait(timeout=180)


@dataclass
class Client:
    """One program's agent: calls one after another, and its service with them."""

    name: str
    http: httpx.AsyncClient
    url: str
    service_ms: float = 0.0
    servers: list[str] = field(default_factory=list)
    answered: list[dict[str, Any]] = field(default_factory=list)

    async def call(self, tokens: int) -> httpx.Response:
        """One call through the gateway; a good answer is noted."""
        number = sum(self.name.encode())
        body = {
            "input_ids": [(number * 7919 + i * 31) % 40_000 + 10 for i in range(60)],
            "sampling_params": generation(tokens),
            "program": {"id": self.name, "service_ms": self.service_ms},
        }
        response = await self.http.post(
            f"{self.url}/generate", json=body, headers={"X-SMG-Routing-Key": self.name}
        )
        if response.status_code == 200:
            self.service_ms = float(response.headers[SERVICE])
            self.servers.append(response.headers[SERVER])
            self.answered.append(response.json()["meta_info"])
        return response


def clients(fleet: Fleet, http: httpx.AsyncClient) -> list[Client]:
    return [Client(f"run-{number}", http, fleet.gateway) for number in range(PROGRAMS)]


async def calls(agents: list[Client], tokens: int = 12) -> None:
    """Several calls of every program, the programs at once; all must be answered."""

    async def run(agent: Client) -> None:
        for _ in range(CALLS):
            (await agent.call(tokens)).raise_for_status()

    await asyncio.gather(*(run(agent) for agent in agents))


async def programs_at(http: httpx.AsyncClient, server: str) -> dict[str, dict[str, Any]]:
    page = (await http.get(f"{server}/v1/programs", params={"limit": 1000})).json()
    return {program["id"]: program for program in page["data"]}


async def running_at(http: httpx.AsyncClient, server: str) -> int:
    """Calls in the server."""
    page = (await http.get(f"{server}/v1/programs", params={"limit": 1})).json()
    return int(page["statistics"]["active_calls"])


async def until_busy(http: httpx.AsyncClient, server: str, count: int) -> None:
    async with asyncio.timeout(60):
        while await running_at(http, server) < count:
            await asyncio.sleep(0)


def test_programs_stay_and_survive_a_killed_server(fleet: Fleet) -> None:
    """Pinned while their server lives; when it is killed, told so, and then served by the other.

    Nothing is answered twice, and at the other server a program is as old as it was.
    """

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=120) as http:
            agents = clients(fleet, http)
            await calls(agents)
            for agent in agents:
                assert len(set(agent.servers)) == 1
            shares = Counter(agent.servers[0] for agent in agents)
            assert sorted(shares.values()) == [PROGRAMS // 2, PROGRAMS // 2]
            lost, kept = fleet.pids
            await kill_midway(http, agents, lost)
            moved = [agent for agent in agents if agent.servers[0] == lost]
            await until_moved(moved)
            await check_moved(http, agents, moved, kept)

    async def kill_midway(http: httpx.AsyncClient, agents: list[Client], lost: str) -> None:
        flying = [asyncio.create_task(agent.call(400)) for agent in agents]
        await until_busy(http, lost, PROGRAMS // 2)
        os.kill(fleet.pids[lost], signal.SIGKILL)
        for agent, response in zip(agents, await asyncio.gather(*flying), strict=True):
            if agent.servers[0] == lost:
                assert response.status_code >= 500
                assert response.json()["error"]["code"] == "call_upstream_request_error"
            else:
                assert response.status_code == 200

    async def until_moved(moved: list[Client]) -> None:
        """The gateway looks every 2 s; until then calls are refused as never sent."""
        async with asyncio.timeout(60):
            for agent in moved:
                while (response := await agent.call(12)).status_code != 200:
                    assert response.json()["error"]["code"] == "call_upstream_connection_failed"

    async def check_moved(
        http: httpx.AsyncClient, agents: list[Client], moved: list[Client], kept: str
    ) -> None:
        for agent in moved:
            assert agent.servers[-1] == kept
            before, first = agent.answered[-2:]
            had = before["program"]["priority_ms"] + before["program"]["service_ms"]
            assert first["program"]["priority_ms"] == pytest.approx(had, abs=0.01)
        await calls(agents)
        served = await programs_at(http, kept)
        for agent in agents:
            assert set(agent.servers[-CALLS:]) == {kept}
            here = agent.servers.count(kept)
            assert served[agent.name]["calls_completed"] == here
            assert served[agent.name]["calls_aborted"] == 0
        answers = [meta["id"] for agent in agents for meta in agent.answered]
        assert len(set(answers)) == len(answers)

    asyncio.run(scenario())


def test_a_drained_server_finishes_its_calls(fleet: Fleet) -> None:
    """Taken out of the gateway, then stopped: no call fails, and its programs go on elsewhere."""

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=120) as http:
            agents = clients(fleet, http)
            await calls(agents)
            leaving, staying = fleet.pids
            flying = [asyncio.create_task(agent.call(300)) for agent in agents]
            await until_busy(http, leaving, PROGRAMS // 2)
            await remove(http, leaving)
            await calls(clients(fleet, http)[:4])
            os.kill(fleet.pids[leaving], signal.SIGTERM)
            for response in await asyncio.gather(*flying):
                assert response.status_code == 200
            await calls(agents)
            for agent in agents:
                assert set(agent.servers[-CALLS:]) == {staying}

    async def remove(http: httpx.AsyncClient, server: str) -> None:
        workers = (await http.get(f"{fleet.gateway}/workers")).json()["workers"]
        [found] = [worker["id"] for worker in workers if worker["url"] == server]
        (await http.delete(f"{fleet.gateway}/workers/{found}")).raise_for_status()

    asyncio.run(scenario())
