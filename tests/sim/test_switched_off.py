"""What is off decides nothing: without its flag, every decision is as before there was one."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from random import Random

import pytest

from autellix_sgl.core import CostModel, Levels
from autellix_sgl.sim import ServerModel, Simulation, Tuning, system_named
from autellix_sgl.workloads import ProgramBuilder, ProgramTrace, Workload, at_times

Line = tuple[str, dict[str, object]]

# Whole numbers only: the digests below hold on every machine.
SERVER = ServerModel(
    slots=6,
    kv_tokens=900,
    chunk_tokens=64,
    cost=CostModel(base_ms=4.0, per_prefill_token_ms=1.0, per_decode_call_ms=1.0),
)
TUNING = Tuning(levels=Levels.geometric(6, 32.0, 2.0), starvation_ratio=8.0, interval=2)

# Lines that explain and decide nothing.
EXPLANATIONS = ("waits", "short_of")

# Of the lines without explanations, written by the version before shares, kinds, explanations and
# program memory, whose simulated server was given today's check of memory on admission.
BEFORE = {
    "fcfs": "21d63007b8cf27df",
    "mlfq": "e01d199df48c26c6",
    "plas": "950bf16e2e793f06",
    "atlas": "31a4dc6041b14044",
}


def program(number: int, rng: Random) -> ProgramTrace:
    """Up to eight calls that share a system prompt; every third program forks."""
    builder = ProgramBuilder(f"p{number}", "fixed")
    last = builder.fresh(rng.randint(8, 60), rng.randint(4, 40), system="s", system_tokens=32)
    for _ in range(rng.randint(0, 7)):
        following = builder.extend(last, rng.randint(4, 40), rng.randint(4, 40))
        if number % 3 == 0:
            builder.extend(last, rng.randint(4, 40), rng.randint(4, 40))
        last = following
    return builder.build()


def workload() -> Workload:
    rng = Random(11)
    programs = [program(number, rng) for number in range(60)]
    return at_times("fixed", programs, [150.0 * number for number in range(60)])


def decisions(system: str, workload: Workload, tuning: Tuning = TUNING) -> list[Line]:
    """The lines of a run, but for those that explain."""
    lines: list[Line] = []

    def record(event: str, fields: dict[str, object]) -> None:
        if event not in EXPLANATIONS:
            lines.append((event, fields))

    Simulation(workload, SERVER, system_named(system), tuning=tuning, record=record).run()
    return lines


@pytest.mark.parametrize("system", BEFORE)
def test_without_flags_every_decision_is_as_before(system: str) -> None:
    """Levels, tickets, clocks, victims and the head of the trace, to the last bit."""
    lines = decisions(system, workload())
    events = {event for event, _ in lines}
    assert system == "fcfs" or {"requeue", "promote", "choose_victims"} <= events
    digest = blake2b("\n".join(map(repr, lines)).encode(), digest_size=8).hexdigest()
    assert digest == BEFORE[system]


@pytest.mark.parametrize("system", [*BEFORE, "gittins"])
def test_shares_of_one_tenant_decide_nothing(system: str) -> None:
    """Apart from the turn that its calls are shown in, each line is that without shares."""
    plain = workload()
    one = tuple(replace(trace, tenant="all") for trace in plain.programs)
    shared = decisions(system, replace(plain, programs=one), replace(TUNING, share_turn_ms=200.0))
    assert max(turn for _, fields in shared if isinstance(turn := fields.get("turn"), int)) > 1
    assert [without_shares(*line) for line in shared] == decisions(system, plain)


def without_shares(event: str, fields: dict[str, object]) -> Line:
    """The line with all that only shares put there taken out."""
    rest = {name: value for name, value in fields.items() if name not in ("turn", "share_turn_ms")}
    if isinstance(stamp := rest.get("stamp"), dict):
        rest["stamp"] = {name: value for name, value in stamp.items() if name != "tenant"}
    for part in ("candidates", "running"):
        if isinstance(calls := rest.get(part), list):
            rest[part] = [replace(call, key=call.key[1:]) for call in calls]
    return event, rest
