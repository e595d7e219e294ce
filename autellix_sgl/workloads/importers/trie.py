"""Applied Compute's trie JSON lines: one linear agent session a line, lengths in tokens.

``num_turns`` tool-using turns, each with its entry in ``assistant_response_length``,
``tool_call_output_length`` and ``tool_call_latency`` (seconds), after an ``input_prompt_length``
and before a ``final_assistant_response_length``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from autellix_sgl.workloads.builder import ProgramBuilder
from autellix_sgl.workloads.fields import Record, read_lines
from autellix_sgl.workloads.model import TOOL, Interrupt, ProgramTrace


def trie(path: Path) -> Iterator[ProgramTrace]:
    """A program a line, of ``num_turns`` + 1 calls."""
    for record in read_lines(path):
        yield _program(record)


def _program(record: Record) -> ProgramTrace:
    turns = record.whole("num_turns")
    responses = record.wholes("assistant_response_length", length=turns, at_least=1)
    results = record.wholes("tool_call_output_length", length=turns)
    latencies_s = record.numbers("tool_call_latency", length=turns)
    responses.append(record.whole("final_assistant_response_length", at_least=1))
    program = ProgramBuilder(f"trie-{record.line}", "trie")
    last = program.fresh(record.whole("input_prompt_length", at_least=1), responses[0])
    for result, latency_s, response in zip(results, latencies_s, responses[1:], strict=True):
        tool = Interrupt(TOOL, latency_s * 1e3)
        last = program.extend(last, result, response, interrupt=tool)
    return program.build()
