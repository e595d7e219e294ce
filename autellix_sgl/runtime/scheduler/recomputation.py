"""Tokens that are computed a second time because their call was taken out of the batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from autellix_sgl.runtime.scheduler.counters import SchedulerCounters

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req


class Recomputation:
    """Counts them by call, and over all calls in *counters*."""

    def __init__(self, counters: SchedulerCounters) -> None:
        self._counters = counters
        # Tokens that a request had computed when it was taken out; those that were lost until now.
        self._computed: dict[str, int] = {}
        self._lost: dict[str, int] = {}

    def taken_out(self, requests: Iterable[Req]) -> None:
        """The requests are about to leave the batch: how far has each come?"""
        for req in requests:
            self._computed[req.rid] = req.kv.kv_committed_len

    def came_back(self, req: Req) -> None:
        """The request was admitted: what of it does the tree not hold any more?"""
        lost = self._computed.pop(req.rid, 0) - req.prefix_len
        if lost > 0:
            self._lost[req.rid] = self._lost.get(req.rid, 0) + lost
            self._counters.recomputed_tokens += lost

    def of(self, rid: str) -> int:
        """Tokens of that call until now."""
        return self._lost.get(rid, 0)

    def forget(self, rid: str) -> None:
        """The call has left for good."""
        self._computed.pop(rid, None)
        self._lost.pop(rid, None)

    def __len__(self) -> int:
        """How much is remembered."""
        return len(self._computed) + len(self._lost)
