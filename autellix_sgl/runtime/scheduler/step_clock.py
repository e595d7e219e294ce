"""Wall time of each step, beside what the cost model says it costs."""

from __future__ import annotations

import time
from collections import deque

from autellix_sgl.core import CostModel, StepWork

# Enough for a fit and for an error that follows the load; a few seconds of steps.
SAMPLES_KEPT = 512


class StepClock:
    """Samples of (features, wall ms) for fitting the cost model and for reporting its error.

    Never read by a scheduling decision: ranks have different clocks. On a device that runs beside
    us a step's time is from its launch, or from the end of the step before if that is later, to the
    end of its result's processing, so overlapped steps are not counted twice. On the CPU
    (*synchronous*) a step is over when its launch returns, and the planning since the last one is
    its own.
    """

    def __init__(self, *, synchronous: bool) -> None:
        self.synchronous = synchronous
        self._launched: deque[tuple[StepWork, float]] = deque()
        self._samples: deque[tuple[tuple[float, ...], float]] = deque(maxlen=SAMPLES_KEPT)
        self._last_end = 0.0

    def launched(self, work: StepWork) -> None:
        self._launched.append((work, time.perf_counter()))

    def idled(self) -> None:
        """Nothing ran until now; the wait belongs to no step."""
        self._last_end = time.perf_counter()

    def finished(self) -> None:
        """The oldest launched step is over."""
        if not self._launched:
            return
        work, started = self._launched.popleft()
        now = time.perf_counter()
        since = self._last_end if self.synchronous else max(started, self._last_end)
        wall_ms = (now - since) * 1e3
        self._last_end = now
        self._samples.append((work.features, wall_ms))

    def forget(self) -> None:
        """Drop the samples, so that the next ones are all of one kind of load."""
        self._samples.clear()

    def samples(self) -> list[tuple[list[float], float]]:
        return [(list(features), wall_ms) for features, wall_ms in self._samples]

    def error(self, model: CostModel) -> float | None:
        """|modelled - wall| summed over the kept samples, as a share of the wall time."""
        total = sum(wall_ms for _, wall_ms in self._samples)
        if total <= 0:
            return None
        off = sum(abs(modelled_ms(model, f) - wall) for f, wall in self._samples)
        return off / total


def modelled_ms(model: CostModel, features: tuple[float, ...] | list[float]) -> float:
    """The model's value for a sample's features."""
    return sum(
        coefficient * feature
        for coefficient, feature in zip(
            (
                model.base_ms,
                model.per_prefill_token_ms,
                model.per_decode_call_ms,
                model.per_context_token_ms,
            ),
            features,
            strict=True,
        )
    )
