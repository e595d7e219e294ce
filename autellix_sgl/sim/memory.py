"""What eviction and admission are worth when the KV pool is smaller than what programs stand on.

    python -m autellix_sgl.sim memory --workload coding --programs 100 --size 16

Each pair of ``--admission`` and ``--eviction`` plays the same programs in a pool that holds a share
of their working set, and is held against the offline optimum over the uses that it made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autellix_sgl.core.memory.program_memory import ADMISSIONS, EVICTIONS
from autellix_sgl.errors import ConfigError
from autellix_sgl.sim.batch import SimCall
from autellix_sgl.sim.branch import Branch
from autellix_sgl.sim.experiments import Arrivals, Setting
from autellix_sgl.sim.hardware import ServerModel
from autellix_sgl.sim.metrics import report
from autellix_sgl.sim.optimum import RecordedCache
from autellix_sgl.sim.simulation import ProgramRun, Simulation
from autellix_sgl.sim.systems import Tuning, system_named
from autellix_sgl.workloads import Workload

# More than any workload writes.
UNBOUNDED_TOKENS = 2**40
CALLS_PER_SAMPLE = 10


def memory(
    setting: Setting, arrivals: Arrivals, systems: Sequence[str], share: float | None = None
) -> dict[str, object]:
    """Every system with every pair of flags, in a pool of *share* of the working set.

    Without a share the pool is the server's own.
    """
    programs = setting.draw()
    workload = arrivals.apply(setting, programs)
    needed = working_set(workload, setting.server)
    if share is not None:
        server = replace(setting.server, kv_tokens=int(share * needed))
        setting = replace(setting, server=server)
    rows: list[dict[str, object]] = []
    for system in systems:
        for admission in ADMISSIONS:
            for eviction in EVICTIONS:
                tuning = replace(
                    setting.tuning, program_admission=admission, program_eviction=eviction
                )
                names = {"system": system, "admission": admission, "eviction": eviction}
                rows.append({**names, **_play(workload, setting.server, system, tuning)})
    return {
        "setting": setting.describe(programs),
        "arrivals": {"kind": arrivals.kind, "load": arrivals.load, "size": arrivals.size},
        "working_set_tokens": needed,
        "rows": rows,
    }


def working_set(workload: Workload, server: ServerModel) -> int:
    """KV tokens of the programs under way, on average while new ones come; what they share, once.

    Of a run in arrival order in a pool that never fills.
    """
    simulation = _Watched(
        workload, replace(server, kv_tokens=UNBOUNDED_TOKENS), system_named("fcfs")
    )
    simulation.run()
    if not simulation.full_ms:
        raise ConfigError("memory: all programs start at once; let more programs come than start")
    return int(simulation.live_token_ms / simulation.full_ms)


def _play(
    workload: Workload, server: ServerModel, system: str, tuning: Tuning
) -> dict[str, object]:
    """One run: its report, the hit rate of foresight, and the rate while programs still came."""
    simulation = _Watched(workload, server, system_named(system), tuning=tuning, judged=True)
    simulation.run()
    cache = simulation.replicas[0].cache
    assert isinstance(cache, RecordedCache)
    _, optimal = cache.hit_rates()
    return {
        "optimal_hit_rate": optimal,
        "tokens_per_s_while_full": simulation.full_tokens / simulation.full_ms * 1e3,
        **report(simulation),
    }


class _Watched(Simulation):
    """``full_tokens`` were put out by the calls that ended in the first ``full_ms``, while programs
    were still to come; ``live_token_ms`` is the working set, summed over that time."""

    full_tokens = 0
    full_ms = 0.0
    live_token_ms = 0.0
    _calls = 0
    _sampled_ms = 0.0

    def run(self) -> Sequence[ProgramRun]:
        self._to_come = [set(range(len(run.trace.calls))) for run in self.runs]
        return super().run()

    def _ended(self, replica: int, done: SimCall) -> None:
        program, index = self._where[done.id]
        self._to_come[program].remove(index)
        super()._ended(replica, done)
        if not self.filling:
            return
        self.full_tokens += self.runs[program].trace.calls[index].output_tokens
        self.full_ms = self.now_ms
        self._calls += 1
        if self._calls % CALLS_PER_SAMPLE == 0:
            self.live_token_ms += self._working_set() * (self.now_ms - self._sampled_ms)
            self._sampled_ms = self.now_ms

    def _working_set(self) -> int:
        """What is in memory of the contexts that calls run on or will begin with."""
        branches: dict[int, Branch] = {}
        for run, to_come in zip(self.runs, self._to_come, strict=True):
            for index in to_come:
                runs = f"{run.trace.id}.{index}" in self._where
                context = index if runs else run.trace.calls[index].extends
                if context is not None and (runs or context not in to_come):
                    node: Branch | None = self.replicas[0].cache.branch_of(run.trace, context)
                    while node is not None:
                        branches[node.number] = node
                        node = node.parent
        return sum(branch.held for branch in branches.values())
