"""SGLang's order inside a level, ours between levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.managers.schedule_policy import SchedulePolicy

from autellix_sgl.core.calls.waits import Standing
from autellix_sgl.runtime.scheduler.waiting import AdmissionWindow


class LevelSchedulePolicy(SchedulePolicy):  # type: ignore[misc]
    """``--schedule-policy`` applied within each level of the head of the admission window.

    SGLang sorts the head as it likes (fcfs: not at all, lpm: by cached prefix); a stable sort by
    standing (level, before it the tenant's turn) afterwards keeps that order only among equals.
    """

    def __init__(self, *args: Any, standing_of: Callable[[Req], Standing]) -> None:
        super().__init__(*args)
        self._standing_of = standing_of

    def calc_priority(
        self,
        waiting_queue: AdmissionWindow,
        running_batch: ScheduleBatch | None = None,
        processed_tokens: int = 0,
    ) -> None:
        head = waiting_queue.head
        super().calc_priority(head, running_batch, processed_tokens=processed_tokens)
        head.sort(key=self._standing_of)
