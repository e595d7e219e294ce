"""ShareGPT JSON: one array of conversations, ``{"id", "conversations": [{"from", "value"}]}``.

The file holds text; its length in tokens is estimated by characters (four a token, the usual figure
for English), since a tokenizer is no part of this package. Turns have no times: no interrupts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from autellix_sgl.workloads.builder import ProgramBuilder
from autellix_sgl.workloads.fields import Record, read_array
from autellix_sgl.workloads.model import ProgramTrace

CHARACTERS_PER_TOKEN = 4.0
ASKS = ("human", "user")
ANSWERS = ("gpt", "assistant", "chatgpt", "bing", "bard")
SYSTEM = ("system",)


def sharegpt(path: Path) -> Iterator[ProgramTrace]:
    """A program a conversation that has at least one answer; the others are passed over."""
    for number, record in enumerate(read_array(path)):
        identity = record.text("id", str(number))
        program = _program(f"sharegpt-{number}-{identity}", record)
        if program is not None:
            yield program


def tokens_of(text: str) -> int:
    """A text's length in tokens, about."""
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN))


def _program(name: str, record: Record) -> ProgramTrace | None:
    program = ProgramBuilder(name, "sharegpt")
    asked, last = 0, -1
    for turn in record.records("conversations"):
        role, tokens = turn.text("from"), tokens_of(turn.text("value"))
        if role in ASKS or role in SYSTEM:
            asked += tokens
        elif role not in ANSWERS:
            turn.fail("from", f"unknown speaker {role!r}")
        elif last >= 0:
            last = program.extend(last, max(1, asked), tokens)
            asked = 0
        elif asked:
            last = program.fresh(asked, tokens)
            asked = 0
        # An answer before any question is the tail of a cut conversation: nobody asked for it.
    return program.build() if len(program) else None
