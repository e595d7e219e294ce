"""The flags this package adds to SGLang's, and the record they become.

Every other flag on the command line is SGLang's own and passes through unchanged.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from autellix_sgl.core import (
    POLICIES,
    CostModel,
    Levels,
    Policy,
    ProgramMemory,
    policy_named,
)
from autellix_sgl.core.memory.program_memory import (
    ADMISSIONS,
    EVICTIONS,
    LRU,
    OFF,
    VALUE,
    WORKING_SET,
)
from autellix_sgl.errors import ConfigError

STOCK = "none"

# Our radix cache among those that SGLang knows by name.
PROGRAM_CACHE = "autellix"
AUTO = "auto"

# SGLang's flag for data parallelism, and what we add to its values.
LOAD_BALANCE_FLAG = "--load-balance-method"
PLACEMENT_CHOICES = ("program", "program-radix")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramArgs:
    """How programs are scheduled. Field names are the flags' without ``--program-``.

    ``placement`` is what ``--load-balance-method`` says if that is one of ours, else None. The
    record is pickled into every process of the server, so that all of them schedule alike.
    """

    policy: str = "atlas"
    levels: int = 12
    first_quantum_ms: float = 200.0
    quantum_growth: float = 2.0
    starvation_ratio: float = 32.0
    schedule_interval: int = 4
    lease_s: float = 1800.0
    max_programs: int = 100_000
    cost_model: str = AUTO
    trace: str | None = None
    tenants: str | None = None
    admission: str = OFF
    eviction: str = LRU
    placement: str | None = None
    shares: str | None = None

    def __post_init__(self) -> None:
        if self.policy != STOCK:
            policy_named(self.policy)
        elif self.placement is not None:
            raise ConfigError(
                f"{LOAD_BALANCE_FLAG} {self.placement} needs program scheduling, which "
                f"--program-policy {STOCK} switches off"
            )
        for name in ("first_quantum_ms", "lease_s"):
            _require(name, getattr(self, name), above=0)
        _require("quantum_growth", self.quantum_growth, at_least=1)
        _require("starvation_ratio", self.starvation_ratio, at_least=0)
        for name in ("levels", "schedule_interval", "max_programs"):
            _require(name, getattr(self, name), at_least=1)
        for name, known in (("admission", ADMISSIONS), ("eviction", EVICTIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"--program-{name} must be one of {', '.join(known)}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.stock and self.watches_memory:
            name = "admission" if self.admission != OFF else "eviction"
            raise ConfigError(
                f"--program-{name} {getattr(self, name)} does not go with --program-policy none: "
                "SGLang's own scheduler knows of no programs"
            )
        if self.stock and self.tenants is not None:
            raise ConfigError(
                "--program-tenants does not go with --program-policy none: SGLang's own server "
                "would not ask for the tenants' keys"
            )
        if self.stock and self.shares is not None:
            raise ConfigError(
                "--program-shares does not go with --program-policy none: SGLang's own scheduler "
                "knows no tenants"
            )

    @property
    def stock(self) -> bool:
        """Whether SGLang's own scheduler is to run, untouched."""
        return self.policy == STOCK

    @property
    def watches_memory(self) -> bool:
        """Whether the schedulers keep account of programs' KV, and must hear of programs' ends."""
        return self.admission != OFF or self.eviction != LRU

    def core_memory(self, pool_tokens: int) -> ProgramMemory | None:
        """The account of a scheduler whose KV pool holds *pool_tokens*; None if nobody asks it."""
        if not self.watches_memory:
            return None
        model = self.initial_cost_model()
        return ProgramMemory(pool_tokens, model, admission=self.admission == WORKING_SET)

    def server_flags(self) -> list[str]:
        """What SGLang has to be told for this."""
        return ["--radix-cache-backend", PROGRAM_CACHE] if self.eviction == VALUE else []

    def core_policy(self) -> Policy:
        return policy_named(self.policy)

    def core_levels(self) -> Levels:
        return Levels.geometric(self.levels, self.first_quantum_ms, self.quantum_growth)

    def initial_cost_model(self) -> CostModel:
        """The model to start with: the file's, or until the fit is in, one unit a step."""
        return CostModel() if self.cost_model == AUTO else load_cost_model(Path(self.cost_model))

    @classmethod
    def from_namespace(
        cls, namespace: argparse.Namespace, *, placement: str | None = None
    ) -> ProgramArgs:
        flags = {name: getattr(namespace, f"program_{name}") for name in program_flags()}
        return cls(**flags, placement=placement)


def program_flags() -> list[str]:
    """The fields of ProgramArgs that are ``--program-*`` flags."""
    return [field.name for field in fields(ProgramArgs) if field.name != "placement"]


def _require(
    name: str, value: float, *, above: float = -math.inf, at_least: float = -math.inf
) -> None:
    flag = "--program-" + name.replace("_", "-")
    if not value > above:  # also catches NaN
        raise ConfigError(f"{flag} must be greater than {above:g}, got {value:g}")
    if not value >= at_least:
        raise ConfigError(f"{flag} must be at least {at_least:g}, got {value:g}")
    if math.isinf(value):
        raise ConfigError(f"{flag} must be finite")


