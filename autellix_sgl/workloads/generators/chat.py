"""Chatbot sessions in the lengths of ShareGPT, as used by Autellix (arXiv 2502.13965, section 6).

Published, means: 6.66 calls a program (at most 80), 256 prefill and 277 decode tokens a call. A
prefill of 256 tokens cannot hold the history of several 277-token answers, so it is read as what a
call *adds* to its context; all our generators read the paper's prefill that way. The shapes (the
sigmas and the ranges) are ours. Between turns a human thinks: median 84 s (TraceLab, arXiv
2606.30560), cut at an hour. The paper's own replay seems to have no pauses; runs that compare with
it remove them.
"""

from __future__ import annotations

import math
from random import Random

from autellix_sgl.workloads.builder import ProgramBuilder
from autellix_sgl.workloads.distributions import ClippedLognormal
from autellix_sgl.workloads.model import HUMAN, Interrupt, ProgramTrace

CALLS = 6.66
PREFILL_TOKENS = 256.0
OUTPUT_TOKENS = 277.0
SYSTEM_TOKENS = 64

_calls = ClippedLognormal(CALLS, 1.0, 1, 80)
_turn = ClippedLognormal((PREFILL_TOKENS * CALLS - SYSTEM_TOKENS) / CALLS, 1.2, 4, 4096)
_answer = ClippedLognormal(OUTPUT_TOKENS, 0.9, 4, 2048)
_MEDIAN_WAIT_MS, _WAIT_SIGMA, _LONGEST_WAIT_MS = 84e3, 2.1, 3600e3


def human_wait(rng: Random) -> Interrupt:
    """The time until a person answers."""
    drawn = rng.lognormvariate(math.log(_MEDIAN_WAIT_MS), _WAIT_SIGMA)
    return Interrupt(HUMAN, min(drawn, _LONGEST_WAIT_MS))


def chat(rng: Random, program_id: str) -> ProgramTrace:
    """One session: turns one after another, each with all that was said before."""
    program = ProgramBuilder(program_id, "chat")
    last = program.fresh(
        _turn.count(rng), _answer.count(rng), system="chat", system_tokens=SYSTEM_TOKENS
    )
    for _ in range(_calls.count(rng) - 1):
        last = program.extend(last, _turn.count(rng), _answer.count(rng), interrupt=human_wait(rng))
    return program.build()
