"""What a set of programs looks like, in the terms the papers publish."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autellix_sgl.errors import ConfigError
from autellix_sgl.workloads.model import HUMAN, TOOL, ProgramTrace

# (calls a program, prefill tokens a call, output tokens a call), means: arXiv 2502.13965.
PUBLISHED_MEANS = {
    "chat": {"calls_per_program": 6.66, "prefill_tokens": 256.0, "output_tokens": 277.0},
    "react": {"calls_per_program": 10.75, "prefill_tokens": 735.06, "output_tokens": 34.14},
    "mcts": {"calls_per_program": 159.7, "prefill_tokens": 467.2, "output_tokens": 72.6},
}


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that *share* of them do not exceed."""
    if not values:
        raise ConfigError("percentile of no values")
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))]


def summary(values: Iterable[float]) -> dict[str, float]:
    """Mean and the quantiles that are usually published; empty for no values."""
    listed = list(values)
    if not listed:
        return {}
    quantiles = {
        f"p{round(share * 100)}": percentile(listed, share) for share in (0.25, 0.5, 0.9, 0.99)
    }
    return {"mean": sum(listed) / len(listed), **quantiles, "max": max(listed)}


def describe(programs: Sequence[ProgramTrace]) -> dict[str, object]:
    """Sample statistics, JSON-ready. Lengths in tokens, gaps in milliseconds.

    ``prefill_tokens``: what a call's prompt adds to its program. ``repeated_share``: the part of
    all prompt tokens that an endless prefix cache would find, had every program run before.
    ``critical_share``: output tokens on the longest chain, of all output tokens; 1 is sequential.
    """
    calls = [call for program in programs for call in program.calls]
    prompts = sum(call.prompt_tokens for call in calls)
    return {
        "programs": len(programs),
        "kinds": {
            k: sum(p.kind == k for p in programs) for k in sorted({p.kind for p in programs})
        },
        "calls_per_program": summary(len(p.calls) for p in programs),
        "prefill_tokens": summary(c.prefill_tokens for c in calls),
        "prompt_tokens": summary(c.prompt_tokens for c in calls),
        "output_tokens": summary(c.output_tokens for c in calls),
        "output_tokens_per_program": summary(p.output_tokens for p in programs),
        "threads_per_program": summary(len({c.thread for c in p.calls}) for p in programs),
        "critical_share": sum(map(critical_tokens, programs)) / sum(c.output_tokens for c in calls),
        "repeated_share": sum(c.shared_tokens for c in calls) / prompts,
        "tool_ms": summary(_durations(programs, TOOL)),
        "human_ms": summary(_durations(programs, HUMAN)),
    }


def critical_tokens(program: ProgramTrace) -> int:
    """The most output tokens on one chain of dependent calls."""
    longest: list[int] = []
    for call in program.calls:
        before = max((longest[parent] for parent in call.parents), default=0)
        longest.append(before + call.output_tokens)
    return max(longest)


def _durations(programs: Sequence[ProgramTrace], kind: str) -> list[float]:
    return [
        call.interrupt.duration_ms
        for program in programs
        for call in program.calls
        if call.interrupt is not None and call.interrupt.kind == kind
    ]
