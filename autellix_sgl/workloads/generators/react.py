"""ReAct tool agents in the lengths of BFCL v3, as used by Autellix (arXiv 2502.13965, section 6).

Published, means: 10.75 calls a program (at most 70), 735.06 prefill and 34.14 decode tokens a call.
A root carries the documentation of its tools, shared by all programs of that tool set; the rest of
the prefill is tool results. Eight tool sets, as BFCL has eight API classes; their sizes, the shapes
and the tool times (in-process functions, tens of milliseconds) are ours.
"""

from __future__ import annotations

from random import Random

from autellix_sgl.workloads.builder import ProgramBuilder
from autellix_sgl.workloads.distributions import ClippedLognormal
from autellix_sgl.workloads.model import TOOL, Interrupt, ProgramTrace

CALLS = 10.75
PREFILL_TOKENS = 735.06
OUTPUT_TOKENS = 34.14
TOOL_SETS = (1500, 2000, 2500, 3000, 3500, 4000, 4500, 5000)
QUESTION_TOKENS = 120.0

_root_tokens = sum(TOOL_SETS) / len(TOOL_SETS) + QUESTION_TOKENS
_calls = ClippedLognormal(CALLS, 0.8, 2, 70)
_question = ClippedLognormal(QUESTION_TOKENS, 0.6, 16, 1024)
_result = ClippedLognormal((PREFILL_TOKENS * CALLS - _root_tokens) / (CALLS - 1), 1.0, 8, 8192)
_action = ClippedLognormal(OUTPUT_TOKENS, 0.6, 4, 512)
_tool_ms = ClippedLognormal(50.0, 1.0, 1, 5000)


def react(rng: Random, program_id: str) -> ProgramTrace:
    """One run: think and act, read the result, again."""
    program = ProgramBuilder(program_id, "react")
    tool_set = rng.randrange(len(TOOL_SETS))
    last = program.fresh(
        _question.count(rng),
        _action.count(rng),
        system=f"react-{tool_set}",
        system_tokens=TOOL_SETS[tool_set],
    )
    for _ in range(_calls.count(rng) - 1):
        tool = Interrupt(TOOL, _tool_ms.sample(rng))
        last = program.extend(last, _result.count(rng), _action.count(rng), interrupt=tool)
    return program.build()
