"""What a replay measured, one JSON line a call and one a program, written as they finish.

Times are seconds since the replay began, by the client's monotonic clock; what a server does not
report is null.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, TypeVar

CALLS, PROGRAMS = "calls.jsonl", "programs.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One call's answer. ``wait_s``: time in the server's queue, after a preemption included.

    ``preemptions``: how often it was taken out of the batch, retractions included.
    ``recomputed_tokens``: computed a second time for that reason.
    """

    output_ids: list[int]
    cached_tokens: int | None = None
    wait_s: float | None = None
    preemptions: int | None = None
    recomputed_tokens: int | None = None
    promotions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """``due_s``: when its last parent had ended and its tool was done; ``sent_s``: when it went."""

    program: str
    call: int
    due_s: float
    sent_s: float
    end_s: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None = None
    wait_s: float | None = None
    preemptions: int | None = None
    recomputed_tokens: int | None = None
    promotions: int | None = None

    @property
    def latency_s(self) -> float:
        return self.end_s - self.sent_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRecord:
    """``arrival_s`` is the schedule's: a client that was late to start it makes it no faster."""

    program: str
    kind: str
    calls: int
    output_tokens: int
    arrival_s: float
    end_s: float

    @property
    def response_s(self) -> float:
        return self.end_s - self.arrival_s


class Recorder:
    """Appends records to the two files of a run's folder; every line is on disk when it returns."""

    def __init__(self, calls: IO[str], programs: IO[str]) -> None:
        self._calls = calls
        self._programs = programs

    def call(self, record: CallRecord) -> None:
        self._calls.write(_line(record))

    def program(self, record: ProgramRecord) -> None:
        self._programs.write(_line(record))


@contextmanager
def recorder(folder: Path) -> Iterator[Recorder]:
    """Write a run's records to *folder*, over those of an earlier run there."""
    with (
        (folder / CALLS).open("w", encoding="utf-8", buffering=1) as calls,
        (folder / PROGRAMS).open("w", encoding="utf-8", buffering=1) as programs,
    ):
        yield Recorder(calls, programs)


def read_calls(folder: Path) -> list[CallRecord]:
    """The calls that finished; a last line that was cut off is left out."""
    return [_record(CallRecord, data) for data in _lines(folder / CALLS)]


def read_programs(folder: Path) -> list[ProgramRecord]:
    """The programs that finished; a last line that was cut off is left out."""
    return [_record(ProgramRecord, data) for data in _lines(folder / PROGRAMS)]


def _line(record: CallRecord | ProgramRecord) -> str:
    rounded = {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in asdict(record).items()
    }
    return json.dumps(rounded) + "\n"


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


_Record = TypeVar("_Record", CallRecord, ProgramRecord)


def _record(kind: type[_Record], data: Mapping[str, Any]) -> _Record:
    return kind(**{field.name: data[field.name] for field in fields(kind)})
