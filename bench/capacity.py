"""How many programs a second the stock server can take: the unit of ``--load``.

Measured as a closed burst: all programs at time zero on SGLang's own scheduler in arrival order;
capacity is their number over the time until the last one ends.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.load import Setting
from bench.measure import Run, measured
from bench.systems import STOCK, system_named

FILE = "capacity.json"
FOLDER = "capacity"


def capacity_per_s(setting: Setting, seed: int, out: Path) -> float:
    """Programs a second, kept in ``out/capacity.json`` for all seeds and loads of *setting*."""
    path = out / FILE
    kept: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else []
    for record in kept:
        if record["setting"] == setting.as_dict():
            return float(record["programs_per_s"])
    run = Run(system=system_named(STOCK), setting=setting, seed=seed, rate=None)
    summary = measured(run, out / FOLDER / str(len(kept)))
    found = float(summary["programs_per_s"])
    kept.append({"setting": setting.as_dict(), "seed": seed, "programs_per_s": found})
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return found


def is_capacity_run(folder: Path) -> bool:
    """Whether a run's folder is one that :func:`capacity_per_s` made."""
    return folder.parent.parent.name == FOLDER
