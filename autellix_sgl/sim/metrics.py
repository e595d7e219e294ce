"""What a run amounts to, JSON-ready. Times are simulated milliseconds, or seconds in ``_s``."""

from __future__ import annotations

from autellix_sgl.core import REASONS
from autellix_sgl.sim.simulation import ProgramRun, Simulation
from autellix_sgl.workloads import Outcome, compared


def report(simulation: Simulation) -> dict[str, object]:
    """The metrics of a finished simulation: those of :func:`compared`, and the engine's.

    ``cache_hit_rate``: prompt tokens found in device memory at a call's first admission;
    ``reload_rate`` those brought back from the host tier, on later admissions too.
    """
    runs = simulation.runs
    counters = [replica.counters for replica in simulation.replicas]
    prompt_tokens = sum(c.prompt_tokens for c in counters)
    return {
        **compared([_outcome(run) for run in runs], simulation.now_ms / 1e3),
        "calls": simulation.workload.num_calls,
        "busy_share": sum(c.busy_ms for c in counters) / (simulation.now_ms * len(counters)),
        "cache_hit_rate": sum(c.cached_tokens for c in counters) / prompt_tokens,
        "reload_rate": sum(c.reloaded_tokens for c in counters) / prompt_tokens,
        "preemptions": sum(c.preemptions for c in counters),
        "retractions": sum(c.retractions for c in counters),
        "promotions": sum(run.promotions for run in runs),
        "recomputed_tokens": sum(c.recomputed_tokens for c in counters),
        "reloaded_tokens": sum(c.reloaded_tokens for c in counters),
        "max_call_wait_ms": max(run.longest_wait_ms for run in runs),
        "max_program_wait_ms": max(run.wait_ms for run in runs),
        "total_wait_ms": sum(run.wait_ms for run in runs),
        "waits_ms": {
            reason.value: sum(run.waits[number] for run in runs)
            for number, reason in enumerate(REASONS)
        },
        "steps": sum(c.steps for c in counters),
        "rounds": sum(c.jumps for c in counters),
    }


def _outcome(run: ProgramRun) -> Outcome:
    return Outcome(run.trace.kind, run.trace.output_tokens, run.response_ms)
