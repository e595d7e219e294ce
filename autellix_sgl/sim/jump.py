"""Many decode steps taken as one: the simulator's way over what cannot change anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autellix_sgl.core import CallScheduler, CostModel, StepWork


class JumpingScheduler(CallScheduler):
    """The core's scheduler for a driver that jumps."""

    def step(self, work: StepWork, repeat: int = 1) -> None:
        """*repeat* > 1 stands for so many decode steps, contexts a token a call longer in each.

        The same decisions as the single steps (sums may differ in the last bit), if nothing else
        happens in between. Raises ValueError if *work* has prefills, or *repeat* is below 1.
        """
        if repeat == 1:
            super().step(work)
            return
        if work.prefills or repeat < 1:
            raise ValueError(f"only decode steps repeat, and at least once (repeat={repeat})")
        self._charge_decodes(work, repeat)
        self._steps_since_pass += repeat
        self._log.step(work, self.clock_ms, repeat=repeat)

    def _charge_decodes(self, work: StepWork, repeat: int) -> None:
        """*repeat* decode steps at once; calls whose quantum ends on the way go step by step."""
        charges = decode_run_ms(self.cost_model, work, repeat)
        total = sum(charges)
        self._pass_time(total)
        at_once: list[tuple[str, float]] = []
        crossing: list[str] = []
        for call_id in work.decodes:
            call = self._running.get(call_id)
            if call is None or call.quantum_left_ms > total:
                at_once.append((call_id, total))
            else:
                crossing.append(call_id)
        self._charge(at_once)
        for charge_ms in charges if crossing else ():
            self._charge([(call_id, charge_ms) for call_id in crossing])


def decode_run_ms(cost_model: CostModel, work: StepWork, steps: int) -> Sequence[float]:
    """What each of *steps* decode steps of *work* costs, contexts growing a token a call."""
    first_ms = cost_model.step_ms(work)
    growth_ms = cost_model.per_context_token_ms * len(work.decodes)
    return [first_ms + growth_ms * number for number in range(steps)]


def steps_within(cost_model: CostModel, work: StepWork, ms: float) -> int:
    """The fewest decode steps of *work* that take at least *ms*; contexts grow with each."""
    first = cost_model.step_ms(work)
    growth = cost_model.per_context_token_ms * len(work.decodes)
    if ms <= first:
        return 1
    # n*first + growth*n*(n-1)/2 >= ms
    half = growth / 2
    if half * ms < 1e-12 * first * first:
        return math.ceil(ms / first)
    slope = first - half
    return math.ceil((math.sqrt(slope * slope + 4 * half * ms) - slope) / (2 * half))
