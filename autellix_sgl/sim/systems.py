"""The systems that are compared: a name to a scheduler and a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from autellix_sgl.core import CallStamp, Levels, policy_named
from autellix_sgl.core.memory.program_memory import LRU, OFF, WORKING_SET, ProgramMemory
from autellix_sgl.core.scheduling.decision_log import Recorder
from autellix_sgl.errors import ConfigError
from autellix_sgl.sim.hardware import ServerModel
from autellix_sgl.sim.jump import JumpingScheduler
from autellix_sgl.sim.oracles import RankScheduler
from autellix_sgl.sim.seam import Scheduler

RemainingOf = Callable[[str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The scheduler's parameters.

    The levels reach to 400 s of service, since a tree search on the A100 table takes minutes. Beta
    is 32, four times the server's default: over 1,200 mixed programs at 1.5 times capacity, 8 took
    PLAS's mean token latency from 69 to 114 ms (the order falls back to arrival's), 32 left it.
    ``share_turn_ms`` is a tenant's turn, None if tenants have no shares: the time in which a full
    batch gets a turn's service.
    """

    levels: Levels = field(default_factory=lambda: Levels.geometric(12, 200.0, 2.0))
    starvation_ratio: float = 32.0
    interval: int = 4
    share_turn_ms: float | None = None
    program_admission: str = OFF
    program_eviction: str = LRU

    @property
    def watches_memory(self) -> bool:
        """Whether anything is decided by what a scheduler knows of its programs' KV."""
        return self.program_admission != OFF or self.program_eviction != LRU

    def memory(self, server: ServerModel) -> ProgramMemory | None:
        """That; None if nothing is."""
        if not self.watches_memory:
            return None
        admits = self.program_admission == WORKING_SET
        return ProgramMemory(server.kv_tokens, server.cost, admission=admits)


@dataclass(frozen=True, slots=True)
class System:
    """``table_policy`` accumulates service in the process table; ``server`` adapts the hardware."""

    name: str
    about: str
    table_policy: str
    prefix_cache: bool = True

    def server(self, server: ServerModel) -> ServerModel:
        return server if self.prefix_cache else replace(server, prefix_cache=False)

    def scheduler(
        self,
        server: ServerModel,
        tuning: Tuning,
        remaining_of: RemainingOf,
        record: Recorder | None = None,
    ) -> Scheduler:
        """A fresh scheduler for one replica. *remaining_of* is for the clairvoyant only."""
        if self.name in ORACLES:
            return _oracle(self.name, server, tuning, remaining_of)
        return JumpingScheduler(
            policy_named(self.table_policy),
            tuning.levels,
            server.cost,
            starvation_ratio=tuning.starvation_ratio,
            interval=tuning.interval,
            share_turn_ms=tuning.share_turn_ms and tuning.share_turn_ms * server.slots,
            record=record,
            memory=tuning.memory(server),
        )


ORACLES = ("las", "srpt")


def _oracle(
    name: str, server: ServerModel, tuning: Tuning, remaining_of: RemainingOf
) -> RankScheduler:
    def attained(call_id: str, stamp: CallStamp) -> float:
        return stamp.priority_ms

    def remaining(call_id: str, stamp: CallStamp) -> float:
        return remaining_of(stamp.program)

    falling = name == "srpt"
    rank_of = remaining if falling else attained
    return RankScheduler(rank_of, server.cost, falling=falling, interval=tuning.interval)


SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        System("vllm", "arrival order, no prefix cache (vLLM 0.6.1)", "fcfs", prefix_cache=False),
        System("fcfs", "arrival order (vLLM-opt)", "fcfs"),
        System("mlfq", "multi-level feedback over each call's own service", "mlfq"),
        System("plas", "multi-level over the program's total service", "plas"),
        System("atlas", "multi-level over the program's longest chain", "atlas"),
        System("gittins", "the likely end of the program, learned per kind", "gittins"),
        System("las", "oracle: least attained service, unbinned", "plas"),
        System("srpt", "oracle: least remaining service, reads the trace", "plas"),
    )
}


def system_named(name: str) -> System:
    """The system of that name; raises ConfigError that lists the known ones."""
    try:
        return SYSTEMS[name]
    except KeyError:
        raise ConfigError(f"unknown system {name!r} (known: {', '.join(SYSTEMS)})") from None
