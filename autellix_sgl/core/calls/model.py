"""The records that pass between the table, the scheduler and their drivers.

Units: everything that ends in ``_ms`` is *modelled* milliseconds of the executor (see ``cost``),
unless its docstring says wall clock.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from autellix_sgl.core.calls.account import Account
from autellix_sgl.core.calls.queue import Key
from autellix_sgl.core.calls.waits import NO_WAITS, START, Mark, Standing, settled

# What of a stamp is left out of a decision trace: features that are off must not change it.
UNUSED = {"itinerary": (), "order": 0, "tenant": "", "weight": 1.0, "kind": ""}

Itinerary = tuple[tuple[int, float | None], ...]
"""Levels that a call passes through: (level, ms of service that it stays there), the last for good.

The last one's ms are None.
"""


@dataclass(frozen=True, slots=True)
class CallStamp:
    """What the process table knows of a call's program at the moment the call arrives.

    ``priority_ms`` is p(c) of the paper's section 4.2: the attained service that orders the call.
    ``program_wait_ms`` and ``program_service_ms`` are W and T of Algorithm 1: the program's totals
    over its completed calls, for anti-starvation. ``itinerary`` takes the place of the policy's
    levels and quanta, unless it is empty. Within a level the call of the lower ``order`` goes
    first, and among equals the one that came there first. ``tenant`` is whose share of the machine
    the call is charged to, and ``weight`` that share against the largest, which is 1. ``kind`` is
    its program's, if anybody wants to know and it has one.
    """

    program: str
    thread: str = ""
    priority_ms: float = 0.0
    program_wait_ms: float = 0.0
    program_service_ms: float = 0.0
    itinerary: Itinerary = ()
    order: int = 0
    tenant: str = ""
    weight: float = 1.0
    kind: str = ""

    def record(self) -> dict[str, object]:
        """The stamp in a decision trace."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in UNUSED or value != UNUSED[name]
        }


@dataclass(slots=True)
class Call:
    """One LLM call inside one scheduler.

    ``ticket`` is the call's place in its level: a number drawn when the call entered the level.
    ``service_ms`` and ``wait_ms`` are totals, ``recent_service_ms`` and ``recent_wait_ms`` are the
    t and w of Algorithm 1, which a promotion sets to zero. ``queued_at_ms`` is the scheduler's
    modelled clock when the current wait began, None while the call runs. ``waits`` splits
    ``wait_ms`` by reason, ``mark`` is for the wait that goes on (see the module ``waits``).
    ``legs_begun`` counts the legs of the stamp's itinerary up to the present one. ``account`` is
    its tenant's, if tenants have shares here. A call that waits and is ``held`` is not offered: its
    program has not been let in.
    """

    id: str
    stamp: CallStamp
    level: int
    quantum_left_ms: float
    ticket: int
    queued_at_ms: float | None
    service_ms: float = 0.0
    wait_ms: float = 0.0
    recent_service_ms: float = 0.0
    recent_wait_ms: float = 0.0
    held: bool = False
    preemptions: int = 0
    demotions: int = 0
    promotions: int = 0
    legs_begun: int = 0
    account: Account | None = None
    mark: Mark = START
    waits: tuple[float, ...] = NO_WAITS

    @property
    def waiting(self) -> bool:
        return self.queued_at_ms is not None

    @property
    def key(self) -> Key:
        """The total order of calls: level, then ticket. Smaller runs first; no two are equal.

        Where tenants have shares, the turn of its tenant comes before the level.
        """
        if self.account is None:
            return (self.level, self.ticket)
        return (self.account.turn, self.level, self.ticket)

    @property
    def place(self) -> Key:
        """Level and ticket, without the turn of its tenant, which others' calls can move."""
        return (self.level, self.ticket)

    @property
    def tenant(self) -> str:
        """Whose share it is charged to, empty without shares."""
        return "" if self.account is None else self.account.tenant

    @property
    def standing(self) -> Standing:
        """The turn of its tenant, 0 without shares, and its level."""
        return (0 if self.account is None else self.account.turn, self.level)

    def statistics(self) -> CallStatistics:
        """What it has cost and how it has fared until now, but for the wait that goes on."""
        return CallStatistics(
            level=self.level,
            service_ms=self.service_ms,
            wait_ms=self.wait_ms,
            preemptions=self.preemptions,
            demotions=self.demotions,
            promotions=self.promotions,
            waits=settled(self.wait_ms, self.waits),
        )


@dataclass(frozen=True, slots=True)
class CallStatistics:
    """What a call cost and how it fared, known when it leaves the scheduler.

    ``waits`` splits ``wait_ms`` by reason, exactly.
    """

    level: int
    service_ms: float
    wait_ms: float
    preemptions: int
    demotions: int
    promotions: int
    waits: tuple[float, ...] = NO_WAITS
