"""What the ``--program-*`` flags should be: each one varied by itself, in the simulator.

The base is the server's own defaults (`autellix_sgl.config.ProgramArgs`); for every value of one
flag the same programs arrive at the same moments, and reported is the mean over all settings
(workload, load, hardware) of the program token latency relative to the base: below 1 is better.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from statistics import geometric_mean
from typing import Any

from tqdm import tqdm

from autellix_sgl.config import ProgramArgs
from autellix_sgl.sim import HARDWARE, Arrivals, Setting, Tuning, play
from bench.report_file import add_output_argument, write_result

# Flag (a field of ProgramArgs) -> the values to try, the default among them or not.
VALUES: Mapping[str, tuple[float, ...]] = {
    "levels": (2, 4, 6, 8, 12, 16),
    "first_quantum_ms": (12.5, 25, 50, 100, 200, 400, 800),
    "quantum_growth": (1.2, 1.5, 2, 3, 4),
    "starvation_ratio": (0, 1, 2, 4, 8, 16, 32, 128),
    "schedule_interval": (1, 2, 4, 8, 16, 32, 64),
}
# Workload -> programs in a simulation: a few seconds of work for each.
PROGRAMS = {"chat": 300, "react": 300, "mcts": 40, "mixed": 120}
# A CPU's lengths are those of the real runs in bench.run.
SCALES = {"a100-8b": 1.0, "cpu-135m": 0.05}


@dataclass(frozen=True, slots=True)
class Case:
    """One simulation. ``flag`` is "" for the base."""

    hardware: str
    workload: str
    load: float
    seed: int
    flag: str = ""
    value: float = 0

    @property
    def args(self) -> ProgramArgs:
        base = ProgramArgs()
        if not self.flag:
            return base
        kind = type(getattr(base, self.flag))
        return replace(base, **{self.flag: kind(self.value)})

    @property
    def base(self) -> Case:
        return replace(self, flag="", value=0)


def simulated(case: Case) -> dict[str, Any]:
    """The report of one case under the default policy."""
    args = case.args
    setting = Setting(
        workload=case.workload,
        programs=PROGRAMS[case.workload],
        seed=case.seed,
        scale=SCALES[case.hardware],
        server=HARDWARE[case.hardware],
        tuning=Tuning(
            levels=args.core_levels(),
            starvation_ratio=args.starvation_ratio,
            interval=args.schedule_interval,
        ),
    )
    workload = Arrivals("poisson", case.load).apply(setting, setting.draw())
    return play(setting, workload, args.policy)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    for hardware in options.hardware:
        for workload in options.workloads:
            for load in options.loads:
                for seed in options.seeds:
                    case = Case(hardware, workload, load, seed)
                    yield case
                    for flag, values in VALUES.items():
                        for value in values:
                            yield replace(case, flag=flag, value=value)


def rows(found: Mapping[Case, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each value of each flag: latencies and response relative to the base."""
    lines = []
    for flag, values in VALUES.items():
        for value in values:
            here = [case for case in found if (case.flag, case.value) == (flag, value)]
            lines.append(
                {
                    "flag": flag,
                    "value": value,
                    "default": "*" if getattr(ProgramArgs(), flag) == value else "",
                    **{
                        name: geometric_mean(
                            found[case][metric][key] / found[case.base][metric][key]
                            for case in here
                        )
                        for name, metric, key in (
                            ("mean ms/token", "token_latency_ms", "mean"),
                            ("p95", "token_latency_ms", "p95"),
                            ("p99", "token_latency_ms", "p99"),
                            ("response", "response_ms", "mean"),
                        )
                    },
                    "worst mean": max(
                        found[case]["token_latency_ms"]["mean"]
                        / found[case.base]["token_latency_ms"]["mean"]
                        for case in here
                    ),
                    "max call wait": geometric_mean(
                        (1 + found[case]["max_call_wait_ms"])
                        / (1 + found[case.base]["max_call_wait_ms"])
                        for case in here
                    ),
                }
            )
    return lines


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.defaults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hardware", type=_list_of(str), default=list(HARDWARE))
    parser.add_argument("--workloads", type=_list_of(str), default=list(PROGRAMS))
    parser.add_argument("--loads", type=_list_of(float), default=[1.3])
    parser.add_argument("--seeds", type=_list_of(int), default=[1])
    parser.add_argument("--jobs", type=int, default=1, help="Processes. [%(default)s]")
    add_output_argument(parser)
    return parser


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(part) for part in text.split(",")]


def main() -> int:
    options = build_parser().parse_args()
    todo = list(cases(options))
    with ProcessPoolExecutor(options.jobs) as pool:
        reports = tqdm(
            pool.map(simulated, todo), total=len(todo), desc="simulations", file=sys.stderr
        )
        found = dict(zip(todo, reports, strict=True))
    table = rows(found)
    write_result(options.out, {"base": asdict(ProgramArgs()), "rows": table}, table=table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
