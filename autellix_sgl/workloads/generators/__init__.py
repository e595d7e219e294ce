"""Synthetic programs with published statistics; each module names its source and its liberties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from autellix_sgl.errors import ConfigError
from autellix_sgl.workloads.generators.chat import chat
from autellix_sgl.workloads.generators.coding import coding
from autellix_sgl.workloads.generators.mapreduce import mapreduce
from autellix_sgl.workloads.generators.mcts import mcts
from autellix_sgl.workloads.generators.react import react
from autellix_sgl.workloads.model import ProgramTrace
from autellix_sgl.workloads.transforms import scaled, with_interrupts

Generator = Callable[[Random, str], ProgramTrace]

GENERATORS: Mapping[str, Generator] = {
    "chat": chat,
    "react": react,
    "mcts": mcts,
    "coding": coding,
    "mapreduce": mapreduce,
}
MIXED = "mixed"
MIXED_PARTS: tuple[Generator, ...] = (chat, react, mcts)
WORKLOADS = (*GENERATORS, MIXED)


def generate(
    name: str, count: int, rng: Random, *, scale: float = 1.0, interrupts: float = 1.0
) -> list[ProgramTrace]:
    """*count* programs of the named workload.

    *scale* multiplies every length, *interrupts* every duration. ``mixed`` is the paper's: chat,
    react and mcts in equal parts, in random order. Raises ConfigError for an unknown name.
    """
    if count < 1:
        raise ConfigError(f"workload: need at least 1 program, got {count}")
    programs = []
    for number, generator in enumerate(_draw(name, count, rng)):
        program = generator(rng, f"{name}-{number}")
        programs.append(with_interrupts(scaled(program, scale), interrupts))
    return programs


def _draw(name: str, count: int, rng: Random) -> list[Generator]:
    if name in GENERATORS:
        return [GENERATORS[name]] * count
    if name != MIXED:
        raise ConfigError(f"unknown workload {name!r} (known: {', '.join(WORKLOADS)})")
    drawn: list[Generator] = []
    while len(drawn) < count:
        # Equal parts even in a short trace: every three programs are one of each.
        drawn.extend(rng.sample(MIXED_PARTS, len(MIXED_PARTS)))
    return drawn[:count]
