"""Find the highest rate that each system serves within a token-latency objective (SLO)."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bench.capacity import capacity_per_s
from bench.command import (
    add_systems_arguments,
    exit_status,
    in_turn,
    positive,
    positives,
    split_server_flags,
)
from bench.load import Setting, add_setting_arguments, setting_of
from bench.measure import Run, measured, require_startable
from bench.report_file import command_line, machine, table_text
from bench.systems import chosen, table

FILE = "sweep.json"

EPILOG = f"""\
The objective is on a program's mean token latency: its response time over the tokens of all its
threads, averaged over programs; of several seeds, the median counts. Between the last rate that
meets it and the first that does not, latency is taken to be linear in the rate. A system that
meets it at every rate, or at none, has no such pair: its limit is then a bound, and said to be one.

All runs are kept: the same command with another --slo-ms measures nothing anew.

systems:
{table()}

examples:
  python -m bench.sweep --systems sglang-fcfs,autellix-atlas --loads 0.6,1,1.4 --slo-ms 60 \\
      --seed 1,2,3 --out runs/sweep
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sweep",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --systems NAME[,NAME...] (--rates R,... | --loads L,...) --slo-ms MS "
        "--out DIR [options] [-- server flags]",
    )
    add_systems_arguments(parser)
    rates = parser.add_mutually_exclusive_group(required=True)
    rates.add_argument("--rates", type=positives, help="Programs a second.")
    rates.add_argument("--loads", type=positives, help="The same in capacities of sglang-fcfs.")
    parser.add_argument(
        "--slo-ms", type=positive, required=True, help="Mean token latency to stay within."
    )
    add_setting_arguments(parser)
    return parser


def highest_rate(points: Sequence[tuple[float, float]], slo_ms: float) -> dict[str, Any]:
    """The rate at which latency reaches *slo_ms*, from (rate, latency in ms) pairs, and how.

    ``bound``: "exact" between two measured rates; "at least" when every rate meets the objective;
    "below" when the lowest does not.
    """
    ordered = sorted(points)
    before: tuple[float, float] | None = None
    for rate, latency in ordered:
        if latency > slo_ms:
            if before is None:
                return {"rate": rate, "bound": "below"}
            share = (slo_ms - before[1]) / (latency - before[1])
            return {"rate": before[0] + share * (rate - before[0]), "bound": "exact"}
        before = (rate, latency)
    return {"rate": ordered[-1][0], "bound": "at least"}


def limits(rows: Sequence[Mapping[str, Any]], slo_ms: float) -> dict[str, dict[str, Any]]:
    """Each system's :func:`highest_rate`, over the median of the seeds at each rate."""
    found = {}
    for system in dict.fromkeys(row["system"] for row in rows):
        by_rate: dict[float, list[float]] = {}
        for row in rows:
            if row["system"] == system:
                by_rate.setdefault(row["rate"], []).append(row["token_latency_ms"])
        points = [(rate, statistics.median(values)) for rate, values in by_rate.items()]
        found[system] = highest_rate(points, slo_ms)
    return found


def measure(args: argparse.Namespace, setting: Setting) -> list[dict[str, Any]]:
    """A row a run, in the order they are made: the systems of one rate and seed are neighbours."""
    systems = chosen(args.systems, args.variant)
    require_startable(systems, setting)
    unit = 1.0 if args.rates else capacity_per_s(setting, args.seed[0], args.out)
    rows = []
    for point in args.rates or args.loads:
        folder = args.out / f"{'rate' if args.rates else 'load'}-{point:g}"
        for seed, system in in_turn(systems, args.seed):
            run = Run(
                system=system,
                setting=setting,
                seed=seed,
                rate=point * unit,
                load=None if args.rates else point,
            )
            rows.append(_row(run, measured(run, folder)))
    return rows


def _row(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    latency = summary["token_latency_ms"]
    return {
        "system": run.system.name,
        "seed": run.seed,
        "load": run.load,
        "rate": run.rate,
        "token_latency_ms": latency["mean"],
        "p95_ms": latency["p95"],
        "p99_ms": latency["p99"],
        "programs_per_s": summary["programs_per_s"],
    }


def sweep(args: argparse.Namespace, setting: Setting) -> None:
    """Measure, then write what was found to ``OUT/sweep.json`` and print it."""
    rows = measure(args, setting)
    found = limits(rows, args.slo_ms)
    result = {
        "command": command_line(),
        "machine": machine(),
        "setting": setting.as_dict(),
        "slo_ms": args.slo_ms,
        "highest_rate": found,
        "rows": rows,
    }
    (args.out / FILE).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table_text(rows))
    print(f"\nhighest rate within {args.slo_ms:g} ms a token, programs a second:")
    print(table_text([{"system": name, **limit} for name, limit in found.items()]))


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status, see :func:`bench.command.exit_status`."""
    words, server_flags = split_server_flags(argv)
    args = build_parser().parse_args(words)
    return exit_status(lambda: sweep(args, setting_of(args, server_flags)), args.out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
