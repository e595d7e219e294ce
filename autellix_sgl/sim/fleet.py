"""Several replicas: how placements compare (figure 14), and how the rate grows (figure 15).

Loads are multiples of the capacity of all replicas. A latency is a mean program token latency, in
milliseconds, over all programs of one or more runs; the rate that a fleet sustains is the highest
at which it keeps to a bound on that, the paper's fixed service level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autellix_sgl.core import PLACEMENTS
from autellix_sgl.sim.experiments import Arrivals, Setting, mean_latency, play

SYSTEM = "atlas"

# The service level: this many times the latency at the light load.
SLOWDOWN = 2.0
LIGHT_LOAD = 0.1

# Between these loads a sustained rate is searched, to this precision.
LOWEST_LOAD, HIGHEST_LOAD = 0.1, 2.5
PRECISION = 0.01

# Few replicas serve few programs in a run, so the mean is taken over several runs with other seeds.
RUNS_FOR_ONE_REPLICA = 16

OURS = "program-radix"
BASELINES = ("round_robin", "least_used")


def figure14(
    setting: Setting, workloads: Sequence[str], loads: Sequence[float]
) -> dict[str, object]:
    """Latency of every placement over rates, and the rate each sustains, for each workload.

    ``setting.programs`` is per replica. ``gain`` is a rate over the better baseline's.
    """
    found = {}
    for workload in workloads:
        chosen = replace(setting, workload=workload, programs=setting.programs * setting.replicas)
        bound_ms = service_level(chosen)
        sustained = {
            placement: sustained_load(replace(chosen, placement=placement), bound_ms)
            for placement in PLACEMENTS
        }
        base = max(sustained[placement] for placement in BASELINES)
        found[workload] = {
            "setting": chosen.describe(chosen.draw()),
            "service_level_ms": bound_ms,
            "sustained_load": sustained,
            "gain": {placement: load / base for placement, load in sustained.items()},
            "rows": [_row(chosen, load) for load in loads],
        }
    return {"system": SYSTEM, "workloads": found}


def figure15(setting: Setting, fleets: Sequence[int]) -> dict[str, object]:
    """The program rate that each size of fleet sustains, and how far that is from linear.

    ``setting.programs`` is per replica. ``of_linear``: the rate per replica, over that of the
    smallest fleet.
    """
    many = replace(setting, programs=setting.programs * max(fleets))
    programs = many.draw()
    bound_ms = service_level(many)
    rows: list[dict[str, float]] = []
    for replicas in fleets:
        fleet = replace(setting, replicas=replicas, programs=setting.programs * replicas)
        load = sustained_load(fleet, bound_ms)
        rows.append(
            {
                "replicas": replicas,
                "runs": runs_of(fleet),
                "sustained_load": load,
                "programs_per_s": load * fleet.capacity(programs),
            }
        )
    for row in rows:
        row["of_linear"] = row["sustained_load"] / rows[0]["sustained_load"]
    return {
        "system": SYSTEM,
        "programs_per_replica": setting.programs,
        "setting": many.describe(programs),
        "service_level_ms": bound_ms,
        "rows": rows,
        "worst_of_linear": min(row["of_linear"] for row in rows),
    }


def service_level(setting: Setting) -> float:
    """The bound on the latency, from one replica under a light load."""
    return SLOWDOWN * latency(replace(setting, replicas=1), LIGHT_LOAD)


def sustained_load(setting: Setting, bound_ms: float) -> float:
    """The highest load at which the latency is within the bound, by bisection."""
    low, high = LOWEST_LOAD, HIGHEST_LOAD
    while high - low > PRECISION:
        middle = (low + high) / 2
        if latency(setting, middle) <= bound_ms:
            low = middle
        else:
            high = middle
    return low


def runs_of(setting: Setting) -> int:
    """How many runs a latency is taken over."""
    return max(1, RUNS_FOR_ONE_REPLICA // setting.replicas)


def latency(setting: Setting, load: float) -> float:
    """The mean over the runs at one load; they have as many programs each."""
    seeds = range(setting.seed, setting.seed + runs_of(setting))
    means = [mean_latency(_report(replace(setting, seed=seed), load)) for seed in seeds]
    return sum(means) / len(means)


def _report(setting: Setting, load: float) -> dict[str, object]:
    return play(setting, Arrivals("poisson", load).apply(setting, setting.draw()), SYSTEM)


def compare_placements(setting: Setting, load: float) -> dict[str, dict[str, object]]:
    """The report of every placement at one load, on the same programs."""
    return {name: _report(replace(setting, placement=name), load) for name in PLACEMENTS}


def _row(setting: Setting, load: float) -> dict[str, object]:
    reports = compare_placements(setting, load)
    latencies = {placement: mean_latency(found) for placement, found in reports.items()}
    base = min(latencies[placement] for placement in BASELINES)
    return {
        "load": load,
        "speedup": {placement: base / found for placement, found in latencies.items()},
        "placements": reports,
    }
