"""Tree search in the lengths of LATS on HotpotQA, as in Autellix (arXiv 2502.13965, section 6).

Published, means: 159.7 calls a program, 467.2 prefill and 72.6 decode tokens a call, parallel. The
shape is LATS's (arXiv 2310.04406): a round picks a node, samples five children at once, runs their
actions, scores the children at once, and only then can the next round pick. How many rounds vary
(sigma), the prompt and the search time are ours.
"""

from __future__ import annotations

from random import Random

from autellix_sgl.workloads.builder import ProgramBuilder
from autellix_sgl.workloads.distributions import ClippedLognormal
from autellix_sgl.workloads.model import TOOL, Interrupt, ProgramTrace

CALLS = 159.7
PREFILL_TOKENS = 467.2
OUTPUT_TOKENS = 72.6
WIDTH = 5
SYSTEM_TOKENS = 1500
QUESTION_TOKENS = 100
MAX_DEPTH = 7

_roots_tokens = WIDTH * (SYSTEM_TOKENS + QUESTION_TOKENS)
_rounds = ClippedLognormal(CALLS / (2 * WIDTH), 0.6, 2, 60)
_new = ClippedLognormal((PREFILL_TOKENS * CALLS - _roots_tokens) / (CALLS - WIDTH), 0.8, 16, 4096)
_output = ClippedLognormal(OUTPUT_TOKENS, 0.6, 4, 512)
_search_ms = ClippedLognormal(300.0, 1.0, 20, 20_000)


def mcts(rng: Random, program_id: str) -> ProgramTrace:
    """One search: rounds of parallel expansion, then parallel scoring, joined."""
    program = ProgramBuilder(program_id, "mcts")
    nodes: list[tuple[int, int]] = []  # (the call that made the node, its depth)
    scores: tuple[int, ...] = ()
    for _ in range(_rounds.count(rng)):
        children = _expand(program, rng, nodes, scores)
        scores = tuple(_score(program, rng, child, branch) for branch, (child, _) in children)
        nodes.extend(node for _, node in children if node[1] < MAX_DEPTH)
    return program.build()


def _expand(
    program: ProgramBuilder, rng: Random, nodes: list[tuple[int, int]], scores: tuple[int, ...]
) -> list[tuple[int, tuple[int, int]]]:
    """The children of one node: (branch number, (call, depth)) each."""
    chosen = rng.choice(nodes) if nodes else None
    children = []
    for branch in range(WIDTH):
        thread, new, output = f"branch-{branch}", _new.count(rng), _output.count(rng)
        if chosen is None:
            call = program.fresh(
                QUESTION_TOKENS, output, system="mcts", system_tokens=SYSTEM_TOKENS, thread=thread
            )
            children.append((branch, (call, 1)))
        else:
            call = program.extend(chosen[0], new, output, parents=scores, thread=thread)
            children.append((branch, (call, chosen[1] + 1)))
    return children


def _score(program: ProgramBuilder, rng: Random, child: int, branch: int) -> int:
    """The value of a child, once its action has been run."""
    search = Interrupt(TOOL, _search_ms.sample(rng))
    return program.extend(
        child, _new.count(rng), _output.count(rng), thread=f"branch-{branch}", interrupt=search
    )