def take_placement(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of ``--load-balance-method`` if it is one of ours, and *argv* without it then."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(LOAD_BALANCE_FLAG, dest="method")
    known, rest = parser.parse_known_args(argv)
    return (known.method, rest) if known.method in PLACEMENT_CHOICES else (None, list(argv))


def add_placement_choices(parser: argparse.ArgumentParser) -> None:
    """Let SGLang's ``--load-balance-method`` of *parser* take our values too, and say so."""
    (action,) = (a for a in parser._actions if LOAD_BALANCE_FLAG in a.option_strings)
    action.choices = [*(action.choices or ()), *PLACEMENT_CHOICES]
    action.help = (
        f"{action.help} program: a call of more than 2048 tokens goes to its program's replica, a "
        "shorter one to the least used; program-radix: to where the prefix it can reuse is worth "
        "more than the wait."
    )


def load_cost_model(path: Path) -> CostModel:
    """Read a cost model from a JSON object; ConfigError names the file and the field at fault."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--program-cost-model {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"--program-cost-model {path}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"--program-cost-model {path}: expected a JSON object")
    try:
        return CostModel.from_dict(data)
    except ConfigError as error:
        raise ConfigError(f"--program-cost-model {path}: {error}") from error


def add_program_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the ``--program-*`` group to *parser*."""
    default = ProgramArgs()
    group = parser.add_argument_group(
        "program scheduling",
        "A program is one agent run: all its calls to the model. Calls of programs that have had "
        "little service go first. A call names its program by the body's `program`, or by one of "
        "the headers and fields that agents send already; one that names none is its own program.",
    )
    group.add_argument(
        "--program-policy",
        choices=[*POLICIES, STOCK],
        default=default.policy,
        help="atlas: by the longest chain of service in the program (equals plas when calls come "
        "one after another); plas: by the program's total service; mlfq: by each call's own "
        "service; gittins: by how soon the program is likely to end, learned from those that begin "
        "with the same prompt, else as plas; fcfs: by arrival; none: SGLang's own scheduler, "
        "untouched. Default: %(default)s.",
    )
    group.add_argument(
        "--program-levels",
        type=int,
        default=default.levels,
        metavar="K",
        help="Number of priority levels. Default: %(default)s.",
    )
    group.add_argument(
        "--program-first-quantum-ms",
        type=float,
        default=default.first_quantum_ms,
        metavar="MS",
        help="Service a call may use in the best level before it moves down. Default: %(default)s.",
    )
    group.add_argument(
        "--program-quantum-growth",
        type=float,
        default=default.quantum_growth,
        metavar="G",
        help="Each level's quantum is this many times the one above. Default: %(default)s.",
    )
    group.add_argument(
        "--program-starvation-ratio",
        type=float,
        default=default.starvation_ratio,
        metavar="BETA",
        help="A waiting call goes to the best level when its program's wait reaches BETA times its "
        "service; 0 switches this off. Smaller is fairer, larger favours the mean. "
        "Default: %(default)s.",
    )
    group.add_argument(
        "--program-schedule-interval",
        type=int,
        default=default.schedule_interval,
        metavar="N",
        help="Consider preemption every N steps (and at once when a better call arrives). "
        "Default: %(default)s.",
    )
    group.add_argument(
        "--program-lease-s",
        type=float,
        default=default.lease_s,
        metavar="S",
        help="Forget a program that has had no call for this long. Default: %(default)s.",
    )
    group.add_argument(
        "--program-max-programs",
        type=int,
        default=default.max_programs,
        metavar="N",
        help="Remember at most this many programs; the longest idle goes first. "
        "Default: %(default)s.",
    )
    group.add_argument(
        "--program-cost-model",
        default=default.cost_model,
        metavar="auto|FILE",
        help="How service is charged. auto: measure this machine at start-up; FILE: a JSON object "
        "with base_ms, per_prefill_token_ms, per_decode_call_ms, per_context_token_ms. "
        "Default: %(default)s.",
    )
    group.add_argument(
        "--program-trace",
        default=default.trace,
        metavar="FILE",
        help="Write every scheduling event and decision to FILE as JSON lines (one file a replica: "
        "the replica's number is appended when there are several).",
    )
    group.add_argument(
        "--program-tenants",
        default=default.tenants,
        metavar="FILE",
        help="API keys by tenant, in place of --api-key: a JSON object of names and keys. Tenants "
        "do not see each other's programs. Needs --admin-api-key.",
    )
    group.add_argument(
        "--program-shares",
        default=default.shares,
        metavar="FILE",
        help="Weighted shares of the machine for tenants or users, from a JSON or TOML file, which "
        "is read again when it changes. Without it nobody is held to a share.",
    )
    group.add_argument(
        "--program-admission",
        choices=ADMISSIONS,
        default=default.admission,
        help="working-set: when the contexts of the live programs exceed the KV pool, let only as "
        "many programs run as fit, and the others' calls wait; off: all may run. "
        "Default: %(default)s.",
    )
    group.add_argument(
        "--program-eviction",
        choices=EVICTIONS,
        default=default.eviction,
        help="value: contexts leave the KV pool in the order in which they are least likely to be "
        "used soon, those of programs that have ended first; lru: SGLang's order "
        "(--radix-eviction-policy). Default: %(default)s.",
    )
