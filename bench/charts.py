"""The paper's figures from finished runs, as SVG and PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autellix_sgl.errors import ConfigError
from bench.results_folder import Comparison, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
PANEL_INCHES = (4.2, 3.2)
LATENCIES = (("mean", "mean"), ("p95", "P95"), ("p99", "P99"))


def draw(comparison: Comparison, stem: Path) -> list[Path]:
    """Every figure that the data allow, as ``STEM_<figure>.svg`` and ``.png``; the SVGs' paths.

    Raises ConfigError without matplotlib.
    """
    drawn = []
    for name, figure in _figures(comparison):
        for ending in FORMATS:
            path = stem.with_name(f"{stem.name}_{name}.{ending}")
            figure.savefig(path, dpi=150)
        drawn.append(stem.with_name(f"{stem.name}_{name}.svg"))
    return drawn


def _figures(comparison: Comparison) -> list[tuple[str, Figure]]:
    systems = comparison.systems
    colours = {name: f"C{number}" for number, name in enumerate(systems)}
    open_loop, at_once = comparison.open_loop, comparison.at_once
    busiest = open_loop[-1] if open_loop else comparison.points[-1]
    found = [
        ("response", _one(lambda axes: _response(axes, busiest, colours))),
        ("waiting", _one(lambda axes: _waiting(axes, busiest))),
    ]
    if len(open_loop) > 1:
        found.insert(0, ("latency", _latency(open_loop, colours)))
    if at_once is not None:
        found.append(("makespan", _one(lambda axes: _makespan(axes, at_once, colours))))
    return found


def _new_figure(panels: int) -> tuple[Figure, Sequence[Axes]]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "drawing needs matplotlib: pip install 'autellix-sgl[bench]', or pass --no-figures"
        ) from None
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * panels, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for panel in axes:
        panel.grid(visible=True, alpha=0.3)
        panel.set_axisbelow(True)
    return figure, axes


def _one(fill: Callable[[Axes], None]) -> Figure:
    figure, (axes,) = _new_figure(1)
    fill(axes)
    return figure


def _latency(points: Sequence[Point], colours: dict[str, str]) -> Figure:
    """Token latency over the rate: lines through the seeds' medians, a dot a seed."""
    figure, panels = _new_figure(len(LATENCIES))
    for axes, (key, label) in zip(panels, LATENCIES, strict=True):
        metric = f"token_latency_ms.{key}"
        for system, colour in colours.items():
            having = [point for point in points if point.of(system)]
            medians = [(point.rate, point.median(system, metric)) for point in having]
            axes.plot(*zip(*medians, strict=True), color=colour, label=system)
            dots = [
                (point.rate, run.value(metric))
                for point in having
                for run in point.of(system).values()
            ]
            axes.scatter(*zip(*dots, strict=True), color=colour, s=8, alpha=0.5)
        axes.set_xlabel("programs a second")
        axes.set_ylabel(f"{label} token latency, ms")
        axes.set_ylim(bottom=0)
    panels[0].legend(fontsize="small")
    return figure


def _response(axes: Axes, point: Point, colours: dict[str, str]) -> None:
    """How many programs had ended after so many seconds; all seeds together."""
    for system in point.systems:
        runs = point.of(system).values()
        responses = sorted(program.response_s for run in runs for program in run.programs)
        shares = [(number + 1) / len(responses) for number in range(len(responses))]
        axes.step(responses, shares, where="post", color=colours[system], label=system)
    axes.set_xscale("log")
    axes.set_xlabel("program response time, s")
    axes.set_ylabel("share of programs")
    axes.set_title(point.title, fontsize="medium")
    axes.legend(fontsize="small")


def _waiting(axes: Axes, point: Point) -> None:
    """The time a program's calls spent in the server, queued and not; medians of the seeds."""
    labels = {"wait": "queued", "run": "running", "both": "queued or running (not told apart)"}
    for row, system in enumerate(point.systems):
        wait_s = point.median(system, "wait_s")
        run_s = point.median(system, "run_s") or 0.0
        if wait_s is None:
            axes.barh(row, run_s, color="0.7", label=labels.pop("both", None))
            continue
        axes.barh(row, wait_s, color="C3", label=labels.pop("wait", None))
        axes.barh(row, run_s, left=wait_s, color="C2", label=labels.pop("run", None))
    axes.set_yticks(range(len(point.systems)), point.systems)
    axes.invert_yaxis()
    axes.set_xlabel("seconds a program, over all its calls")
    axes.set_title(point.title, fontsize="medium")
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)


def _makespan(axes: Axes, point: Point, colours: dict[str, str]) -> None:
    """How long all programs take that come at once; the median of the seeds, a dot each."""
    for row, system in enumerate(point.systems):
        axes.barh(row, point.median(system, "makespan_s") or 0.0, color=colours[system])
        dots = [run.value("makespan_s") for run in point.of(system).values()]
        axes.scatter(dots, [row] * len(dots), color="k", s=8, zorder=3)
    axes.set_yticks(range(len(point.systems)), point.systems)
    axes.invert_yaxis()
    axes.set_xlabel("makespan, s")
