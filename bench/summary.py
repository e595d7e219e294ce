"""A run's records in a few numbers, by the same definitions as the simulator's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autellix_sgl.workloads import Outcome, compared, quantiles
from bench.records import CallRecord, ProgramRecord


def summarize(programs: Sequence[ProgramRecord], calls: Sequence[CallRecord]) -> dict[str, Any]:
    """The metrics of :func:`autellix_sgl.workloads.compared`, and those of the calls.

    ``cache_hit_rate``: prompt tokens found in the prefix cache. ``wait_s``: what calls queued in
    the server, ``run_s``: the rest of their time in it, both summed over each program's calls and
    averaged. ``client_late_ms``: how late calls were sent, the load generator's own error.
    None: not reported by this server.
    """
    outcomes = [Outcome(p.kind, p.output_tokens, p.response_s * 1e3) for p in programs]
    prompt_tokens = sum(call.prompt_tokens for call in calls)
    cached, wait_s = _total(c.cached_tokens for c in calls), _total(c.wait_s for c in calls)
    in_server_s = sum(call.latency_s for call in calls)
    return {
        **compared(outcomes, max(p.end_s for p in programs)),
        "calls": len(calls),
        "call_latency_ms": quantiles([call.latency_s * 1e3 for call in calls]),
        "cache_hit_rate": None if cached is None else cached / prompt_tokens,
        "preemptions": _total(c.preemptions for c in calls),
        "promotions": _total(c.promotions for c in calls),
        "recomputed_tokens": _total(c.recomputed_tokens for c in calls),
        "wait_s": None if wait_s is None else wait_s / len(programs),
        "run_s": (in_server_s - (wait_s or 0.0)) / len(programs),
        "max_call_wait_s": None if wait_s is None else max(c.wait_s or 0.0 for c in calls),
        "client_late_ms": quantiles([(c.sent_s - c.due_s) * 1e3 for c in calls]),
    }


def _total(values: Iterable[float | None]) -> float | None:
    """The sum, or None when one is not known."""
    total: float = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def table_row(system: str, seed: int, summary: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table a run prints."""
    latency, response = summary["token_latency_ms"], summary["response_ms"]
    return {
        "system": system,
        "seed": seed,
        "ms/token": latency["mean"],
        "p50": latency["p50"],
        "p95": latency["p95"],
        "p99": latency["p99"],
        "response s": response["mean"] / 1e3,
        "p95 s": response["p95"] / 1e3,
        "programs/s": summary["programs_per_s"],
        "tokens/s": summary["tokens_per_s"],
        "hits": _known(summary["cache_hit_rate"]),
        "wait s": _known(summary["wait_s"]),
        "preempted": _known(summary["preemptions"]),
        "recomputed": _known(summary["recomputed_tokens"]),
        "jain": summary["jain_index"],
    }


def _known(value: float | None) -> float | str:
    return "-" if value is None else value
