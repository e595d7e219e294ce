"""Which replica a call goes to (paper section 4.3, Algorithm 2, and its two baselines)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count

from autellix_sgl.errors import ConfigError

# (program id, the call's prompt tokens, calls in the system per replica) -> replica number
Placement = Callable[[str, int, Sequence[int]], int]

# Calls up to this long share little beyond the system prompt, which every replica has.
LONG_CALL_TOKENS = 2048


def least_used(program: str, prompt_tokens: int, loads: Sequence[int]) -> int:
    """The replica with the fewest calls; the lowest number among equals."""
    return min(range(len(loads)), key=loads.__getitem__)


def round_robin() -> Placement:
    """Call by call in turn."""
    turn = count()
    return lambda program, prompt_tokens, loads: next(turn) % len(loads)


def by_program() -> Placement:
    """Algorithm 2: short calls to the least used, long ones where their program's KV is."""
    home: dict[str, int] = {}

    def place(program: str, prompt_tokens: int, loads: Sequence[int]) -> int:
        if prompt_tokens <= LONG_CALL_TOKENS:
            return least_used(program, prompt_tokens, loads)
        if program not in home:
            home[program] = least_used(program, prompt_tokens, loads)
        return home[program]

    return place


PLACEMENTS: Mapping[str, Callable[[], Placement]] = {
    "program": by_program,
    "least-used": lambda: least_used,
    "round-robin": round_robin,
}


def placement_named(name: str) -> Placement:
    """A fresh placement of that name; raises ConfigError that lists the known ones."""
    try:
        return PLACEMENTS[name]()
    except KeyError:
        raise ConfigError(f"unknown placement {name!r} (known: {', '.join(PLACEMENTS)})") from None
