"""Map-reduce over a document: one plan, parallel maps, one reduce.

No trace of this pattern is published; it is the textbook fan-out program and the extreme case for
stragglers. All numbers are ours: 4 to 32 maps (mean 12) of 1,200 document tokens and 120 tokens of
answer, one of them, on average, several times longer; the reduce reads all answers.
"""

from __future__ import annotations

from random import Random

from autellix_sgl.workloads.builder import ProgramBuilder
from autellix_sgl.workloads.distributions import ClippedLognormal
from autellix_sgl.workloads.model import ProgramTrace

MAPS = 12.0
CHUNK_TOKENS = 1200.0
ANSWER_TOKENS = 120.0
REPORT_TOKENS = 400.0
SYSTEM_TOKENS = 300

_maps = ClippedLognormal(MAPS, 0.5, 4, 32)
_chunk = ClippedLognormal(CHUNK_TOKENS, 0.3, 64, 4096)
_answer = ClippedLognormal(ANSWER_TOKENS, 0.9, 8, 1024)
_report = ClippedLognormal(REPORT_TOKENS, 0.5, 32, 2048)
_PLAN_TOKENS = (200, 80)


def mapreduce(rng: Random, program_id: str) -> ProgramTrace:
    """One run over one document."""
    program = ProgramBuilder(program_id, "mapreduce")
    asked, planned = _PLAN_TOKENS
    plan = program.fresh(asked, planned, system="mapreduce", system_tokens=SYSTEM_TOKENS)
    answers = [_answer.count(rng) for _ in range(_maps.count(rng))]
    maps = tuple(
        program.fresh(
            _chunk.count(rng),
            answer,
            system="mapreduce",
            system_tokens=SYSTEM_TOKENS,
            parents=(plan,),
            thread=f"map-{number}",
        )
        for number, answer in enumerate(answers)
    )
    program.extend(plan, sum(answers), _report.count(rng), parents=maps)
    return program.build()
