"""One system, one trace: start the server, replay, write down what happened.

FOLDER/manifest.json    what was run, on what, by which command, and how it ended
       calls.jsonl      one line a call, as it finishes
       programs.jsonl   one line a program, as it finishes
       summary.json     the metrics; only when the run is complete
       server.log
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from tqdm import tqdm  # type: ignore[import-untyped]

from autellix_sgl.errors import ConfigError
from autellix_sgl.workloads import Workload
from bench.client import Client, connected
from bench.load import Setting
from bench.records import (
    Answer,
    CallRecord,
    ProgramRecord,
    Recorder,
    read_calls,
    read_programs,
    recorder,
)
from bench.replay import Call, Prompts, ReplayError, replay
from bench.report_file import command_line, machine, without_place
from bench.servers import RunningServer, free_port, launched
from bench.summary import summarize
from bench.systems import System

MANIFEST, SUMMARY = "manifest.json", "summary.json"
COMPLETE = "complete"

WARM_UP_PROMPT_TOKENS = 16
WARM_UP_OUTPUT_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One system on one trace. ``rate``: programs a second, None when all come at once.

    ``load``: the rate in capacities, where it was given so.
    """

    system: System
    setting: Setting
    seed: int
    rate: float | None
    load: float | None = None

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same measurement, JSON-ready."""
        return {
            "system": self.system.name,
            "system_flags": list(self.system.flags),
            "seed": self.seed,
            "rate": self.rate,
            "load": self.load,
            "setting": self.setting.as_dict(),
        }

    def folder(self, out: Path) -> Path:
        return out / f"{self.system.name}-seed{self.seed}"


def measured(run: Run, out: Path) -> dict[str, Any]:
    """The summary of *run*, measured now unless its folder has it complete.

    Raises ConfigError when the folder has another run, ReplayError or StartError when it fails.
    """
    folder = run.folder(out)
    done = _manifest_of(folder)
    if done.get("status") == COMPLETE:
        _require_same(done["run"], run.identity(), folder)
        found: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        sys.stderr.write(f"{folder}: complete, not run again\n")
        return found
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)
    workload = run.setting.draw(run.seed, run.rate)
    with _manifest(folder, run):
        _play(run, workload, folder)
        summary = summarize(read_programs(folder), read_calls(folder))
        _write_json(folder / SUMMARY, summary)
    return summary


def require_startable(systems: Sequence[System], setting: Setting) -> None:
    """Raise what a start of one of *systems* would for lack of an installation, before hours go."""
    for system in systems:
        system.engine.command(setting.server, system.flags, 0)


# -- the manifest ---------------------------------------------------------------------------------


@contextmanager
def _manifest(folder: Path, run: Run) -> Iterator[None]:
    """Keeps the run's manifest: what it is now, how it ended later."""
    record = {
        "run": run.identity(),
        "command": command_line(),
        "server_command": _server_command(run),
        "machine": machine(),
        "peer_versions": run.system.engine.versions(run.setting.server),
        "started_at": _now(),
        "load_average_before": os.getloadavg(),
        "status": "running",
    }
    _write_json(folder / MANIFEST, record)
    status = "failed"
    try:
        yield
        status = COMPLETE
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        ended = {
            "status": status,
            "ended_at": _now(),
            "load_average_after": os.getloadavg(),
        }
        _write_json(folder / MANIFEST, {**record, **ended})


def _manifest_of(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        raise ConfigError(
            f"--out: {folder} has a complete run with another {', '.join(differing)}; "
            "choose another folder or remove that one"
        )


def _server_command(run: Run) -> str:
    """The server's command line with the paths of this machine cut to their last part."""
    words = run.system.engine.command(run.setting.server, run.system.flags, 0)
    return " ".join(map(without_place, words))


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# -- the replay -----------------------------------------------------------------------------------


def _play(run: Run, workload: Workload, folder: Path) -> None:
    """Start the server and replay; whatever happens, the server is gone afterwards."""
    engine, port = run.system.engine, free_port()
    words = engine.command(run.setting.server, run.system.flags, port)
    environment = engine.environment(run.setting.server)
    log = folder / "server.log"
    sys.stderr.write(f"{run.system.name}, seed {run.seed}: starting\n")
    with (
        launched(log, words, port, env=environment, ready=engine.ready) as server,
        recorder(folder) as records,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        try:
            runner.run(_replay(run, workload, server, records))
        except ReplayError as error:
            raise ReplayError(f"{run.system.name}: {error}\n{_last_words(server)}") from None


def _last_words(server: RunningServer) -> str:
    if server.alive():
        return f"see {server.log}"
    return f"the server died:\n{server.tail(20)}"


async def _replay(run: Run, workload: Workload, server: RunningServer, records: Recorder) -> None:
    async with connected(server.url, run.system.engine) as client:
        _require_fits(workload, await client.context_tokens())
        prompts = Prompts(run.seed)
        await _warm_up(client, prompts, run.setting.server.slots)
        progress = _Progress(f"{run.system.name}, seed {run.seed}", workload, client, records)
        with progress.bar:
            await replay(workload, prompts, progress.send, progress)


def _require_fits(workload: Workload, limit: int) -> None:
    longest = max(call.context_tokens for p in workload.programs for call in p.calls)
    if longest > limit:
        raise ConfigError(
            f"--scale: the longest context of this trace has {longest} tokens, the server takes "
            f"{limit}; scale by {limit / longest:.3g} of that, or pass `-- --context-length`"
        )


async def _warm_up(client: Client, prompts: Prompts, slots: int) -> None:
    """A full batch of short calls, none of which counts; then the cache is emptied."""
    calls = [
        Call(
            program=f"warm-up-{number}",
            thread="",
            prompt=prompts.tokens(f"warm-up-{number}", WARM_UP_PROMPT_TOKENS),
            output_tokens=WARM_UP_OUTPUT_TOKENS,
            last=True,
        )
        for number in range(slots)
    ]
    await asyncio.gather(*(client.send(call) for call in calls))
    for call in calls:
        client.ended(call.program)
    await client.flush()


@dataclass
class _Progress:
    """Between the replay and the client: records what finishes and shows how far it is."""

    title: str
    workload: Workload
    client: Client
    records: Recorder
    programs_done: int = 0
    in_server: int = 0
    bar: Any = field(init=False)

    def __post_init__(self) -> None:
        self.bar = tqdm(
            total=self.workload.num_calls,
            desc=self.title,
            unit="call",
            mininterval=1.0,
            file=sys.stderr,
        )

    async def send(self, call: Call) -> Answer:
        self.in_server += 1
        try:
            return await self.client.send(call)
        finally:
            self.in_server -= 1

    def call(self, record: CallRecord) -> None:
        self.records.call(record)
        self.bar.set_postfix_str(
            f"{self.programs_done}/{len(self.workload.programs)} programs, "
            f"{self.in_server} calls in the server",
            refresh=False,
        )
        self.bar.update()

    def program(self, record: ProgramRecord) -> None:
        self.records.program(record)
        self.client.ended(record.program)
        self.programs_done += 1
