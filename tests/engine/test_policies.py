"""The policies on a live server with two slots, one unit of service a step."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.engine.harness import Server, generation, running_server, tiny_flags

pytestmark = pytest.mark.engine

# Figure 2 of arXiv 2502.13965: decode steps of each program's calls, two slots, all at time 0.
# Ten tokens stand for one of its units, so that a client's turn-around is small beside a unit.
UNIT = 10
FIGURE_2 = {"A": (4, 3, 1, 1), "B": (3, 3, 4), "C": (1, 2), "D": (4,)}
LEVELS = [
    "--program-levels",
    "2",
    "--program-first-quantum-ms",
    str(2 * UNIT),
    "--program-schedule-interval",
    "1",
]


def start(model: Path, folder: Path, *flags: str) -> Iterator[Server]:
    with running_server(folder, [*tiny_flags(model, slots=2), *LEVELS, *flags]) as server:
        yield server


@pytest.fixture(scope="module")
def fcfs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from start(tiny_model, tmp_path_factory.mktemp("fcfs"), "--program-policy", "fcfs")


@pytest.fixture(scope="module")
def plas(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ["--program-policy", "plas", "--program-starvation-ratio", "0"]
    yield from start(tiny_model, tmp_path_factory.mktemp("plas"), *flags)


@pytest.fixture(scope="module")
def plas_beta(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ["--program-policy", "plas", "--program-starvation-ratio", "0.5"]
    yield from start(tiny_model, tmp_path_factory.mktemp("plas-beta"), *flags)


@pytest.fixture(scope="module")
def rare_passes(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ["--program-policy", "plas", "--program-schedule-interval", "4"]
    yield from start(tiny_model, tmp_path_factory.mktemp("rare-passes"), *flags)


async def run_program(
    client: httpx.AsyncClient, url: str, name: str, lengths: Sequence[int], *, ends: bool = True
) -> float:
    """The program's calls one after another; the sum of what they waited, in steps."""
    waited = 0.0
    for index, tokens in enumerate(lengths):
        body = {
            # Prompts of different programs share nothing: service is what was forced, not cached.
            "input_ids": [1000 + ord(name[0]) * 100 + index] * 4,
            "sampling_params": generation(tokens),
            "program": {"id": name, "end": ends and index == len(lengths) - 1},
        }
        response = await client.post(url + "/generate", json=body)
        response.raise_for_status()
        waited += response.json()["meta_info"]["program"]["waited_ms"]
    return waited


def play_figure_2(server: Server) -> float:
    """Total waiting of the four programs, in Figure 2's units."""

    async def play() -> float:
        async with httpx.AsyncClient(timeout=120) as client:
            tasks = []
            for name, calls in FIGURE_2.items():
                lengths = [UNIT * units for units in calls]
                tasks.append(asyncio.create_task(run_program(client, server.url, name, lengths)))
                # In this order, as in the figure; the first two begin to run meanwhile.
                await asyncio.sleep(0.02)
            return sum(await asyncio.gather(*tasks))

    return asyncio.run(play()) / UNIT


def test_figure_2_waits_less_under_plas_than_under_fcfs(fcfs: Server, plas: Server) -> None:
    """The paper has 18 units of waiting under FCFS and 12 under PLAS."""
    under_fcfs, under_plas = play_figure_2(fcfs), play_figure_2(plas)
    print(f"Figure 2, total waiting: FCFS {under_fcfs:.1f}, PLAS {under_plas:.1f} units")
    assert under_plas < under_fcfs


@pytest.mark.parametrize("policy", ["fcfs", "rare_passes"])
def test_a_slot_that_falls_free_is_taken_while_the_other_runs_on(
    policy: str, request: pytest.FixtureRequest
) -> None:
    """Four calls of five steps pass through one slot beside a call of 500; nobody is preempted.

    Under plas too, since all of their programs have been through the best level before.
    """
    url = request.getfixturevalue(policy).url
    shorts = [f"{name}-short" for name in "PQRS"]

    async def play() -> list[float]:
        async with httpx.AsyncClient(timeout=120) as client:
            for name in ("long", *shorts):
                await run_program(client, url, name, [3 * UNIT], ends=False)
            long_task = asyncio.create_task(run_program(client, url, "long", [500]))
            while not (await client.get(url + "/v1/programs/long")).json()["active_calls"]:
                await asyncio.sleep(0.01)
            waits = await asyncio.gather(*(run_program(client, url, name, [5]) for name in shorts))
            await long_task
            return list(waits)

    assert max(asyncio.run(play())) < 100


def long_calls_during_a_stream(server: Server, *, short_programs: int = 60) -> int:
    """How many calls a long program finishes while *short_programs* short ones come and go.

    Six short programs are in the system at any time, on two slots: a fresh one always waits.
    """

    async def play() -> int:
        done = 0
        async with httpx.AsyncClient(timeout=300) as client:
            await run_program(client, server.url, "warm-up", [4])
            # Far into the lower level before the stream begins.
            body = {"input_ids": [7] * 4, "sampling_params": generation(8 * UNIT)}
            await client.post(server.url + "/generate", json={**body, "program": {"id": "long"}})
            numbers = iter(range(short_programs))

            async def short_stream() -> None:
                for number in numbers:
                    await run_program(client, server.url, f"{number}-short", [UNIT + 5])

            async def long_program() -> None:
                nonlocal done
                while True:
                    await run_long_call(client, server.url)
                    done += 1

            streams = [asyncio.create_task(short_stream()) for _ in range(6)]
            await asyncio.sleep(0.1)  # the stream fills the slots before the long one comes back
            long_task = asyncio.create_task(long_program())
            # Until the first stream runs dry: from then on fewer than six are in the system.
            await asyncio.wait(streams, return_when=asyncio.FIRST_COMPLETED)
            finished_in_time = done
            long_task.cancel()
            await asyncio.gather(*streams, long_task, return_exceptions=True)
            return finished_in_time

    return asyncio.run(play())


async def run_long_call(client: httpx.AsyncClient, url: str) -> None:
    body = {
        "input_ids": [8] * 4,
        "sampling_params": generation(UNIT),
        "program": {"id": "long"},
    }
    (await client.post(url + "/generate", json=body)).raise_for_status()


def test_with_a_starvation_ratio_a_long_program_keeps_finishing_calls(plas_beta: Server) -> None:
    """Promoted when its wait outweighs its service, it gets through a stream of fresh ones."""
    finished = long_calls_during_a_stream(plas_beta)
    print(f"long calls finished with beta 0.5: {finished}")
    assert finished >= 2
    assert plas_beta.state()["counters"]["promotions"] > 0


def test_without_one_the_long_program_stalls(plas: Server) -> None:
    """The stream's calls are always better, so the long program's wait until it ends."""
    assert long_calls_during_a_stream(plas) == 0
    assert plas.state()["counters"]["promotions"] == 0
