"""Call reports that ride on SGLang's outputs to the main process."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer

from autellix_sgl.runtime.wire import REPORT_KEY, CallReport


class ProgramOutputStreamer(SchedulerOutputStreamer):  # type: ignore[misc]
    """SGLang's streamer plus one report for each request that finishes.

    ``report_of`` is set by the scheduler once it can answer.
    """

    has_additional_customized_info: ClassVar[bool] = True
    report_of: Callable[[Req], CallReport | None] = staticmethod(lambda _: None)

    def build_additional_customized_info(
        self, reqs: list[Req]
    ) -> dict[str, list[CallReport | None]]:
        reports = [self.report_of(req) if req.finished() else None for req in reqs]
        # A step in which nothing finished carries nothing extra.
        return {REPORT_KEY: reports} if any(r is not None for r in reports) else {}
