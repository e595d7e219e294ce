"""Prompts as tokens, for what tells programs apart by them: equal runs of a trace are equal tokens.

A trace knows what a prompt repeats and not what it says, so each token is given a number of its
own. Two programs then have in common what the radix cache of a server would share: the system
prompt.
"""

from __future__ import annotations

from autellix_sgl.core.programs.kinds import LONGEST_HEAD
from autellix_sgl.workloads import ProgramTrace


class Prompts:
    """The leading tokens of calls' prompts, as far as anybody looks at them."""

    def __init__(self) -> None:
        self._sources: dict[str, int] = {}

    def tokens(self, program: ProgramTrace, index: int) -> list[int]:
        """The head of call *index*'s prompt."""
        tokens: list[int] = []
        for source, start, stop in program.pieces(index):
            text = self._sources.setdefault(source, len(self._sources)) << 32
            tokens.extend(range(text + start, text + stop))
            if len(tokens) >= LONGEST_HEAD:
                break
        return tokens
