"""Find the complete runs below some folders, and put those together that compare."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from autellix_sgl.errors import ConfigError
from bench.capacity import is_capacity_run
from bench.measure import COMPLETE, MANIFEST, SUMMARY
from bench.records import ProgramRecord, read_programs


@dataclass(frozen=True)
class FinishedRun:
    """One system on one trace, as its folder tells it."""

    folder: Path
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def system(self) -> str:
        return str(self.manifest["run"]["system"])

    @property
    def seed(self) -> int:
        return int(self.manifest["run"]["seed"])

    @property
    def rate(self) -> float | None:
        """Programs a second; None: all at once."""
        rate: float | None = self.manifest["run"]["rate"]
        return rate

    @cached_property
    def programs(self) -> list[ProgramRecord]:
        return read_programs(self.folder)

    def value(self, metric: str) -> float | None:
        """A number of the summary by its path, such as ``token_latency_ms.mean``."""
        found: Any = self.summary
        for part in metric.split("."):
            found = found[part]
        return None if found is None else float(found)


@dataclass(frozen=True)
class Point:
    """The runs at one rate: some systems, each with some seeds."""

    rate: float | None
    load: float | None
    runs: Sequence[FinishedRun]

    @property
    def title(self) -> str:
        if self.rate is None:
            return "all at once"
        rate = f"{self.rate:.3g} programs/s"
        return rate if self.load is None else f"load {self.load:g} ({rate})"

    @property
    def systems(self) -> list[str]:
        return list(dict.fromkeys(run.system for run in self.runs))

    def of(self, system: str) -> dict[int, FinishedRun]:
        """The system's runs by seed."""
        return {run.seed: run for run in self.runs if run.system == system}

    def median(self, system: str, metric: str) -> float | None:
        """The median over seeds; None if the system does not report it."""
        values = [run.value(metric) for run in self.of(system).values()]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known and len(known) == len(values) else None

    def ratios(self, system: str, baseline: str, metric: str) -> list[float]:
        """system / baseline of each seed that both have."""
        own, other = self.of(system), self.of(baseline)
        pairs = [(own[s].value(metric), other[s].value(metric)) for s in own if s in other]
        return [a / b for a, b in pairs if a is not None and b]


@dataclass(frozen=True)
class Comparison:
    """All that was measured under one setting, by rate."""

    setting: Mapping[str, Any]
    points: Sequence[Point]

    @property
    def open_loop(self) -> list[Point]:
        """The points that have a rate, in its order."""
        return [point for point in self.points if point.rate is not None]

    @property
    def at_once(self) -> Point | None:
        return next((point for point in self.points if point.rate is None), None)

    @property
    def systems(self) -> list[str]:
        return list(dict.fromkeys(name for point in self.points for name in point.systems))

    @property
    def manifest(self) -> Mapping[str, Any]:
        """That of the first run, for what all have in common."""
        return self.points[0].runs[0].manifest


def complete_runs(folders: Iterable[Path]) -> tuple[list[FinishedRun], list[Path]]:
    """The complete runs below *folders* in order of their start, and the folders of the others.

    The runs that only measured a capacity are left out. Raises ConfigError if there is nothing.
    """
    runs, others = [], []
    for path in sorted({path for folder in folders for path in folder.rglob(MANIFEST)}):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if is_capacity_run(path.parent):
            continue
        if manifest["status"] != COMPLETE:
            others.append(path.parent)
            continue
        summary = json.loads((path.parent / SUMMARY).read_text(encoding="utf-8"))
        runs.append(FinishedRun(path.parent, manifest, summary))
    if not runs:
        raise ConfigError("no complete run in the folders named; `python -m bench.run` makes them")
    return sorted(runs, key=lambda run: str(run.manifest["started_at"])), others


def comparisons(runs: Sequence[FinishedRun]) -> list[Comparison]:
    """The runs grouped by setting, then by rate, the lowest first and all-at-once last."""
    by_setting: dict[str, dict[float, list[FinishedRun]]] = {}
    for run in runs:
        setting = json.dumps(run.manifest["run"]["setting"], sort_keys=True)
        rate = float("inf") if run.rate is None else run.rate
        by_setting.setdefault(setting, {}).setdefault(rate, []).append(run)
    return [
        Comparison(
            by_rate[min(by_rate)][0].manifest["run"]["setting"],
            [_point(by_rate[rate]) for rate in sorted(by_rate)],
        )
        for by_rate in by_setting.values()
    ]


def _point(runs: Sequence[FinishedRun]) -> Point:
    """Raises ConfigError when a system was measured twice with one seed."""
    seen: dict[tuple[str, int], FinishedRun] = {}
    for run in runs:
        twin = seen.setdefault((run.system, run.seed), run)
        if twin is not run:
            raise ConfigError(
                f"{twin.folder} and {run.folder} are the same system, seed and rate; name one only"
            )
    first = runs[0]
    return Point(first.rate, first.manifest["run"]["load"], runs)
