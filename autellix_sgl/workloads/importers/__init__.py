"""Public trace formats, read as programs. A bad line raises WorkloadError: file, line and field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autellix_sgl.errors import ConfigError
from autellix_sgl.workloads.importers.bfcl import bfcl
from autellix_sgl.workloads.importers.sharegpt import sharegpt
from autellix_sgl.workloads.importers.tensorrt_llm import tensorrt_llm
from autellix_sgl.workloads.importers.trie import trie
from autellix_sgl.workloads.model import ProgramTrace

Importer = Callable[[Path], Iterator[ProgramTrace]]

IMPORTERS: Mapping[str, Importer] = {
    "sharegpt": sharegpt,
    "bfcl": bfcl,
    "tensorrt-llm": tensorrt_llm,
    "trie": trie,
}


def import_programs(name: str, paths: Sequence[Path]) -> list[ProgramTrace]:
    """The programs of all files; ids that two files share are numbered apart."""
    if name not in IMPORTERS:
        raise ConfigError(f"unknown format {name!r} (known: {', '.join(IMPORTERS)})")
    programs: list[ProgramTrace] = []
    seen: dict[str, int] = {}
    for path in paths:
        for program in IMPORTERS[name](path):
            seen[program.id] = times = seen.get(program.id, 0) + 1
            renamed = program if times == 1 else replace(program, id=f"{program.id}#{times}")
            programs.append(renamed)
    if not programs:
        raise ConfigError(f"no programs in {', '.join(map(str, paths))}")
    return programs
