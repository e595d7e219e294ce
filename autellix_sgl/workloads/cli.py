"""``python -m autellix_sgl.workloads``: look at a workload, or write it to a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from autellix_sgl.errors import AutellixError
from autellix_sgl.workloads.arrivals import (
    all_at_once,
    at_times,
    burst_times,
    closed_loop,
    poisson_times,
)
from autellix_sgl.workloads.generators import WORKLOADS, generate
from autellix_sgl.workloads.importers import IMPORTERS, import_programs
from autellix_sgl.workloads.model import ProgramTrace, Workload
from autellix_sgl.workloads.statistics import PUBLISHED_MEANS, describe
from autellix_sgl.workloads.trace_file import load, to_lines
from autellix_sgl.workloads.transforms import scaled, with_interrupts

EPILOG = """\
A program is one agent run: a DAG of LLM calls. WORKLOAD is a generator's name,
  chat       ShareGPT sessions                react      BFCL tool agents
  mcts       LATS tree search, parallel       mixed      the three in equal parts
  coding     TraceLab coding agents           mapreduce  fan-out and join
or, with --format, one or more files to import; `ours` is what generate writes.

examples:
  python -m autellix_sgl.workloads describe mixed --programs 500
  python -m autellix_sgl.workloads describe --format trie agentic_coding_8k.jsonl
  python -m autellix_sgl.workloads generate mixed --rate 2 --scale 0.1 --out mixed.jsonl
  python -m autellix_sgl.workloads generate chat --arrivals closed --size 16 --out chat.jsonl
"""
OURS = "ours"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: bad input)."""
    options = _parser().parse_args(arguments)
    try:
        programs = _programs(options)
        if options.command == "describe":
            sys.stdout.write(json.dumps(_described(options, programs), indent=1) + "\n")
        else:
            _write(options, programs)
    except AutellixError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m autellix_sgl.workloads",
        description="Agent programs with published statistics, made up or imported.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    describe_command = commands.add_parser("describe", help="print sample statistics as JSON")
    _add_source(describe_command)
    generate_command = commands.add_parser("generate", help="write programs as JSON lines")
    _add_source(generate_command)
    add = generate_command.add_argument
    add("--out", type=Path, help="File to write; standard output without it.")
    add(
        "--arrivals",
        choices=("poisson", "burst", "closed", "offline"),
        default="poisson",
        help="poisson: independent; burst: --size at once; closed: --size at any time; "
        "offline: all at the start. [%(default)s]",
    )
    add("--rate", type=float, default=1.0, help="Programs a second. [%(default)s]")
    add("--size", type=int, default=16, help="For burst and closed. [%(default)s]")
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", nargs="+", metavar="WORKLOAD|FILE", help=", ".join(WORKLOADS))
    add("--format", choices=(*IMPORTERS, OURS), help="The sources are files of this format.")
    add("--programs", type=int, default=300, help="How many to generate. [%(default)s]")
    add("--seed", type=int, default=1, help="[%(default)s]")
    add("--scale", type=float, default=1.0, help="Multiply every length by this. [%(default)s]")
    add("--interrupts", type=float, default=1.0, help="Multiply every pause. [%(default)s]")


def _programs(options: argparse.Namespace) -> list[ProgramTrace]:
    if options.format is None:
        return generate(
            options.source[0],
            options.programs,
            Random(options.seed),
            scale=options.scale,
            interrupts=options.interrupts,
        )
    paths = [Path(source) for source in options.source]
    if options.format == OURS:
        programs = [program for path in paths for program in load(path).programs]
    else:
        programs = import_programs(options.format, paths)
    return [with_interrupts(scaled(p, options.scale), options.interrupts) for p in programs]


def _described(options: argparse.Namespace, programs: list[ProgramTrace]) -> dict[str, object]:
    found = describe(programs)
    published = PUBLISHED_MEANS.get(options.source[0]) if options.format is None else None
    return {**found, "published_means": published} if published else found


def _write(options: argparse.Namespace, programs: list[ProgramTrace]) -> None:
    workload = replace(_workload(options, programs), source=_source(options))
    lines = "".join(line + "\n" for line in to_lines(workload))
    if options.out is None:
        sys.stdout.write(lines)
    else:
        options.out.write_text(lines, encoding="utf-8")


def _workload(options: argparse.Namespace, programs: list[ProgramTrace]) -> Workload:
    name, rng = options.format or options.source[0], Random(options.seed + 1)
    if options.arrivals == "offline":
        return all_at_once(name, programs)
    if options.arrivals == "closed":
        return closed_loop(name, programs, options.size)
    if options.arrivals == "burst":
        times = burst_times(rng, len(programs), options.rate, options.size)
    else:
        times = poisson_times(rng, len(programs), options.rate)
    return at_times(name, programs, times)


def _source(options: argparse.Namespace) -> dict[str, object]:
    """How to make the workload again."""
    kept = (
        "source",
        "format",
        "programs",
        "seed",
        "scale",
        "interrupts",
        "arrivals",
        "rate",
        "size",
    )
    return {name: getattr(options, name) for name in kept}
