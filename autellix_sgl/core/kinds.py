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

from collections import OrderedDict
from collections.abc import Sequence

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


def label(tenant: str, name: str) -> str:
    """A kind's name, unique over all tenants."""
    return f"{tenant}/{name}" if tenant else name


class Kinds:
    """Which kind a program is of, by the heads of the *max_heads* seen last."""

    def __init__(
        self, *, enough_programs: int = ENOUGH_PROGRAMS, max_heads: int = MAX_HEADS
    ) -> None:
        if enough_programs < 1 or max_heads < 1:
            raise ConfigError(
                f"kinds: need at least 1 program and 1 head, got {enough_programs} and {max_heads}"
            )
        self._enough = enough_programs
        self._max_heads = max_heads
        # By tenant: a head and how many programs have begun with it, longest unseen first.
        self._tenants: dict[str, OrderedDict[int, int]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def opened(self, tenant: str, heads: Heads) -> None:
        """A program of *tenant* opened with a prompt that has these heads."""
        for head in heads:
            known = self._tenants.setdefault(tenant, OrderedDict())
            self._size += head not in known
            known[head] = known.get(head, 0) + 1
            known.move_to_end(head)
            if self._size > self._max_heads:
                self._forget_one()

    def find(self, tenant: str, heads: Heads) -> str | None:
        """The kind of a program of *tenant*; None: its prompt begins like too few others.

        The longest of its heads that enough programs have begun with, as ``TENANT/TOKENS-HASH``.
        """
        known = self._tenants.get(tenant, {})
        for number in reversed(range(len(heads))):
            if known.get(heads[number], 0) >= self._enough:
                name = f"{HEAD_LENGTHS[number]}-{heads[number] & 0xFFFFFFFFFFFF:012x}"
                return label(tenant, name)
        return None

    def _forget_one(self) -> None:
        """Drop the longest unseen head of the tenant that has most."""
        tenant = max(self._tenants, key=lambda name: len(self._tenants[name]))
        known = self._tenants[tenant]
        known.popitem(last=False)
        self._size -= 1
        if not known:
            del self._tenants[tenant]
