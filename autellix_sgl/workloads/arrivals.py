"""When programs come. Rates are programs a second; times are milliseconds from the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from autellix_sgl.errors import ConfigError
from autellix_sgl.workloads.model import ProgramTrace, Workload


def poisson_times(rng: Random, count: int, per_second: float) -> list[float]:
    """A Poisson process, the paper's arrivals: independent exponential gaps."""
    _require_rate(per_second)
    times: list[float] = []
    now = 0.0
    for _ in range(count):
        now += rng.expovariate(per_second) * 1e3
        times.append(now)
    return times


def burst_times(rng: Random, count: int, per_second: float, size: int) -> list[float]:
    """Groups of *size* that come together; the groups are a Poisson process of the same rate."""
    if size < 1:
        raise ConfigError(f"burst: the size must be at least 1, got {size}")
    _require_rate(per_second)
    groups = poisson_times(rng, -(-count // size), per_second / size)
    return [groups[number // size] for number in range(count)]


def at_times(name: str, programs: Sequence[ProgramTrace], times_ms: Sequence[float]) -> Workload:
    """The programs, each arriving at its time."""
    timed = (replace(p, arrival_ms=t) for p, t in zip(programs, times_ms, strict=True))
    return Workload(name, tuple(timed))


def all_at_once(name: str, programs: Sequence[ProgramTrace]) -> Workload:
    """The offline case: everything is there at time zero."""
    return at_times(name, programs, [0.0] * len(programs))


def closed_loop(name: str, programs: Sequence[ProgramTrace], concurrency: int) -> Workload:
    """*concurrency* programs at any time: one that ends lets the next in."""
    return Workload(name, tuple(programs), concurrency=concurrency)


def _require_rate(per_second: float) -> None:
    if not 0 < per_second < float("inf"):
        raise ConfigError(f"arrivals: the rate must be positive, got {per_second} per second")
