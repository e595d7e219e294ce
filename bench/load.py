"""What is asked of every system alike: programs, lengths, and when they come."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from autellix_sgl.errors import ConfigError
from autellix_sgl.workloads import (
    WORKLOADS,
    Workload,
    all_at_once,
    at_times,
    generate,
    poisson_times,
)
from bench.engines import ServerSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All of a comparison but the seed and the rate.

    ``scale`` multiplies every length; ``interrupts`` every tool's and human's time, 0 replays turns
    back to back as the paper seems to.
    """

    workload: str = "mixed"
    programs: int = 60
    scale: float = 0.05
    interrupts: float = 0.0
    server: ServerSetting = field(default_factory=ServerSetting)

    def draw(self, seed: int, rate: float | None) -> Workload:
        """The programs of *seed*, by a Poisson process of *rate* a second; None: all at once.

        Programs and arrivals draw from generators of their own, so the same programs come at
        every rate, in the same pattern.
        """
        programs = generate(
            self.workload,
            self.programs,
            Random(seed),
            scale=self.scale,
            interrupts=self.interrupts,
        )
        if rate is None:
            return all_at_once(self.workload, programs)
        times = poisson_times(Random(seed + 1), len(programs), rate)
        return at_times(self.workload, programs, times)

    def as_dict(self) -> dict[str, object]:
        """JSON-ready; without where the peers are, which is no setting."""
        server = asdict(self.server)
        del server["vllm_python"], server["thunderagent"]
        model = Path(self.server.model).name if self.server.model else "default"
        own = {name: value for name, value in asdict(self).items() if name != "server"}
        return {**own, **server, "model": model, "flags": list(self.server.flags)}


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that :func:`setting_of` reads."""
    own, server = Setting(), ServerSetting()
    load = parser.add_argument_group("load")
    load.add_argument(
        "--workload",
        choices=WORKLOADS,
        default=own.workload,
        help="What the programs are like; `python -m autellix_sgl.workloads describe NAME`. "
        "[%(default)s]",
    )
    load.add_argument("--programs", type=int, default=own.programs, help="[%(default)s]")
    load.add_argument(
        "--scale",
        type=float,
        default=own.scale,
        help="Multiply every length; 1 is the published one, too long for a CPU. [%(default)s]",
    )
    load.add_argument(
        "--interrupts",
        type=float,
        default=own.interrupts,
        help="Multiply the time of every tool and human; 0: turns follow at once. [%(default)s]",
    )
    load.add_argument(
        "--seed",
        type=_seeds,
        default=(1,),
        metavar="S[,S...]",
        help="Each seed is a trace of its own that every system replays. [1]",
    )
    servers = parser.add_argument_group(
        "servers", "flags after `--` go to every server based on SGLang"
    )
    servers.add_argument("--model", help="Folder or name. [the default model]")
    servers.add_argument(
        "--slots", type=int, default=server.slots, help="Calls in a batch. [%(default)s]"
    )
    servers.add_argument(
        "--pool-tokens",
        type=int,
        default=server.pool_tokens,
        help="Size of the KV cache. [%(default)s]",
    )
    servers.add_argument(
        "--vllm-python",
        type=Path,
        default=server.vllm_python,
        metavar="PYTHON",
        help="Python of vLLM's own environment. [%(default)s]",
    )
    servers.add_argument(
        "--thunderagent",
        type=Path,
        default=server.thunderagent,
        metavar="DIR",
        help="A checkout of ThunderAgent. [%(default)s]",
    )


def setting_of(args: argparse.Namespace, server_flags: tuple[str, ...]) -> Setting:
    """The record of what :func:`add_setting_arguments` parsed; ConfigError names a bad flag."""
    for flag in ("slots", "pool_tokens", "programs"):
        if getattr(args, flag) < 1:
            raise ConfigError(f"--{flag.replace('_', '-')} must be at least 1")
    server = ServerSetting(
        model=args.model,
        slots=args.slots,
        pool_tokens=args.pool_tokens,
        flags=server_flags,
        vllm_python=args.vllm_python,
        thunderagent=args.thunderagent,
    )
    return Setting(
        workload=args.workload,
        programs=args.programs,
        scale=args.scale,
        interrupts=args.interrupts,
        server=server,
    )


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers") from None
