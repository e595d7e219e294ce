"""The paper's two worked examples, in unit steps: every step takes one unit, whatever is in it.

A call of k units is one prefill step, which produces its first token, and k - 1 decodes. Memory is
no limit and nothing is short enough to be left alone by preemption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from autellix_sgl.core import CostModel, Levels
from autellix_sgl.sim.hardware import ServerModel
from autellix_sgl.sim.simulation import Simulation
from autellix_sgl.sim.systems import Tuning, system_named
from autellix_sgl.workloads import ProgramBuilder, ProgramTrace, Workload, all_at_once

UNIT_SERVER = ServerModel(
    cost=CostModel(1.0), slots=2, kv_tokens=10**6, chunk_tokens=1000, swap_cost=1, min_steps_left=1
)

# Decode steps per call, paper figure 2.
FIGURE_2 = {"A": (4, 3, 1, 1), "B": (3, 3, 4), "C": (1, 2), "D": (4,)}
# The paper does not state its quanta. One boundary at 2 units; a call may run 4 before it moves.
FIGURE_2_LEVELS = Levels((2.0,), (4.0, math.inf))
# The same boundary, preempting at 2 units.
FIGURE_2_FINER = Levels((2.0,), (2.0, math.inf))

PAPER_FIGURE_2 = {"fcfs": 18, "mlfq": 18, "plas": 12}
PAPER_FIGURE_9 = {"fcfs": 14, "atlas": 11}

# Figure 9 is only drawn in the paper; this DAG has its makespans. After the root, two long leaves
# and a chain are ready. In arrival order the leaves hold both slots and the chain, which is the
# critical path, starts late; with service counted, the leaves give way once they have had 2 units.
FIGURE_9: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("root", 1, ()),
    ("leaf-1", 5, ("root",)),
    ("leaf-2", 5, ("root",)),
    ("chain-1", 2, ("root",)),
    ("chain-2", 3, ("chain-1",)),
    ("chain-3", 3, ("chain-2",)),
)
FIGURE_9_LEVELS = Levels((6.0,), (2.0, math.inf))


def figure2() -> dict[str, object]:
    """Total waiting of four programs on two slots, for the paper's three policies."""
    found = {
        name: _total_waiting(name, FIGURE_2_LEVELS) for name in ("fcfs", "mlfq", "plas", "atlas")
    }
    finer = {name: _total_waiting(name, FIGURE_2_FINER) for name in ("mlfq", "plas", "atlas")}
    return {
        "programs": {name: list(units) for name, units in FIGURE_2.items()},
        "slots": UNIT_SERVER.slots,
        "levels": list(FIGURE_2_LEVELS.describe()),
        "total_waiting": found,
        "levels_when_preempting_at_2": list(FIGURE_2_FINER.describe()),
        "total_waiting_when_preempting_at_2": finer,
        "paper": PAPER_FIGURE_2,
    }


def figure9() -> dict[str, object]:
    """The makespan of one DAG on two slots, by arrival order and by critical path."""
    program = _dag("dag", FIGURE_9)
    workload = all_at_once("figure9", [program])
    return {
        "calls": [{"name": n, "units": u, "parents": list(p)} for n, u, p in FIGURE_9],
        "slots": UNIT_SERVER.slots,
        "levels": list(FIGURE_9_LEVELS.describe()),
        "makespan": {
            name: _play(name, workload, FIGURE_9_LEVELS).now_ms for name in ("fcfs", "atlas")
        },
        "paper": PAPER_FIGURE_9,
    }


def _total_waiting(system: str, levels: Levels) -> float:
    programs = [_chain(name, units) for name, units in FIGURE_2.items()]
    done = _play(system, all_at_once("figure2", programs), levels)
    return sum(run.wait_ms for run in done.runs)


def _play(system: str, workload: Workload, levels: Levels) -> Simulation:
    tuning = Tuning(levels=levels, starvation_ratio=0.0, interval=1)
    simulation = Simulation(workload, UNIT_SERVER, system_named(system), tuning=tuning)
    simulation.run()
    return simulation


def _chain(name: str, units: Sequence[int]) -> ProgramTrace:
    program = ProgramBuilder(name, "figure2")
    last = program.fresh(1, units[0])
    for steps in units[1:]:
        last = program.extend(last, 1, steps)
    return program.build()


def _dag(name: str, calls: Sequence[tuple[str, int, tuple[str, ...]]]) -> ProgramTrace:
    program = ProgramBuilder(name, "figure9")
    index: dict[str, int] = {}
    for call, units, parents in calls:
        index[call] = program.fresh(
            1, units, parents=tuple(index[parent] for parent in parents), thread=call
        )
    return program.build()
