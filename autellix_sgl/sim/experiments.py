"""The experiments behind the paper's figures: parameters in, JSON-ready results out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from autellix_sgl.core.scheduling.decision_log import Recorder
from autellix_sgl.errors import ConfigError
from autellix_sgl.sim.hardware import ServerModel
from autellix_sgl.sim.metrics import report
from autellix_sgl.sim.simulation import Simulation
from autellix_sgl.sim.systems import Tuning, system_named
from autellix_sgl.sim.work import batch_of, capacity_per_s
from autellix_sgl.workloads import (
    ProgramTrace,
    Workload,
    all_at_once,
    at_times,
    burst_times,
    closed_loop,
    generate,
    poisson_times,
    with_tool_times,
)
from autellix_sgl.workloads.generators.coding import TOOL_S

# Where the times that programs spend in tools come from.
OWN, TRACELAB = "own", "tracelab"
TOOL_TIMES = (OWN, TRACELAB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What every system of a comparison has in common.

    ``interrupts`` multiplies the programs' tool and human times; 0, the default, replays turns back
    to back as the paper seems to. ``tool_times`` of TRACELAB draws each tool's time from what was
    published of coding agents' instead, whatever the workload, and nobody waits for humans. Seeds:
    programs and arrivals draw from generators of their own, so the same programs come at every
    rate.
    """

    workload: str = "mixed"
    programs: int = 1000
    seed: int = 1
    scale: float = 1.0
    interrupts: float = 0.0
    tool_times: str = OWN
    server: ServerModel = field(default_factory=ServerModel)
    tuning: Tuning = field(default_factory=Tuning)
    replicas: int = 1
    placement: str = "program"

    def draw(self) -> list[ProgramTrace]:
        own = self.tool_times == OWN
        programs = generate(
            self.workload,
            self.programs,
            Random(self.seed),
            scale=self.scale,
            interrupts=self.interrupts if own else 1.0,
        )
        rng = Random(self.seed + 2)
        return programs if own else [with_tool_times(p, TOOL_S, rng) for p in programs]

    def describe(self, programs: Sequence[ProgramTrace]) -> dict[str, object]:
        """The parameters, and what follows from them, for the head of a result."""
        server = self.server
        return {
            "workload": self.workload,
            "programs": len(programs),
            "calls": sum(len(program.calls) for program in programs),
            "seed": self.seed,
            "scale": self.scale,
            "interrupts": self.interrupts,
            "tool_times": self.tool_times,
            "replicas": self.replicas,
            "placement": self.placement,
            "server": {
                "slots": server.slots,
                "kv_tokens": server.kv_tokens,
                "chunk_tokens": server.chunk_tokens,
                "mixed": server.mixed,
                "swap_cost": server.swap_cost,
                "cost_model": server.cost.as_dict(),
            },
            "levels": list(self.tuning.levels.describe()),
            "starvation_ratio": self.tuning.starvation_ratio,
            "interval": self.tuning.interval,
            "decoding_batch": batch_of(programs, server),
            "capacity_programs_per_s": self.capacity(programs),
        }

    def capacity(self, programs: Sequence[ProgramTrace]) -> float:
        return capacity_per_s(programs, self.server) * self.replicas


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How programs come. ``kind``: poisson, burst (of ``size``), closed (``size`` at a time) or
    offline (all at once). ``load``: the rate in multiples of the capacity."""

    kind: str = "poisson"
    load: float = 1.0
    size: int = 64

    def apply(self, setting: Setting, programs: Sequence[ProgramTrace]) -> Workload:
        rng = Random(setting.seed + 1)
        name, rate = setting.workload, self.load * setting.capacity(programs)
        if self.kind == "poisson":
            return at_times(name, programs, poisson_times(rng, len(programs), rate))
        if self.kind == "burst":
            return at_times(name, programs, burst_times(rng, len(programs), rate, self.size))
        if self.kind == "closed":
            return closed_loop(name, programs, self.size)
        if self.kind == "offline":
            return all_at_once(name, programs)
        raise ConfigError(f"unknown arrivals {self.kind!r} (poisson, burst, closed, offline)")


def play(
    setting: Setting, workload: Workload, system: str, record: Recorder | None = None
) -> dict[str, object]:
    """One workload under one system; returns the report."""
    simulation = Simulation(
        workload,
        setting.server,
        system_named(system),
        tuning=setting.tuning,
        replicas=setting.replicas,
        placement=setting.placement,
        record=record,
    )
    simulation.run()
    return report(simulation)


def compare(setting: Setting, arrivals: Arrivals, systems: Sequence[str]) -> dict[str, object]:
    """The same programs at the same moments under each system."""
    programs = setting.draw()
    workload = arrivals.apply(setting, programs)
    return {
        "setting": setting.describe(programs),
        "arrivals": {"kind": arrivals.kind, "load": arrivals.load, "size": arrivals.size},
        "systems": {name: play(setting, workload, name) for name in systems},
    }


def sweep(setting: Setting, loads: Sequence[float], systems: Sequence[str]) -> dict[str, object]:
    """Figures 12 and 18: mean token latency of each system over rates, and its order."""
    programs = setting.draw()
    rows = []
    for load in loads:
        workload = Arrivals("poisson", load).apply(setting, programs)
        reports = {name: play(setting, workload, name) for name in systems}
        rows.append({"load": load, "order": worst_first(reports), "systems": reports})
    return {"setting": setting.describe(programs), "rows": rows}


def makespan(setting: Setting, systems: Sequence[str]) -> dict[str, object]:
    """Figure 16: all programs at time zero; when the last ends, and the gain over the first."""
    programs = setting.draw()
    workload = all_at_once(setting.workload, programs)
    reports = {name: play(setting, workload, name) for name in systems}
    base = _seconds(reports[systems[0]])
    return {
        "setting": setting.describe(programs),
        "makespan_s": {name: _seconds(found) for name, found in reports.items()},
        f"gain_over_{systems[0]}": {n: 1 - _seconds(found) / base for n, found in reports.items()},
        "systems": reports,
    }


def worst_first(reports: dict[str, dict[str, object]]) -> list[str]:
    """System names by mean token latency, the slowest first."""
    return sorted(reports, key=lambda name: -mean_latency(reports[name]))


def mean_latency(found: dict[str, object]) -> float:
    """A report's mean program token latency, ms."""
    latency = found["token_latency_ms"]
    assert isinstance(latency, dict)
    return float(latency["mean"])


def _seconds(found: dict[str, object]) -> float:
    value = found["makespan_s"]
    assert isinstance(value, float)
    return value
