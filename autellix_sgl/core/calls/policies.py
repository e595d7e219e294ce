"""The policies, as decision arithmetic only: numbers in, a level or a service value out.

A policy holds no queue and no state. The table asks it how a completed call adds to its program's
attained service; the scheduler asks it where a new call enters and whether quanta apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autellix_sgl.core.calls.levels import Levels
from autellix_sgl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Policy:
    """``accumulate(program service, the call's priority, the call's service) -> program service``.

    ``enters_by_service``: a new call starts in the level its program has earned; otherwise at the
    top. ``uses_levels``: quanta, demotion, promotion and preemption apply. ``learns``: a program's
    kind and its history give its calls an itinerary instead, as soon as there is one.
    """

    name: str
    accumulate: Callable[[float, float, float], float]
    enters_by_service: bool
    uses_levels: bool
    learns: bool = False

    def entry_level(self, levels: Levels, priority_ms: float) -> int:
        return levels.level_of(priority_ms) if self.enters_by_service else 0


def sum_of_calls(program_ms: float, priority_ms: float, call_ms: float) -> float:
    """PLAS (paper section 4.2.1): the service of all completed calls."""
    return program_ms + call_ms


def longest_chain(program_ms: float, priority_ms: float, call_ms: float) -> float:
    """ATLAS (paper section 4.2.2), its online form: the longest observed chain of service.

    The call began with ``priority_ms`` behind it, so the chain it ends is that plus its own
    service. On a single-threaded program this equals :func:`sum_of_calls`.
    """
    return max(program_ms, priority_ms + call_ms)


POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("fcfs", sum_of_calls, enters_by_service=False, uses_levels=False),
        Policy("mlfq", sum_of_calls, enters_by_service=False, uses_levels=True),
        Policy("plas", sum_of_calls, enters_by_service=True, uses_levels=True),
        Policy("atlas", longest_chain, enters_by_service=True, uses_levels=True),
        Policy("gittins", sum_of_calls, enters_by_service=True, uses_levels=True, learns=True),
    )
}


def policy_named(name: str) -> Policy:
    """The policy of that name; raises ConfigError that lists the known ones."""
    try:
        return POLICIES[name]
    except KeyError:
        raise ConfigError(f"unknown policy {name!r} (known: {', '.join(POLICIES)})") from None
