"""Nothing is lost under preemption: 200 calls of 40 programs over 4 slots, with tiny quanta.

In each mode calls of every kind, over a queue that is too short for them, on a server that is
paused, continued and emptied meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from autellix_sgl.sim import replay_file
from tests.engine.harness import generation, running_server, tiny_flags
from tests.engine.storm import FULL_LENGTH, LONG, Outcome, storm

pytestmark = pytest.mark.engine

QUANTA = [
    "--program-policy",
    "plas",
    "--program-levels",
    "16",
    "--program-first-quantum-ms",
    "3",
    "--program-quantum-growth",
    "1.2",
    "--program-schedule-interval",
    "1",
    "--program-starvation-ratio",
    "0",
]

OLD = {"program": {"id": "old"}}

MODES: dict[str, tuple[list[str], dict[str, str]]] = {
    "overlap": ([], {}),
    "no-overlap": (["--disable-overlap-schedule"], {}),
    "page-16": (["--page-size", "16"], {}),
    "chunked-64": (["--chunked-prefill-size", "64"], {}),
    "mixed-chunk": (["--chunked-prefill-size", "64", "--enable-mixed-chunk"], {}),
    "tp-2": (["--tp-size", "2"], {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}),
    "lpm": (["--schedule-policy", "lpm"], {}),
}


# Fewer than the programs that want to wait: some are refused, and come again.
QUEUE = ["--max-queued-requests", "34"]

Outcomes = dict[tuple[int, int], Outcome]


@pytest.fixture(scope="module")
def references(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Outcomes]:
    """The same calls with a slot for each program: nobody waits, nobody is preempted.

    By mode; but only two have a reference of their own: tensor parallelism, since dummy weights are
    drawn shard by shard, and steps that do not overlap, since with overlap SGLang's penalties are a
    token behind.
    """

    @cache
    def run(kind: str) -> Outcomes:
        flags, env = MODES[kind] if kind else ([], {})
        slots = [*tiny_flags(tiny_model, slots=96, tokens=65536), "--program-policy", "fcfs"]
        with running_server(
            tmp_path_factory.mktemp("reference"), [*slots, *flags], env=env
        ) as server:
            outcomes = storm(server)
        assert all(o.meta["program"]["preemptions"] == 0 for o in outcomes)
        return {(o.program, o.call): o for o in outcomes}

    return lambda mode: run(mode if mode in ("tp-2", "no-overlap") else "")


def check_complete(outcomes: list[Outcome]) -> None:
    """Every call returned what it asked for, and its streamed text only ever grew."""
    for o in outcomes:
        if o.kind in FULL_LENGTH:
            assert len(o.tokens) == o.asked * (2 if o.kind == "two" else 1)
            assert o.meta["completion_tokens"] == o.asked
        for earlier, later in zip(o.chunks, o.chunks[1:], strict=False):
            assert later.startswith(earlier)
        if o.chunks:
            assert o.chunks[-1] == o.text


def check_same(outcomes: list[Outcome], reference: Outcomes) -> None:
    """Each call's greedy tokens, and what else it was told of them, are the reference's."""
    different = [
        (o.program, o.call, o.kind)
        for o in outcomes
        if o.tokens != reference[o.program, o.call].tokens
        or o.text != reference[o.program, o.call].text
        or o.logprobs != pytest.approx(reference[o.program, o.call].logprobs, abs=1e-3)
    ]
    assert not different, f"{len(different)} of {len(outcomes)} differ: {different[:20]}"


@pytest.mark.parametrize("mode", MODES)
def test_every_call_survives_its_preemptions(
    mode: str, tiny_model: Path, tmp_path: Path, references: Callable[[str], Outcomes]
) -> None:
    """Full length, consistent streams, the same greedy tokens as without preemption, no leak.

    And the decision trace, played into a fresh core, decides the same to the last bit.
    """
    flags, env = MODES[mode]
    trace = tmp_path / "trace"
    storm_flags = [*tiny_flags(tiny_model, slots=4), *QUANTA, *QUEUE, "--program-trace", str(trace)]
    with running_server(tmp_path, [*storm_flags, *flags], env=env) as server:
        outcomes = storm(server, disturbed=True)
        state = server.wait_until_idle()
        active = server.get("/v1/programs").json()["statistics"]["active_calls"]
    check_complete(outcomes)
    long = [o for o in outcomes if o.asked >= LONG and o.kind in FULL_LENGTH]
    preempted = [o.meta["program"]["preemptions"] for o in long]
    print(
        f"{mode}: {sum(preempted)} preemptions of {len(long)} long calls, "
        f"{sum(o.refused for o in outcomes)} times refused or aborted, "
        f"{state['counters']['recomputed_tokens']:.0f} tokens recomputed, "
        f"{state['counters']['parked_prefills']:.0f} prefills parked"
    )
    # Of calls that were aborted and sent again the last attempt counts, which can be undisturbed.
    assert 2 * sum(preempted) >= len(long)
    assert any(o.refused for o in outcomes)
    check_same(outcomes, references(mode))
    assert (state["remembered"], active, state["counters"]["accounting_faults"]) == (0, 0, 0)
    replayed = replay_file(trace)
    assert replayed["identical"], replayed["differences"]
    assert replayed["events"] > 10 * len(outcomes)


def test_a_preemption_costs_one_short_prefill(tiny_model: Path, tmp_path: Path) -> None:
    """With room for all KV, a call comes back computing at most page size + 1 tokens."""
    page = 16
    flags = [*tiny_flags(tiny_model, slots=4, tokens=65536), *QUANTA, "--page-size", str(page)]
    with running_server(tmp_path, flags) as server:
        outcomes = storm(server, kinds=["plain"])
    for o in outcomes:
        report = o.meta["program"]
        assert report["recomputed_tokens"] <= report["preemptions"] * (page + 1)


def test_a_long_prefill_steps_aside_for_a_better_call(tiny_model: Path, tmp_path: Path) -> None:
    """An old program's prompt of 60 chunks is parked, and the fresh call overtakes it.

    What was prefilled stays in the tree: the chunks before the park are not computed again. The
    fresh call is sent once the prefill is seen to run; it may still come too late, hence the turns.
    """
    flags = [*tiny_flags(tiny_model, slots=4), *QUANTA, "--chunked-prefill-size", "64"]
    with running_server(tmp_path, flags) as server, ThreadPoolExecutor(1) as pool:
        server.generate({"input_ids": [5] * 8, "sampling_params": generation(200), **OLD})
        for turn in range(20):
            prompt = list(range(1000 + turn, 1000 + turn + 3840))
            long = pool.submit(
                server.generate, {"input_ids": prompt, "sampling_params": generation(4), **OLD}
            )
            while not long.done() and not server.state()["running"]:
                pass
            server.generate({"input_ids": [9] * 8, "sampling_params": generation(4)})
            report = long.result()["meta_info"]
            state = server.wait_until_idle()
            if state["counters"]["parked_prefills"]:
                break
    print(f"turn {turn}: {report['program']}")
    assert report["program"]["preemptions"] > 0
    assert report["completion_tokens"] == 4
    assert report["program"]["recomputed_tokens"] == 0


def test_clients_that_go_away_leave_nothing_behind(tiny_model: Path, tmp_path: Path) -> None:
    """Aborted while waiting, running, preempted or parked: no call, no KV and no lock remains."""
    flags = [*tiny_flags(tiny_model, slots=4), *QUANTA, "--chunked-prefill-size", "64"]
    with running_server(tmp_path, flags) as server:
        outcomes = storm(server, aborting=24)
        check_complete(outcomes)
        state = server.wait_until_idle()
        programs = server.programs()
        assert not any(state["calls_per_level"])
        assert state["remembered"] == 0
        assert all(not program["active_calls"] for program in programs.values())
        assert not any(name.startswith("storm-") for name in programs)
        aborted = sum(program["calls_aborted"] for program in programs.values())
        print(f"{aborted} calls aborted, {state['counters']['preemptions']:.0f} preemptions")
        assert aborted > 0


def test_memory_pressure_preempts_instead_of_losing(tiny_model: Path, tmp_path: Path) -> None:
    """A pool that holds a fraction of the running calls' KV: they take turns, all complete."""
    flags = [*tiny_flags(tiny_model, slots=16, tokens=2048), *QUANTA]
    with running_server(tmp_path, flags) as server:
        outcomes = storm(server)
        state = server.wait_until_idle()
    check_complete(outcomes)
    print(f"{state['counters']}")
    assert state["counters"]["retractions"] + state["counters"]["preemptions"] > 0
