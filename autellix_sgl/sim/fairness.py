"""Tenants that compete for one replica: who gets how much of it, with shares and without.

A tenant that is ``fresh`` names another program in each call, so that all its calls look new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autellix_sgl.core import CostModel, StepWork
from autellix_sgl.errors import ConfigError
from autellix_sgl.sim.experiments import Arrivals, Setting
from autellix_sgl.sim.jump import decode_run_ms
from autellix_sgl.sim.metrics import report
from autellix_sgl.sim.simulation import ProgramRun, Simulation
from autellix_sgl.sim.systems import ORACLES, system_named
from autellix_sgl.workloads import ProgramTrace, Workload, quantiles

FRESH = "fresh"


@dataclass(frozen=True, slots=True)
class Tenant:
    """``weight`` is its share against the others', ``part`` of the programs are its."""

    name: str
    weight: float = 1.0
    part: float = 1.0
    fresh: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("tenants: a name must not be empty")
        for field in ("weight", "part"):
            if not 0 < getattr(self, field) < float("inf"):
                raise ConfigError(
                    f"tenants: {self.name}: {field} must be positive, got {getattr(self, field)}"
                )

    @classmethod
    def parse(cls, text: str) -> Tenant:
        """``NAME[:WEIGHT[:PART]][:fresh]``; raises ConfigError."""
        name, *numbers = text.split(":")
        fresh = bool(numbers) and numbers[-1] == FRESH
        if fresh:
            numbers.pop()
        try:
            weight, part = map(float, (*numbers, *["1"] * (2 - len(numbers))))
        except ValueError:
            raise ConfigError(
                f"tenants: expected NAME[:WEIGHT[:PART]][:{FRESH}], got {text!r}"
            ) from None
        return cls(name, weight, part, fresh)


def dealt(programs: Sequence[ProgramTrace], tenants: Sequence[Tenant]) -> list[ProgramTrace]:
    """The programs in their order, each with its tenant: in turn, as often as its part asks."""
    given: Counter[str] = Counter()
    owned = []
    for program in programs:
        tenant = min(tenants, key=lambda t: (given[t.name] + 0.5) / t.part)
        given[tenant.name] += 1
        owned.append(replace(program, tenant=tenant.name, fresh=tenant.fresh))
    return owned


def shares(
    setting: Setting, arrivals: Arrivals, tenants: Sequence[Tenant], systems: Sequence[str]
) -> dict[str, object]:
    """Each system without shares and with them, over the same programs of the same tenants."""
    if setting.replicas != 1 or any(name in ORACLES for name in systems):
        raise ConfigError("tenants: one replica, and no oracle, can be compared")
    if len({tenant.name for tenant in tenants}) != len(tenants):
        raise ConfigError("tenants: two have the same name")
    programs = dealt(setting.draw(), tenants)
    workload = arrivals.apply(setting, programs)
    without = replace(setting, tuning=replace(setting.tuning, share_turn_ms=None))
    return {
        "setting": setting.describe(programs),
        "arrivals": {"kind": arrivals.kind, "load": arrivals.load, "size": arrivals.size},
        "share_turn_ms": setting.tuning.share_turn_ms,
        "tenants": [
            {"name": t.name, "weight": t.weight, "part": t.part, "fresh": t.fresh} for t in tenants
        ],
        "systems": {
            name: {
                "no_shares": _played(without, workload, tenants, name),
                "shares": _played(setting, workload, tenants, name),
            }
            for name in systems
        },
    }


def _played(
    setting: Setting, workload: Workload, tenants: Sequence[Tenant], system: str
) -> dict[str, object]:
    largest = max(tenant.weight for tenant in tenants)
    meter = ShareMeter([tenant.name for tenant in tenants], setting.server.cost)
    simulation = Simulation(
        workload,
        setting.server,
        system_named(system),
        tuning=setting.tuning,
        weights={tenant.name: tenant.weight / largest for tenant in tenants},
        record=meter.record,
    )
    simulation.run()
    return {**report(simulation), "tenants": _by_tenant(simulation.runs, meter)}


def _by_tenant(runs: Sequence[ProgramRun], meter: ShareMeter) -> dict[str, object]:
    contended = sum(meter.contended_ms.values())
    found: dict[str, object] = {}
    for name in meter.tenants:
        own = [run for run in runs if run.trace.tenant == name]
        found[name] = {
            "programs": len(own),
            "service_ms": meter.service_ms[name],
            "contended_service_ms": meter.contended_ms[name],
            "contended_share": meter.contended_ms[name] / contended if contended else None,
            "response_ms": quantiles([run.response_ms for run in own]),
            "token_latency_ms": quantiles(
                [run.response_ms / run.trace.output_tokens for run in own]
            ),
        }
    return found


class ShareMeter:
    """Listens to a scheduler: what each tenant is charged, in all and while all of them wait.

    Only then is a share worth anything: a tenant that has no call waiting gets all that it asks.
    """

    def __init__(self, tenants: Sequence[str], cost_model: CostModel) -> None:
        self.tenants = tuple(tenants)
        self.service_ms = dict.fromkeys(self.tenants, 0.0)
        self.contended_ms = dict.fromkeys(self.tenants, 0.0)
        self._cost_model = cost_model
        self._waiting: Counter[str] = Counter()
        self._waits: dict[str, bool] = {}
        self._tenant_of: dict[str, str] = {}

    def record(self, event: str, fields: dict[str, object]) -> None:
        """The ``record`` of a :class:`~autellix_sgl.core.CallScheduler`."""
        if event == "step":
            work, repeat = fields["work"], fields.get("repeat", 1)
            assert isinstance(work, StepWork)
            assert isinstance(repeat, int)
            self._step(work, repeat)
            return
        call = fields.get("call")
        if event == "arrive":
            stamp = fields["stamp"]
            assert isinstance(stamp, dict)
            self._tenant_of[str(call)] = stamp.get("tenant", "")
        if event in ("arrive", "admit", "requeue", "remove"):
            self._note(str(call), waits=event in ("arrive", "requeue"))
        if event == "remove":
            del self._tenant_of[str(call)], self._waits[str(call)]

    def _note(self, call: str, *, waits: bool) -> None:
        before = self._waits.get(call, False)
        self._waits[call] = waits
        self._waiting[self._tenant_of[call]] += waits - before

    def _step(self, work: StepWork, repeat: int) -> None:
        contended = all(self._waiting[tenant] for tenant in self.tenants)
        charges = self._cost_model.charges_ms(work)
        if repeat > 1:
            total = sum(decode_run_ms(self._cost_model, work, repeat))
            charges = [(call, total) for call in work.decodes]
        for call, ms in charges:
            tenant = self._tenant_of[call]
            self.service_ms[tenant] += ms
            if contended:
                self.contended_ms[tenant] += ms
