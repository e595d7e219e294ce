"""What a recorder is told of a scheduler: enough to decide the run again.

:mod:`autellix_sgl.sim.replay` says what the lines are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from autellix_sgl.core.calls.cost import CostModel, StepWork
from autellix_sgl.core.calls.levels import Levels
from autellix_sgl.core.calls.model import Call
from autellix_sgl.core.calls.waits import Reason, by_reason, settled
from autellix_sgl.core.scheduling.preemption import Candidate, Running

Recorder = Callable[[str, dict[str, object]], None]


class DecisionLog:
    """The events of one scheduler, for its *record*; None, and nothing is done.

    *sizes*: something is decided by how large contexts are, so they are told too.
    """

    def __init__(self, record: Recorder | None, *, sizes: bool) -> None:
        self._record = record
        self._sizes = sizes

    def start(
        self,
        *,
        policy: str,
        levels: Levels,
        cost_model: CostModel,
        pool_tokens: int,
        **settings: object,
    ) -> None:
        """What the scheduler is made of; of the *settings*, those that are not None."""
        if self._record is None:
            return
        settings["pool_tokens"] = pool_tokens if self._sizes else None
        quanta = [None if math.isinf(quantum) else quantum for quantum in levels.quanta_ms]
        self._record(
            "start",
            {
                "policy": policy,
                "boundaries_ms": list(levels.boundaries_ms),
                "quanta_ms": quanta,
                "cost_model": cost_model.as_dict(),
                **{name: value for name, value in settings.items() if value is not None},
            },
        )

    def arrive(self, call: Call, clock_ms: float, **sizes: int) -> None:
        """The call entered; *sizes* are counts of tokens, and so below."""
        if self._record is not None:
            told = sizes if self._sizes else {}
            self.call("arrive", call, clock_ms, stamp=call.stamp.record(), **told)

    def admit(self, call: Call, clock_ms: float, **sizes: int) -> None:
        """The call went into the batch, and why it had waited."""
        self._stopped("admit", call, clock_ms, sizes)

    def remove(self, call: Call, clock_ms: float, **sizes: int) -> None:
        """The call left, and why it had waited."""
        self._stopped("remove", call, clock_ms, sizes)

    def call(self, event: str, call: Call, clock_ms: float, **more: object) -> None:
        """Something happened to the call, which stands so now."""
        if self._record is None:
            return
        turn = {} if call.account is None else {"turn": call.account.turn}
        self._record(
            event,
            {
                "call": call.id,
                "level": call.level,
                "ticket": call.ticket,
                "clock_ms": clock_ms,
                **turn,
                **more,
            },
        )

    def step(self, work: StepWork, clock_ms: float, **more: object) -> None:
        if self._record is not None:
            self._record("step", {"work": work, "clock_ms": clock_ms, **more})

    def end_program(self, program: str, clock_ms: float) -> None:
        if self._record is not None and self._sizes:
            self._record("end_program", {"program": program, "clock_ms": clock_ms})

    def programs(self, let_in: Sequence[str], put_out: Sequence[str], clock_ms: float) -> None:
        """Whom program admission let in, and whom it put out for them, if anybody."""
        if self._record is not None and (let_in or put_out):
            fields = {"let_in": list(let_in), "put_out": list(put_out), "clock_ms": clock_ms}
            self._record("programs", fields)

    def cost_model(self, model: CostModel) -> None:
        if self._record is not None:
            self._record("cost_model", dict(model.as_dict()))

    def short_of(self, reason: Reason) -> None:
        if self._record is not None:
            self._record("short_of", {"reason": reason.value})

    def victims(
        self,
        candidates: Sequence[Candidate],
        running: Sequence[Running],
        limits: Mapping[str, int],
        victims: Sequence[str],
    ) -> None:
        """Of the *candidates* that were looked at, who makes way."""
        if self._record is not None:
            self._record(
                "choose_victims",
                {
                    "candidates": candidates,
                    "running": list(running),
                    **limits,
                    "victims": victims,
                },
            )

    def _stopped(self, event: str, call: Call, clock_ms: float, sizes: Mapping[str, int]) -> None:
        """The call waits no more: how long it has so far and why, the longest reason first."""
        if self._record is None:
            return
        self.call(event, call, clock_ms, **(sizes if self._sizes else {}))
        if call.wait_ms > 0:
            waits = settled(call.wait_ms, call.waits)
            reasons = {reason.value: ms for reason, ms in by_reason(waits)}
            self._record("waits", {"call": call.id, "wait_ms": call.wait_ms, "reasons": reasons})


def remembering(candidates: Iterable[Candidate], seen: list[Candidate]) -> Iterator[Candidate]:
    """The candidates, kept in *seen* as far as they were looked at."""
    for candidate in candidates:
        seen.append(candidate)
        yield candidate
