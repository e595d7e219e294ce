"""Which running calls make room for better waiting ones (paper Algorithm 1, the batch walk)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autellix_sgl.core.calls.queue import Key


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting call at the head of the queue, and the KV tokens its admission asks for."""

    key: Key
    tokens: int


@dataclass(frozen=True, slots=True)
class Running:
    """A call in the batch. ``tokens``: KV that leaving would free, now or by eviction.

    ``preemptible`` is False for a call that must not or need not be taken: it has finished, its KV
    cannot stay in the tree, or it ends before a preemption would pay (``steps_left`` is the most
    steps it can still take).
    """

    id: str
    key: Key
    tokens: int
    steps_left: int
    preemptible: bool = True


def choose_victims(
    candidates: Iterable[Candidate],
    running: Sequence[Running],
    *,
    free_slots: int,
    free_tokens: int,
    min_steps_left: int,
) -> list[str]:
    """Ids of the running calls to preempt, worst first.

    *free_tokens* can be negative: what is set aside for the running calls' next tokens may be more
    than there is. Where memory is not short it is 0 and so are the candidates' tokens.

    Walks the candidates best first. One that fits is taken; for one that does not, the worst
    running calls with a worse key make room, and the walk stops at the first candidate for which
    they cannot. No candidate costs more than it brings: once it has been given as many tokens as it
    asks for and still does not fit, others have run up the debt, and the walk stops without it. A
    call with fewer than *min_steps_left* steps to go is left alone: it frees its
    slot sooner than the preemption would repay the step it costs.
    """
    pool = sorted(
        (r for r in running if r.preemptible and r.steps_left >= min_steps_left),
        key=lambda r: r.key,
    )
    victims: list[str] = []
    for candidate in candidates:
        taken = given = 0
        slots, tokens = free_slots, free_tokens
        while slots < 1 or tokens < candidate.tokens:
            if taken == len(pool) or pool[-1 - taken].key < candidate.key:
                return victims
            if taken and given >= candidate.tokens:
                return victims
            slots += 1
            given += pool[-1 - taken].tokens
            tokens = free_tokens + given
            taken += 1
        victims.extend(r.id for r in reversed(pool[len(pool) - taken :]))
        del pool[len(pool) - taken :]
        free_slots, free_tokens = slots - 1, tokens - candidate.tokens
    return victims
