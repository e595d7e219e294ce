"""The process table's records: a program, its calls while they are in the system and after, counts.

Times that end in ``_at`` are the caller's wall clock in seconds, those in ``_ms`` modelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from autellix_sgl.core.calls.model import CallStatistics
from autellix_sgl.core.calls.waits import NO_WAITS, settled
from autellix_sgl.core.placement.footprint import Footprint
from autellix_sgl.core.programs.forecast import Hints, ServiceHistory
from autellix_sgl.core.programs.kinds import Heads
from autellix_sgl.core.programs.lineage import Key

# A program may name any number of threads; what is kept of them is bounded.
MAX_THREADS_KEPT = 256

# How its last calls fared is kept of a program, of so many of them.
LAST_CALLS_KEPT = 4


@dataclass(slots=True)
class ActiveCall:
    """A call in the system. ``arrived_at`` is wall clock, ``priority_ms`` the p(c) it was given."""

    id: str
    tenant: str
    program: str
    thread: str
    arrived_at: float
    priority_ms: float
    ends_program: bool


@dataclass(frozen=True, slots=True)
class LeftCall:
    """A call that has left. ``left_at`` is wall clock."""

    id: str
    thread: str
    left_at: float
    aborted: bool
    statistics: CallStatistics


@dataclass(slots=True)
class Program:
    """One agent run.

    ``service_ms`` orders its next call (sum of calls or longest chain, by the policy);
    ``total_service_ms`` and ``total_wait_ms`` are T and W of Algorithm 1; of T it had
    ``elsewhere_ms`` at other servers. ``threads`` counts the completed calls of each thread (the
    latest MAX_THREADS_KEPT). ``transient`` marks the own program of a request that named none; it
    goes with its last call. ``engines`` counts its calls by the replica that ran them;
    ``footprint`` is for placing its next one. ``user`` is the end user that its latest call named,
    ``source`` how its first call named the program; both are kept for showing only, as are
    ``waits``, W by reason, and the ``last_calls``, oldest first. ``number`` counts programs as they
    open. ``kind`` follows from ``heads``, its first prompt's, which are kept until it is known;
    ``hints`` is what its client expects. ``history`` is its kind's, which counts it at
    ``history_bin`` while it has calls in the system.
    """

    id: str
    created_at: float
    tenant: str = ""
    user: str | None = None
    source: str | None = None
    transient: bool = False
    number: int = 0
    kind: str | None = None
    heads: Heads = ()
    hints: Hints | None = None
    history: ServiceHistory | None = None
    history_bin: int | None = None
    service_ms: float = 0.0
    total_service_ms: float = 0.0
    elsewhere_ms: float = 0.0
    total_wait_ms: float = 0.0
    calls_completed: int = 0
    calls_aborted: int = 0
    output_tokens: int = 0
    preemptions: int = 0
    promotions: int = 0
    ended: bool = False
    last_arrival_at: float | None = None
    last_completion_at: float | None = None
    engines: dict[int, int] = field(default_factory=dict)
    threads: dict[str, int] = field(default_factory=dict)
    footprint: Footprint = field(default_factory=Footprint)
    active: dict[str, ActiveCall] = field(default_factory=dict)
    waits: tuple[float, ...] = NO_WAITS
    last_calls: tuple[LeftCall, ...] = ()

    @property
    def settled_waits(self) -> tuple[float, ...]:
        """``waits``, adding up to ``total_wait_ms`` exactly."""
        return settled(self.total_wait_ms, self.waits)

    @property
    def key(self) -> Key:
        return (self.tenant, self.id)

    @property
    def label(self) -> str:
        """The id as the schedulers' logs have it: unique over all tenants."""
        return f"{self.tenant}/{self.id}" if self.tenant else self.id

    @property
    def last_seen_at(self) -> float:
        """When a call of it last arrived or completed, wall clock."""
        return max(self.created_at, self.last_arrival_at or 0.0, self.last_completion_at or 0.0)

    def had_elsewhere(self, attained_ms: float) -> None:
        """It is known to have had at least *attained_ms*, here and at other servers."""
        self.service_ms = max(self.service_ms, attained_ms)
        unseen_ms = max(0.0, attained_ms - self.total_service_ms)
        self.total_service_ms += unseen_ms
        self.elsewhere_ms += unseen_ms

    def completed(self, thread: str) -> None:
        """Count a call of *thread* that finished."""
        self.calls_completed += 1
        self.threads[thread] = self.threads.pop(thread, 0) + 1
        if len(self.threads) > MAX_THREADS_KEPT:
            del self.threads[next(iter(self.threads))]

    def remember(self, call: LeftCall) -> None:
        """Keep how a call fared, and forget an older one."""
        self.last_calls = (*self.last_calls[1 - LAST_CALLS_KEPT :], call)


@dataclass(frozen=True, slots=True)
class TableStatistics:
    """Counters since the start, and what is live now.

    ``calls_stray`` counts those of ``calls_aborted`` that nobody waited for any more when the table
    was checked: there should be none.
    """

    programs: int
    idle_programs: int
    active_calls: int
    opened: int
    ended: int
    lapsed: int
    evicted: int
    calls_completed: int
    calls_aborted: int
    calls_stray: int
