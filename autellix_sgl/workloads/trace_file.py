"""Our own trace file: JSON lines, a header with the workload, then one program a line.

    {"workload": "mixed", "concurrency": null, "source": {...}}
    {"id": "mixed-0", "kind": "chat", "arrival_ms": 12.5, "calls": [{"new_tokens": 80, ...}, ...]}

A field of a call, and a program's ``tenant`` and ``fresh``, are left out at their default.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from autellix_sgl.errors import ConfigError
from autellix_sgl.workloads.fields import Record, read_lines
from autellix_sgl.workloads.model import Interrupt, ProgramTrace, TracedCall, Workload

_CALL_DEFAULTS = {f.name: f.default for f in fields(TracedCall)}


def save(workload: Workload, path: Path) -> None:
    """Write *workload* to *path*; :func:`load` gives it back equal."""
    with path.open("w", encoding="utf-8") as file:
        for line in to_lines(workload):
            file.write(line + "\n")


def to_lines(workload: Workload) -> Iterator[str]:
    """The lines of the file, without their ends."""
    header = {"workload": workload.name, "concurrency": workload.concurrency}
    yield json.dumps({**header, "source": workload.source})
    for program in workload.programs:
        yield json.dumps(
            {
                "id": program.id,
                "kind": program.kind,
                "arrival_ms": program.arrival_ms,
                **({"tenant": program.tenant} if program.tenant else {}),
                **({"fresh": True} if program.fresh else {}),
                "calls": [_call_fields(call) for call in program.calls],
            }
        )


def load(path: Path) -> Workload:
    """Read a trace file; WorkloadError names the line and the field at fault."""
    records = read_lines(path)
    header = next(records, None)
    if header is None or "workload" not in header:
        raise ConfigError(f"{path}: the first line must be the header of a workload file")
    concurrency = header.whole("concurrency", at_least=1) if "concurrency" in header else None
    source = header.data.get("source", {})
    programs = tuple(_program(record) for record in records)
    return Workload(header.text("workload"), programs, concurrency, source)


def _call_fields(call: TracedCall) -> dict[str, Any]:
    named = {name: getattr(call, name) for name in _CALL_DEFAULTS}
    kept = {name: value for name, value in named.items() if value != _CALL_DEFAULTS[name]}
    if call.interrupt is not None:
        kept["interrupt"] = [call.interrupt.kind, call.interrupt.duration_ms]
    return kept


def _program(record: Record) -> ProgramTrace:
    calls = tuple(_call(call) for call in record.records("calls"))
    arrival_ms = record.number("arrival_ms", default=0.0)
    try:
        return ProgramTrace(
            record.text("id"),
            record.text("kind"),
            calls,
            arrival_ms,
            record.text("tenant", ""),
            bool(record.data.get("fresh", False)),
        )
    except ConfigError as error:
        record.fail("calls", str(error))


def _call(record: Record) -> TracedCall:
    for name in record.data:
        if name not in _CALL_DEFAULTS:
            record.fail(name, "is not a field of a call")
    try:
        return TracedCall(
            new_tokens=record.whole("new_tokens"),
            output_tokens=record.whole("output_tokens", at_least=1),
            shared_tokens=record.whole("shared_tokens", default=0),
            extends=record.whole("extends") if "extends" in record else None,
            system=record.text("system", ""),
            parents=tuple(record.wholes("parents")) if "parents" in record else (),
            thread=record.text("thread", ""),
            interrupt=_interrupt(record) if "interrupt" in record else None,
        )
    except ConfigError as error:
        record.fail("", str(error))


def _interrupt(record: Record) -> Interrupt:
    values = record.items("interrupt", length=2)
    if not isinstance(values[1], int | float):
        record.fail("interrupt[1]", f"must be milliseconds, got {values[1]!r}")
    return Interrupt(values[0], values[1])
