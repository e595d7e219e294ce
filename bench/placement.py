"""How long one placement decision takes: 64 replicas, 100,000 programs that have run on several.

Every replica has a batch and a queue of calls outstanding. A decision is a call placed and another
one finished, so the loads stay as they are; programs come in an order without pattern. Reported is
the mean over many, of the best of some repeats, since the machine is shared.
"""

from __future__ import annotations

import argparse
import sys
import time
from random import Random

from autellix_sgl.core import PLACEMENTS, CostModel, ProcessTable, Program, policy_named
from autellix_sgl.core.placement.placement import Placer
from bench.report_file import add_output_argument, write_result

COST = CostModel(8.0, 0.08, 0.03, 0.00008)
BATCH = 64
LIMIT_US = 50.0


def table_of(programs: int, replicas: int, rng: Random) -> ProcessTable:
    """A full table whose programs have left KV on one to eight replicas each."""
    table = ProcessTable(policy_named("atlas"), lease_s=1e9, max_programs=programs)
    for number in range(programs):
        table.arrive("call", f"program-{number}", now=0.0)
        table.abort("call", now=0.0)
        footprint = table.program(f"program-{number}").footprint
        for replica in rng.sample(range(replicas), min(rng.randint(1, 8), replicas)):
            footprint.tokens[replica] = rng.randint(100, 30_000)
        footprint.home = next(iter(footprint.tokens))
    return table


class Measurement:
    """A placer with *calls* outstanding, and programs to place more calls of."""

    def __init__(self, policy: str, replicas: int, programs: list[Program], calls: int) -> None:
        self._rng = Random(1)
        self._programs = programs
        self._placer = Placer(policy, replicas, COST, batch=BATCH)
        self._number = 0
        self._oldest = 0
        for program, prompt_tokens in self._draw(calls):
            self._place(program, prompt_tokens)

    def decision_us(self, count: int) -> float:
        """Mean time of *count* decisions, drawing what is decided not counted."""
        drawn = self._draw(count)
        started = time.perf_counter()
        for program, prompt_tokens in drawn:
            self._place(program, prompt_tokens)
            self._placer.finish(f"c{self._oldest}", cached_tokens=100, output_tokens=200)
            self._oldest += 1
        return (time.perf_counter() - started) / count * 1e6

    def _draw(self, count: int) -> list[tuple[Program, int]]:
        rng = self._rng
        return [(rng.choice(self._programs), rng.randint(100, 8000)) for _ in range(count)]

    def _place(self, program: Program, prompt_tokens: int) -> None:
        self._placer.place(f"c{self._number}", program.footprint, prompt_tokens=prompt_tokens)
        self._number += 1


def main() -> int:
    """The command; exit status 1 if a decision takes longer than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--programs", type=int, default=100_000)
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    add_output_argument(parser)
    args = parser.parse_args()
    rows = []
    for policy in PLACEMENTS:
        table = table_of(args.programs, args.replicas, Random(0))
        measured = Measurement(policy, args.replicas, list(table), args.replicas * BATCH * 2)
        best = min(measured.decision_us(args.decisions) for _ in range(args.repeats))
        rows.append({"policy": policy, "decision_us": best})
    result = {"replicas": args.replicas, "programs": args.programs, "rows": rows}
    write_result(args.out, result, table=rows)
    worst = max(row["decision_us"] for row in rows)
    print(f"the slowest takes {worst:.1f} us, the limit is {LIMIT_US:g} us")
    return 0 if worst < LIMIT_US else 1


if __name__ == "__main__":
    sys.exit(main())
