"""What every measurement writes: its numbers, its command line, and the machine it ran on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="STEM",
        help="Write STEM.json and STEM.txt (for example bench/results/scheduling_pass).",
    )


def command_line() -> str:
    """This command as a reader would type it; of a path of this machine, only the last part."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name}" if spec else f"python {Path(sys.argv[0]).name}"
    return f"{program} {shlex.join(map(without_place, sys.argv[1:]))}".strip()


def without_place(word: str) -> str:
    """*word*, or the last part of an absolute path."""
    return Path(word).name if Path(word).is_absolute() else word


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions; no names and no paths."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("sglang", "torch", "autellix-sgl")},
        "commit": _commit(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as an aligned text table; numbers with four significant digits."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns] + [[_cell(row.get(name, "")) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_result(
    stem: Path | None, result: Mapping[str, Any], *, table: Sequence[Mapping[str, Any]]
) -> None:
    """Print the table; with *stem*, keep it and the whole result with command and machine."""
    text = table_text(table)
    print(text)
    if stem is None:
        return
    stem.parent.mkdir(parents=True, exist_ok=True)
    record = {"command": command_line(), "machine": machine(), **result}
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    info = machine()
    stem.with_suffix(".txt").write_text(
        f"$ {command_line()}\n{info['processor']}, {info['cores']} cores, "
        f"{info['memory_gib']} GiB; {info['versions']}; commit {info['commit']}\n\n{text}\n",
        encoding="utf-8",
    )
