"""Compare finished runs: the paper's figures, and a table of ratios paired by seed."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from autellix_sgl.errors import ConfigError
from bench.charts import draw
from bench.command import exit_status
from bench.results_folder import Comparison, Point, comparisons, complete_runs
from bench.systems import STOCK

FILE = "report.md"

EPILOG = """\
Runs are grouped by setting, then by rate. A ratio is a system's number over the baseline's on the
same trace (same seed, same rate); the table has the median over the seeds and, with several, their
range. Runs that did not end are listed and left out.

examples:
  python -m bench.report runs/sweep
  python -m bench.report runs/sweep runs/makespan --baseline sglang-lpm --out runs/report
"""

# A column of ratios: heading, metric of the summary. Smaller is better in all.
RATIOS = (
    ("ms/token", "token_latency_ms.mean"),
    ("P95", "token_latency_ms.p95"),
    ("P99", "token_latency_ms.p99"),
    ("response", "response_ms.mean"),
    ("makespan", "makespan_s"),
)
# A column of the system's own numbers: heading, metric, format.
NUMBERS = (
    ("ms/token", "token_latency_ms.mean", ".1f"),
    ("programs/s", "programs_per_s", ".3f"),
    ("tokens/s", "tokens_per_s", ".1f"),
    ("cache hits", "cache_hit_rate", ".0%"),
    ("wait s", "wait_s", ".2f"),
    ("preemptions", "preemptions", ".0f"),
    ("recomputed", "recomputed_tokens", ".0f"),
    ("Jain", "jain_index", ".2f"),
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.report",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="Results of bench.run")
    parser.add_argument("--baseline", default=STOCK, help="What ratios are over. [%(default)s]")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="For the report. [the first DIR]/report"
    )
    parser.add_argument(
        "--no-figures", action="store_true", help="The table only; needs no matplotlib."
    )
    return parser


def markdown(comparison: Comparison, baseline: str, figures: Sequence[Path]) -> str:
    """One setting's section: what it is, its figures, and a table for each rate."""
    setting, machine = comparison.setting, comparison.manifest["machine"]
    shared = {**setting, "flags": " ".join(setting["flags"]) or "none"}
    described = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shared.items())
    ran_on = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    versions = f"sglang {machine['versions']['sglang']}, commit {machine['commit']}"
    images = [f"![{path.stem}]({path.name})" for path in figures]
    lines = [f"## {setting['workload']}", "", f"{described}. {ran_on}; {versions}.", "", *images]
    for point in comparison.points:
        lines += ["", f"### {point.title}", "", *table(point, baseline)]
    return "\n".join(lines) + "\n"


def table(point: Point, baseline: str) -> Iterator[str]:
    """A Markdown table, one row a system; raises ConfigError without the baseline."""
    if not point.of(baseline):
        raise ConfigError(f"--baseline: there is no run of {baseline!r} at {point.title}")
    numbers = [heading for heading, _, _ in NUMBERS]
    ratios = [f"{heading} ratio" for heading, _ in RATIOS]
    yield _line(["system", "seeds", *numbers, *ratios])
    yield _line(["---"] + ["---:"] * (1 + len(numbers) + len(ratios)))
    for system in point.systems:
        own = [_number(point.median(system, metric), form) for _, metric, form in NUMBERS]
        paired = [_ratio(point.ratios(system, baseline, metric)) for _, metric in RATIOS]
        yield _line([system, str(len(point.of(system))), *own, *paired])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _ratio(ratios: Sequence[float]) -> str:
    if not ratios:
        return "-"
    middle = f"{statistics.median(ratios):.2f}"
    return middle if len(ratios) == 1 else f"{middle} ({min(ratios):.2f} to {max(ratios):.2f})"


def report(args: argparse.Namespace) -> None:
    """Write ``OUT/report.md`` and its figures; print the report."""
    runs, others = complete_runs(args.folders)
    for folder in others:
        sys.stderr.write(f"left out, not complete: {folder}\n")
    out: Path = args.out or args.folders[0] / "report"
    out.mkdir(parents=True, exist_ok=True)
    sections = []
    for number, comparison in enumerate(comparisons(runs)):
        stem = out / f"{comparison.setting['workload']}{number or ''}"
        figures = [] if args.no_figures else draw(comparison, stem)
        sections.append(markdown(comparison, args.baseline, figures))
    text = "\n".join(sections)
    (out / FILE).write_text(text, encoding="utf-8")
    print(text)


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status, see :func:`bench.command.exit_status`."""
    args = build_parser().parse_args(argv)
    return exit_status(lambda: report(args), args.out or args.folders[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
