"""Reading JSON field by field, so that an error names the file, the line and the field."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from autellix_sgl.workloads.errors import WorkloadError


@dataclass(frozen=True, slots=True)
class Record:
    """A JSON object and where it stands. ``path`` is its field name inside the line's object."""

    file: str
    line: int
    data: dict[str, Any]
    path: str = ""

    def fail(self, field: str, problem: str) -> NoReturn:
        name = f"{self.path}.{field}" if self.path and field else self.path or field
        raise WorkloadError(self.file, self.line, name, problem)

    def __contains__(self, field: str) -> bool:
        return self.data.get(field) is not None

    def get(self, field: str) -> Any:
        if field not in self.data:
            self.fail(field, "is missing")
        return self.data[field]

    def text(self, field: str, default: str | None = None) -> str:
        value = self.get(field) if default is None else self.data.get(field, default)
        if not isinstance(value, str):
            self.fail(field, f"must be a string, got {value!r}")
        return value

    def number(self, field: str, *, at_least: float = 0.0, default: float | None = None) -> float:
        value = self.get(field) if default is None else self.data.get(field, default)
        return self._number(field, value, at_least)

    def whole(self, field: str, *, at_least: int = 0, default: int | None = None) -> int:
        value = self.get(field) if default is None else self.data.get(field, default)
        return self._whole(field, value, at_least)

    def items(self, field: str, *, length: int | None = None) -> list[Any]:
        value = self.get(field)
        if not isinstance(value, list):
            self.fail(field, f"must be a list, got {value!r}")
        if length is not None and len(value) != length:
            self.fail(field, f"must have {length} entries, has {len(value)}")
        return value

    def wholes(self, field: str, *, length: int | None = None, at_least: int = 0) -> list[int]:
        values = self.items(field, length=length)
        return [self._whole(f"{field}[{i}]", v, at_least) for i, v in enumerate(values)]

    def numbers(self, field: str, *, length: int | None = None) -> list[float]:
        values = self.items(field, length=length)
        return [self._number(f"{field}[{i}]", v, 0.0) for i, v in enumerate(values)]

    def records(self, field: str) -> list[Record]:
        """The objects of a list field, each knowing its own place."""
        return [self.inside(f"{field}[{i}]", v) for i, v in enumerate(self.items(field))]

    def inside(self, field: str, value: object) -> Record:
        if not isinstance(value, dict):
            self.fail(field, f"must be an object, got {value!r}")
        path = f"{self.path}.{field}" if self.path else field
        return Record(self.file, self.line, value, path)

    def _number(self, field: str, value: object, at_least: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(field, f"must be a number, got {value!r}")
        if not at_least <= value < math.inf:
            self.fail(field, f"must be at least {at_least:g} and finite, got {value}")
        return float(value)

    def _whole(self, field: str, value: object, at_least: int) -> int:
        number = self._number(field, value, at_least)
        if isinstance(value, int):
            return value  # as it is: the tickets of a trace are beyond what a float can tell apart
        if number != int(number):
            self.fail(field, f"must be a whole number, got {value!r}")
        return int(number)


def read_lines(path: Path) -> Iterator[Record]:
    """The objects of a JSON-lines file; blank lines are passed over."""
    for number, line in enumerate(_text_of(path).splitlines(), start=1):
        if line.strip():
            yield _record(path, number, _parsed(path, number, line))


def read_document(path: Path) -> Record:
    """The one object a JSON file holds."""
    text = _text_of(path)
    try:
        return _record(path, 1, json.loads(text))
    except json.JSONDecodeError as error:
        raise WorkloadError(str(path), error.lineno, "", f"not JSON: {error.msg}") from error


def read_array(path: Path) -> Iterator[Record]:
    """The objects of a file that holds one JSON array, each with the line it begins on."""
    text = _text_of(path)
    decoder = json.JSONDecoder()
    position, line = _skip(text, 0, 1, " \t\r\n")
    if text[position : position + 1] != "[":
        raise WorkloadError(str(path), line, "", "expected a JSON array of objects")
    position += 1
    while True:
        position, line = _skip(text, position, line, " \t\r\n,")
        if text[position : position + 1] == "]":
            return
        try:
            value, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise WorkloadError(str(path), error.lineno, "", f"not JSON: {error.msg}") from error
        yield _record(path, line, value)
        line += text.count("\n", position, end)
        position = end


def _skip(text: str, position: int, line: int, characters: str) -> tuple[int, int]:
    while position < len(text) and text[position] in characters:
        line += text[position] == "\n"
        position += 1
    return position, line


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise WorkloadError(str(path), 0, "", error.strerror or "cannot be read") from error
    except UnicodeDecodeError as error:
        raise WorkloadError(str(path), 0, "", "is not UTF-8 text") from error


def _parsed(path: Path, line: int, text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise WorkloadError(str(path), line, "", f"not JSON: {error.msg}") from error


def _record(path: Path, line: int, value: object) -> Record:
    if not isinstance(value, dict):
        raise WorkloadError(str(path), line, "", "expected a JSON object")
    return Record(str(path), line, value)


def read_events(path: Path) -> Iterator[tuple[str, Record]]:
    """The lines ``[event, {fields}]`` of a decision trace."""
    for number, line in enumerate(_text_of(path).splitlines(), start=1):
        value = _parsed(path, number, line)
        if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
            raise WorkloadError(str(path), number, "", "expected [event, {fields}]")
        yield value[0], _record(path, number, value[1])
