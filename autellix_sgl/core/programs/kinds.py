"""Kinds of programs, learned: programs whose first prompts begin with the same tokens are of one.

System prompt and tool definitions stand at the head of a prompt, where the radix cache keeps them
once for all who send them. So a program's kind is the longest head of its first prompt that enough
other programs have begun with, too. Heads are compared at a few lengths, each half as long again as
the one before, by a hash of all tokens up to there.

    prompt   [ system prompt and tools        | question ....... ]
    heads     16 24 36 54 81 121 ... 4670   7005 10508
                                     kind   only this program's

Kinds belong to a tenant: what one tenant's programs send says nothing of another's, and no tenant
can crowd out what is known of the others. Hashes of whole numbers are the same in every run.
"""

from __future__ import annotations

from collections.abc import Sequence

from autellix_sgl.core.programs.tenant_cache import TenantCache
from autellix_sgl.errors import ConfigError

# Lengths at which heads are compared, in tokens: to the longest system prompts of coding agents.
SHORTEST_HEAD, HEAD_GROWTH, LONGEST_HEAD = 16, 1.5, 65_536
# Programs that must share a head before it makes a kind: a question asked twice is none.
ENOUGH_PROGRAMS = 5
# Heads remembered, over all tenants; a program has at most 21.
MAX_HEADS = 65_536

Heads = tuple[int, ...]
"""Hashes of a prompt's leading tokens at the lengths of :data:`HEAD_LENGTHS`, shortest first."""


def _lengths() -> tuple[int, ...]:
    lengths, length = [], float(SHORTEST_HEAD)
    while length <= LONGEST_HEAD:
        lengths.append(int(length))
        length *= HEAD_GROWTH
    return tuple(lengths)


HEAD_LENGTHS = _lengths()


def heads_of(tokens: Sequence[int]) -> Heads:
    """The hashes of a prompt's heads; costs the tokens that are hashed, once each."""
    heads, before, start = [], 0, 0
    for length in HEAD_LENGTHS:
        if length > len(tokens):
            break
        before = hash((before, *tokens[start:length]))
        heads.append(before)
        start = length
    return tuple(heads)


class Kinds:
    """Which kind a program is of, by the heads of the *max_heads* seen last."""

    def __init__(
        self, *, enough_programs: int = ENOUGH_PROGRAMS, max_heads: int = MAX_HEADS
    ) -> None:
        if enough_programs < 1:
            raise ConfigError(f"kinds: must be of at least 1 program, got {enough_programs}")
        self._enough = enough_programs
        self._programs: TenantCache[int, int] = TenantCache(max_heads)

    def __len__(self) -> int:
        """How many heads are remembered."""
        return len(self._programs)

    def opened(self, tenant: str, heads: Heads) -> None:
        """A program of *tenant* opened with a prompt that has these heads."""
        for head in heads:
            self._programs.put(tenant, head, (self._programs.find(tenant, head) or 0) + 1)

    def find(self, tenant: str, heads: Heads) -> str | None:
        """The kind of a program of *tenant*; None: its prompt begins like too few others.

        The longest of its heads that enough programs have begun with, as ``TENANT/TOKENS-HASH``.
        """
        for length, head in reversed(tuple(zip(HEAD_LENGTHS, heads, strict=False))):
            if (self._programs.find(tenant, head) or 0) >= self._enough:
                name = f"{length}-{head & 0xFFFFFFFFFFFF:012x}"
                return f"{tenant}/{name}" if tenant else name
        return None
