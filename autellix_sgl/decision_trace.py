"""The decision log: one JSON array a line, ``[event, {fields}]``, enough to decide a run again.

Written by the engine (``--program-trace``) and by the simulator (``run --trace``), read by
:mod:`autellix_sgl.sim.replay`, which describes the events.
"""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from autellix_sgl.errors import ConfigError


class TraceWriter:
    """Appends events to a file; buffered. A context manager."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    @classmethod
    def open(cls, path: Path) -> TraceWriter:
        """A writer over a new file; raises ConfigError if it cannot be made."""
        try:
            return cls(path.open("w", encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"the trace {path}: {error.strerror}") from error

    def record(self, event: str, fields: dict[str, object]) -> None:
        """The ``record`` of a :class:`~autellix_sgl.core.CallScheduler`."""
        self._file.write(json.dumps([event, fields], default=_plain) + "\n")

    def flush(self) -> None:
        self._file.flush()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{value!r} does not belong in a trace")
