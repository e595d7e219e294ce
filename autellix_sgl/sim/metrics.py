"""What a run amounts to, JSON-ready. Times are simulated milliseconds, or seconds in ``_s``."""

from __future__ import annotations

from collections.abc import Sequence

from autellix_sgl.sim.simulation import ProgramRun, Simulation
from autellix_sgl.workloads import percentile


def report(simulation: Simulation) -> dict[str, object]:
    """The metrics of a finished simulation.

    ``token_latency_ms``: a program's response time over the tokens of all its threads, the paper's
    headline. ``jain_index``: of the programs' token rates; 1 is equal, 1/n is one program has all.
    ``cache_hit_rate``: prompt tokens found in device memory at a call's first admission;
    ``reload_rate`` those brought back from the host tier, on later admissions too.
    """
    runs = simulation.runs
    seconds = simulation.now_ms / 1e3
    tokens = sum(run.trace.output_tokens for run in runs)
    counters = [replica.counters for replica in simulation.replicas]
    prompt_tokens = sum(c.prompt_tokens for c in counters)
    return {
        "programs": len(runs),
        "calls": simulation.workload.num_calls,
        "token_latency_ms": _quantiles([run.token_latency_ms for run in runs]),
        "response_ms": _quantiles([run.response_ms for run in runs]),
        "programs_per_s": len(runs) / seconds,
        "tokens_per_s": tokens / seconds,
        "makespan_s": seconds,
        "busy_share": sum(c.busy_ms for c in counters) / (simulation.now_ms * len(counters)),
        "cache_hit_rate": sum(c.cached_tokens for c in counters) / prompt_tokens,
        "reload_rate": sum(c.reloaded_tokens for c in counters) / prompt_tokens,
        "preemptions": sum(c.preemptions for c in counters),
        "retractions": sum(c.retractions for c in counters),
        "promotions": sum(run.promotions for run in runs),
        "recomputed_tokens": sum(c.recomputed_tokens for c in counters),
        "reloaded_tokens": sum(c.reloaded_tokens for c in counters),
        "jain_index": jain([1 / run.token_latency_ms for run in runs]),
        "max_call_wait_ms": max(run.longest_wait_ms for run in runs),
        "max_program_wait_ms": max(run.wait_ms for run in runs),
        "total_wait_ms": sum(run.wait_ms for run in runs),
        "steps": sum(c.steps for c in counters),
        "rounds": sum(c.jumps for c in counters),
        "by_kind": _by_kind(runs),
    }


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index, (sum x)^2 / (n * sum x^2)."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": sum(values) / len(values),
        "p50": percentile(values, 0.5),
        "p95": percentile(values, 0.95),
        "p99": percentile(values, 0.99),
    }


def _by_kind(runs: Sequence[ProgramRun]) -> dict[str, dict[str, float]]:
    """Mean token latency and response of each kind of program, when there are several."""
    kinds = sorted({run.trace.kind for run in runs})
    table = {}
    for kind in kinds if len(kinds) > 1 else ():
        own = [run for run in runs if run.trace.kind == kind]
        table[kind] = {
            "token_latency_ms": sum(run.token_latency_ms for run in own) / len(own),
            "response_ms": sum(run.response_ms for run in own) / len(own),
        }
    return table
