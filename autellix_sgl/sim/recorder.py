"""Writing a decision trace, in the format that :mod:`autellix_sgl.sim.replay` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from autellix_sgl.core import CallScheduler
from autellix_sgl.errors import ConfigError
from autellix_sgl.sim.experiments import Setting
from autellix_sgl.sim.replay import start_fields
from autellix_sgl.sim.systems import ORACLES, system_named


class Recording:
    """Appends events to a file; a context manager."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    @classmethod
    def to_file(cls, path: Path, setting: Setting, systems: Sequence[str]) -> Recording:
        """A recording of one replica under one system that the core schedules."""
        if len(systems) != 1 or systems[0] in ORACLES or setting.replicas != 1:
            raise ConfigError("--trace records one replica under one system that is no oracle")
        system = system_named(systems[0])
        scheduler = system.scheduler(setting.server, setting.tuning, lambda _: 0.0)
        assert isinstance(scheduler, CallScheduler)
        recording = cls(path.open("w", encoding="utf-8"))
        recording.record("start", start_fields(scheduler))
        return recording

    def record(self, event: str, fields: dict[str, object]) -> None:
        self._file.write(json.dumps([event, fields], default=_plain) + "\n")

    def __enter__(self) -> Recording:
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
