"""What one scheduler process has done since it started."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass


@dataclass(slots=True)
class SchedulerCounters:
    """Counts since the start. ``pass_seconds`` is wall time spent deciding, over ``passes``.

    ``accounting_faults``: calls for which SGLang's account and ours had to be made to agree again.
    """

    preemptions: int = 0
    parked_prefills: int = 0
    retractions: int = 0
    promotions: int = 0
    recomputed_tokens: int = 0
    accounting_faults: int = 0
    passes: int = 0
    pass_seconds: float = 0.0

    @contextmanager
    def time_pass(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.passes += 1
        self.pass_seconds += time.perf_counter() - started

    def as_dict(self) -> dict[str, float]:
        return asdict(self)
