"""Call reports that ride on SGLang's outputs to the main process."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer

from autellix_sgl.core import CallScheduler
from autellix_sgl.runtime.wire import REPORT_KEY, CallReport

# Marks a streamed request whose first output has been sent.
BEGUN_ATTRIBUTE = "autellix_begun"


class ProgramOutputStreamer(SchedulerOutputStreamer):  # type: ignore[misc]
    """SGLang's streamer plus a report with each request's last output, and first if it streams.

    ``report_of`` is set by the scheduler once it can answer.
    """

    has_additional_customized_info: ClassVar[bool] = True
    report_of: Callable[[Req], CallReport | None] = staticmethod(lambda _: None)

    def build_additional_customized_info(
        self, reqs: list[Req]
    ) -> dict[str, list[CallReport | None]]:
        reports = [self.report_of(req) if _is_due(req) else None for req in reqs]
        # A step in which nothing began or finished carries nothing extra.
        return {REPORT_KEY: reports} if any(r is not None for r in reports) else {}


def call_report(
    calls: CallScheduler, rid: str, *, replica: int, recomputed_tokens: int
) -> CallReport:
    """What a call has cost and how it has fared until now; raises UnknownCall."""
    statistics = calls.call(rid).statistics()
    # An aborted call leaves in the middle of a wait.
    wait_ms, waits = calls.waits_of(rid)
    return CallReport(
        replica=replica,
        level=statistics.level,
        service_ms=statistics.service_ms,
        wait_ms=wait_ms,
        preemptions=statistics.preemptions,
        demotions=statistics.demotions,
        promotions=statistics.promotions,
        recomputed_tokens=recomputed_tokens,
        waits=waits,
    )


def _is_due(req: Req) -> bool:
    """Whether this output is the request's last, or the first of a stream."""
    if req.finished():
        return True
    if not req.stream or getattr(req, BEGUN_ATTRIBUTE, False):
        return False
    setattr(req, BEGUN_ATTRIBUTE, True)
    return True
