"""``python -m autellix_sgl.sim``: the paper's figures without a GPU; JSON on standard output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from autellix_sgl.core import PLACEMENTS, SHARE_TURN_MS, Levels
from autellix_sgl.core.memory.program_memory import ADMISSIONS, EVICTIONS
from autellix_sgl.decision_trace import TraceWriter
from autellix_sgl.errors import AutellixError, ConfigError
from autellix_sgl.sim.experiments import (
    TOOL_TIMES,
    Arrivals,
    Setting,
    compare,
    makespan,
    play,
    sweep,
)
from autellix_sgl.sim.fairness import Tenant, shares
from autellix_sgl.sim.figures import figure2, figure9
from autellix_sgl.sim.fleet import OURS, figure14, figure15
from autellix_sgl.sim.hardware import HARDWARE, ServerModel
from autellix_sgl.sim.memory import memory
from autellix_sgl.sim.replay import replay_file
from autellix_sgl.sim.systems import ORACLES, SYSTEMS, Tuning, system_named
from autellix_sgl.workloads import WORKLOADS, load

EPILOG = """\
systems, worst first as the paper has them:
  vllm   arrival order, no prefix cache          atlas  the longest chain of service so far
  fcfs   arrival order (the paper's vLLM-opt)    las    oracle: least attained service, no bins
  mlfq   levels by each call's own service       srpt   oracle: least remaining service
  plas   levels by the program's total service   gittins  the likely end, learned per kind

placements of calls on several replicas:
  round_robin, least_used     in turn; the fewest calls in the system
  program                     the paper's: long calls (over 2048 tokens) stay with their program
  program-radix               the least outstanding work, counting what a cached prefix saves

loads are multiples of the capacity: the program rate at which the simulated server, kept full and
caching perfectly, is just saturated. At 1.5, work comes half as fast again as it can be done.

examples:
  python -m autellix_sgl.sim figure2
  python -m autellix_sgl.sim run --workload mixed --programs 600 --load 1.5 --systems fcfs,atlas
  python -m autellix_sgl.sim sweep --workload mcts --programs 300 --loads 0.5,1,1.5
  python -m autellix_sgl.sim makespan --workload mixed --programs 300
  python -m autellix_sgl.sim memory --workload coding --interrupts 1 --share 0.33
  python -m autellix_sgl.sim run --workload chat --replicas 4 --placement program-radix
  python -m autellix_sgl.sim run --workload chat --programs 50 --systems plas --trace chat.trace
  python -m autellix_sgl.sim replay chat.trace
  python -m autellix_sgl.sim shares --workload chat --programs 200 --tenants plain:2 gamer:1:3:fresh
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (1: replay differs, 2: bad input)."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], dict[str, object]] = options.command
    try:
        result = command(options)
    except AutellixError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 1 if result.get("differences") else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m autellix_sgl.sim",
        description="Simulate serving agent programs, on the same scheduling core as the engine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, about: str, run: Callable[..., object]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(command=run)
        return command

    add("figure2", "total waiting of four programs on two slots", lambda _: figure2())
    add("figure9", "makespan of one DAG, by arrival and by critical path", lambda _: figure9())
    run = add("run", "one workload under several systems", _run)
    _add_setting(run, "fcfs,atlas")
    _add_arrivals(run, Arrivals())
    run.add_argument("--trace", type=Path, help="Write the decisions of the one system here.")
    run.add_argument("--from-file", type=Path, help="Programs and arrivals of a workload file.")
    among = add("shares", "tenants that compete, without shares and with them", _shares)
    _add_setting(among, "atlas")
    among.add_argument("--load", type=float, default=1.5, help="Of all tenants. [%(default)s]")
    among.add_argument(
        "--arrivals", choices=("poisson", "offline"), default="poisson", help="[%(default)s]"
    )
    among.add_argument(
        "--tenants",
        nargs="+",
        default=["plain", "gamer:fresh"],
        metavar="NAME[:WEIGHT[:PART]][:fresh]",
        help="Who has which weight and which part of the programs; fresh: each of its calls names "
        "another program. [plain gamer:fresh]",
    )
    among.add_argument(
        "--turn-ms", type=float, default=SHARE_TURN_MS, help="A tenant's turn. [%(default)s]"
    )
    rates = add("sweep", "token latency of each system over rates (figures 12, 18)", _sweep)
    _add_setting(rates, "fcfs,mlfq,plas,atlas,las,srpt")
    rates.add_argument("--loads", type=_numbers, default=[0.5, 0.75, 1.0, 1.25, 1.5])
    offline = add("makespan", "all programs at once (figure 16)", _makespan)
    _add_setting(offline, "fcfs,mlfq,plas,atlas")
    pool = add("memory", "eviction and admission in a pool that is too small", _memory)
    _add_setting(pool, "fcfs,atlas")
    _add_arrivals(pool, Arrivals("closed", size=16))
    pool.add_argument(
        "--share",
        type=float,
        help="The pool, as a share of the KV that the programs under way stand on; without it, "
        "the pool is the hardware's, or --kv-tokens.",
    )
    fourteen = add("figure14", "placements over rates, several replicas", _figure14)
    _add_fleet(fourteen, programs=300)
    fourteen.add_argument(
        "--workloads", type=_workloads, default=["chat", "react", "mcts", "mixed"]
    )
    fourteen.add_argument("--replicas", type=int, default=4, help="[%(default)s]")
    fourteen.add_argument("--loads", type=_numbers, default=[0.5, 0.75, 1.0, 1.25, 1.5])
    fifteen = add("figure15", "the rate that 1 to 64 replicas sustain", _figure15)
    _add_fleet(fifteen, programs=200)
    fifteen.add_argument("--workload", choices=WORKLOADS, default="chat", help="[%(default)s]")
    fifteen.add_argument("--placement", choices=PLACEMENTS, default=OURS, help="[%(default)s]")
    fifteen.add_argument("--fleets", type=_wholes, default=[1, 2, 4, 8, 16, 32, 64])
    replay = add("replay", "check a decision trace against the core", _replay)
    replay.add_argument("file", type=Path, help="A file written by --program-trace or run --trace.")
    return parser


def _add_setting(parser: argparse.ArgumentParser, systems: str) -> None:
    setting, tuning = Setting(), Tuning()
    add = parser.add_argument
    add("--systems", type=_names, default=systems.split(","), help=f"[{systems}]")
    add("--workload", choices=WORKLOADS, default=setting.workload, help="[%(default)s]")
    add("--programs", type=int, default=setting.programs, help="[%(default)s]")
    add("--seed", type=int, default=setting.seed, help="[%(default)s]")
    add("--scale", type=float, default=1.0, help="Multiply every length by this. [%(default)s]")
    add(
        "--interrupts",
        type=float,
        default=setting.interrupts,
        help="Multiply tool and human times by this; 0 replays turns back to back. [%(default)s]",
    )
    add(
        "--tool-times",
        choices=TOOL_TIMES,
        default=setting.tool_times,
        help="tracelab: each tool takes a time as coding agents' tools do (median 0.1 s, p90 10 s, "
        "p99 192 s), and humans answer at once. [%(default)s]",
    )
    add("--replicas", type=int, default=1, help="[%(default)s]")
    add("--placement", choices=PLACEMENTS, default="program", help="[%(default)s]")
    add(
        "--hardware",
        choices=HARDWARE,
        default="a100-8b",
        help="Step costs and sizes, which the next flags change one by one: Llama-3.1-8B on an "
        "A100-80GB, or the default model on two CPU cores. [%(default)s]",
    )
    add("--slots", type=int, help="Calls in a batch.")
    add("--kv-tokens", type=int, help="KV pool.")
    add("--chunk-tokens", type=int, help="A step's.")
    add(
        "--separate",
        dest="mixed",
        action="store_false",
        default=None,
        help="Prefill and decode in separate steps.",
    )
    add(
        "--swap-cost",
        type=float,
        help="Bringing an evicted token back from host memory, in prefill tokens; 1: there is no "
        "host tier.",
    )
    add("--levels", type=int, default=tuning.levels.count, help="Levels. [%(default)s]")
    add("--first-quantum-ms", type=float, default=tuning.levels.quanta_ms[0], help="[%(default)s]")
    add("--growth", type=float, default=2.0, help="Quantum growth. [%(default)s]")
    add("--beta", type=float, default=tuning.starvation_ratio, help="0: no promotion [%(default)s]")
    add("--interval", type=int, default=tuning.interval, help="Steps to a pass. [%(default)s]")
    add(
        "--admission",
        choices=ADMISSIONS,
        default=tuning.program_admission,
        help="As --program-admission of the server. [%(default)s]",
    )
    add(
        "--eviction",
        choices=EVICTIONS,
        default=tuning.program_eviction,
        help="As --program-eviction of the server. [%(default)s]",
    )


def _add_arrivals(parser: argparse.ArgumentParser, default: Arrivals) -> None:
    add = parser.add_argument
    add("--load", type=float, default=default.load, help="Rate, in capacities. [%(default)s]")
    add(
        "--arrivals",
        choices=("poisson", "burst", "closed", "offline"),
        default=default.kind,
        help="How programs come. [%(default)s]",
    )
    add(
        "--size",
        type=int,
        default=default.size,
        help="Programs a burst, or at a time in closed. [%(default)s]",
    )


def _add_fleet(parser: argparse.ArgumentParser, programs: int) -> None:
    parser.add_argument(
        "--programs", type=int, default=programs, help="A replica's share of them. [%(default)s]"
    )
    parser.add_argument("--seed", type=int, default=1, help="[%(default)s]")


def _setting(options: argparse.Namespace) -> Setting:
    return Setting(
        workload=options.workload,
        programs=options.programs,
        seed=options.seed,
        scale=options.scale,
        interrupts=options.interrupts,
        tool_times=options.tool_times,
        replicas=options.replicas,
        placement=options.placement,
        server=_server(options),
        tuning=Tuning(
            levels=Levels.geometric(options.levels, options.first_quantum_ms, options.growth),
            starvation_ratio=options.beta,
            interval=options.interval,
            program_admission=options.admission,
            program_eviction=options.eviction,
        ),
    )


def _server(options: argparse.Namespace) -> ServerModel:
    """The named hardware with the flags that were given."""
    names = ("slots", "kv_tokens", "chunk_tokens", "mixed", "swap_cost")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(HARDWARE[options.hardware], **given)


def _run(options: argparse.Namespace) -> dict[str, object]:
    setting, systems = _setting(options), options.systems
    if options.from_file is None and options.trace is None:
        return compare(setting, Arrivals(options.arrivals, options.load, options.size), systems)
    if options.from_file is not None:
        workload = load(options.from_file)
    else:
        arrivals = Arrivals(options.arrivals, options.load, options.size)
        workload = arrivals.apply(setting, setting.draw())
    if options.trace is None:
        return {"systems": {name: play(setting, workload, name) for name in systems}}
    if len(systems) != 1 or systems[0] in ORACLES or setting.replicas != 1:
        raise ConfigError("--trace records one replica under one system that is no oracle")
    with TraceWriter.open(options.trace) as trace:
        return {"systems": {systems[0]: play(setting, workload, systems[0], trace.record)}}


def _shares(options: argparse.Namespace) -> dict[str, object]:
    setting = _setting(options)
    setting = replace(setting, tuning=replace(setting.tuning, share_turn_ms=options.turn_ms))
    tenants = [Tenant.parse(text) for text in options.tenants]
    arrivals = Arrivals(options.arrivals, options.load)
    return shares(setting, arrivals, tenants, options.systems)


def _sweep(options: argparse.Namespace) -> dict[str, object]:
    return sweep(_setting(options), options.loads, options.systems)


def _makespan(options: argparse.Namespace) -> dict[str, object]:
    return makespan(_setting(options), options.systems)


def _memory(options: argparse.Namespace) -> dict[str, object]:
    arrivals = Arrivals(options.arrivals, options.load, options.size)
    return memory(_setting(options), arrivals, options.systems, options.share)


def _figure14(options: argparse.Namespace) -> dict[str, object]:
    setting = Setting(programs=options.programs, seed=options.seed, replicas=options.replicas)
    return figure14(setting, options.workloads, options.loads)


def _figure15(options: argparse.Namespace) -> dict[str, object]:
    setting = Setting(
        workload=options.workload,
        programs=options.programs,
        seed=options.seed,
        placement=options.placement,
    )
    return figure15(setting, options.fleets)


def _replay(options: argparse.Namespace) -> dict[str, object]:
    return replay_file(options.file)


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        try:
            system_named(name)
        except AutellixError:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(SYSTEMS)}") from None
    return names


def _workloads(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in WORKLOADS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(WORKLOADS)}")
    return names


def _wholes(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]
