"""BFCL multi-turn JSON lines, as the benchmark's result files or as its question files.

A result line has ``input_token_count`` and ``output_token_count``, a list of steps for each turn:
exact lengths. A question line has ``question`` (a list of messages for each turn),
``involved_classes`` and, inlined from the answers file or not, ``ground_truth`` (a list of
function calls for each turn) or at least ``path``: then each function call is one LLM call and each
turn ends with one more, and lengths are estimated.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from autellix_sgl.workloads.builder import ProgramBuilder
from autellix_sgl.workloads.fields import Record, read_lines
from autellix_sgl.workloads.importers.sharegpt import tokens_of
from autellix_sgl.workloads.model import ProgramTrace

# What a question file does not say: an API class's documentation, a tool's result, an answer.
CLASS_TOKENS = 1500
RESULT_TOKENS = 80
ANSWER_TOKENS = 40


def bfcl(path: Path) -> Iterator[ProgramTrace]:
    """A program a line."""
    for record in read_lines(path):
        measured = "input_token_count" in record
        yield _measured(record) if measured else _estimated(record)


def _measured(record: Record) -> ProgramTrace:
    """From a result line: what a call adds is its prompt less the context of the call before."""
    program = ProgramBuilder(record.text("id"), "bfcl")
    prompts = _steps(record, "input_token_count")
    outputs = _steps(record, "output_token_count")
    if [len(turn) for turn in prompts] != [len(turn) for turn in outputs]:
        record.fail("output_token_count", "must have the shape of input_token_count")
    last = -1
    for turn, answers in zip(prompts, outputs, strict=True):
        for prompt, output in zip(turn, answers, strict=True):
            if last < 0:
                last = program.fresh(prompt, output)
                continue
            shared = min(program.context_tokens(last), prompt)
            last = program.extend(last, prompt - shared, output, shared_tokens=shared)
    if last < 0:
        record.fail("input_token_count", "has no steps")
    return program.build()


def _steps(record: Record, field: str) -> list[list[int]]:
    turns = record.items(field)
    nested = Record(record.file, record.line, {f"{field}[{i}]": t for i, t in enumerate(turns)})
    return [nested.wholes(name, at_least=1) for name in nested.data]


def _estimated(record: Record) -> ProgramTrace:
    program = ProgramBuilder(record.text("id"), "bfcl")
    classes = record.items("involved_classes")
    system = "+".join(sorted(map(str, classes))) or "none"
    last = -1
    for asked, calls in zip(_questions(record), _calls(record), strict=True):
        new = asked
        for output in [*map(tokens_of, calls), ANSWER_TOKENS]:
            if last < 0:
                last = program.fresh(
                    new, output, system=system, system_tokens=CLASS_TOKENS * max(1, len(classes))
                )
            else:
                last = program.extend(last, new, output)
            new = RESULT_TOKENS
    if last < 0:
        record.fail("question", "has no turns")
    return program.build()


def _questions(record: Record) -> list[int]:
    """Tokens the user says in each turn."""
    lengths = []
    for number, turn in enumerate(record.items("question")):
        holder = Record(record.file, record.line, {f"question[{number}]": turn})
        messages = holder.records(f"question[{number}]")
        lengths.append(max(1, sum(tokens_of(message.text("content")) for message in messages)))
    return lengths


def _calls(record: Record) -> list[list[str]]:
    """The function calls of each turn; a bare path is dealt to the turns evenly."""
    turns = len(record.items("question"))
    if "ground_truth" in record:
        return [list(map(str, turn)) for turn in record.items("ground_truth", length=turns)]
    path = list(map(str, record.items("path")))
    each = -(-len(path) // max(1, turns))
    return [path[number * each : (number + 1) * each] for number in range(turns)]
