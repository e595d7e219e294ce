"""What became of a set of programs, in the terms the papers compare: simulated or real alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autellix_sgl.workloads.statistics import percentile


@dataclass(frozen=True, slots=True)
class Outcome:
    """One finished program. ``response_ms``: from its arrival to the end of its last call."""

    kind: str
    output_tokens: int
    response_ms: float

    @property
    def token_latency_ms(self) -> float:
        """The paper's metric: response time over the tokens of all threads."""
        return self.response_ms / self.output_tokens


def compared(outcomes: Sequence[Outcome], seconds: float) -> dict[str, object]:
    """The metrics of *outcomes*, the last of which ended *seconds* after the first arrived.

    ``token_latency_ms``: a program's response time over the tokens of all its threads, the paper's
    headline. ``jain_index``: of the programs' token rates; 1 is equal, 1/n is one program has all.
    ``by_kind``: means of each kind of program, when there are several.
    """
    latencies = [outcome.token_latency_ms for outcome in outcomes]
    return {
        "programs": len(outcomes),
        "token_latency_ms": quantiles(latencies),
        "response_ms": quantiles([outcome.response_ms for outcome in outcomes]),
        "programs_per_s": len(outcomes) / seconds,
        "tokens_per_s": sum(outcome.output_tokens for outcome in outcomes) / seconds,
        "makespan_s": seconds,
        "jain_index": jain([1 / latency for latency in latencies]),
        "by_kind": _by_kind(outcomes),
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Mean, median and the tails the paper shows; nearest-rank."""
    return {
        "mean": sum(values) / len(values),
        "p50": percentile(values, 0.5),
        "p95": percentile(values, 0.95),
        "p99": percentile(values, 0.99),
    }


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index, (sum x)^2 / (n * sum x^2)."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def _by_kind(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    kinds = sorted({outcome.kind for outcome in outcomes})
    table = {}
    for kind in kinds if len(kinds) > 1 else ():
        own = [outcome for outcome in outcomes if outcome.kind == kind]
        table[kind] = {
            "token_latency_ms": sum(outcome.token_latency_ms for outcome in own) / len(own),
            "response_ms": sum(outcome.response_ms for outcome in own) / len(own),
        }
    return table
