"""``autellix_sgl.Engine`` in a process of its own, as a script uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.engine.harness import SETTINGS, cost_file

pytestmark = pytest.mark.engine

START = """\
import asyncio, json, sys
import autellix_sgl
from autellix_sgl import Engine

TOKENS = {{"max_new_tokens": 4, "ignore_eos": True, "temperature": 0.0}}

def report(output):
    return output["meta_info"]["program"]

if __name__ == "__main__":
    engine = Engine(**json.loads(sys.argv[1]))
    results = {{}}
{body}
    engine.shutdown()
    print("RESULTS", json.dumps(results))
"""

BODY = """\
first = engine.generate("The quick", TOKENS, program="run-1")
second = engine.generate("The quick", TOKENS, program={"id": "run-1", "thread": "t"})
results["chain"] = [report(first), report(second)]
results["listed"] = engine.programs()
results["own"] = report(engine.generate("Hello", TOKENS))["id"] in engine.programs()
batch = engine.generate(["Hello", "Bye"], TOKENS, program={"id": "batch"})
results["batch"] = [report(output)["thread"] for output in batch]
chunks = list(engine.generate("Hello", TOKENS, program="stream", stream=True))
results["stream"] = report(chunks[-1])["id"]
results["session"] = report(engine.generate("Hello", TOKENS, session_id="s-1"))["id"]
with autellix_sgl.program("block") as p:
    results["block"] = report(engine.generate("Hello", TOKENS))["id"] == p.id
    with p.thread("t"):
        results["thread"] = report(engine.generate("Hello", TOKENS))["thread"]
    results["state"] = p.state()["calls_completed"]
results["ended"] = p.id not in [program["id"] for program in engine.programs()]

async def several():
    async with autellix_sgl.program("async") as q:
        async def branch(name):
            async with q.thread(name):
                return report(await engine.async_generate("Hello", TOKENS))
        return await asyncio.gather(*(branch(name) for name in "ab"))

reports = engine.loop.run_until_complete(several())
results["async"] = [r["thread"] for r in reports]
results["async_programs"] = len({r["id"] for r in reports})
try:
    engine.generate("Hello", TOKENS, program={"id": 7})
except autellix_sgl.errors.InvalidProgram as error:
    results["refused"] = error.field
engine.generate("Hello", TOKENS, program={"id": "run-1", "end": True})
results["left"] = [program["id"] for program in engine.programs()]
"""


def run(folder: Path, body: str, **arguments: Any) -> Any:
    script = folder / "offline.py"
    script.write_text(START.format(body=textwrap.indent(body, "    ")), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(script), json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **SETTINGS},
    )
    assert result.returncode == 0, result.stderr[-4000:]
    line = next(line for line in result.stdout.splitlines() if line.startswith("RESULTS"))
    return json.loads(line.removeprefix("RESULTS"))


def tiny_arguments(model: Path, **more: Any) -> dict[str, Any]:
    return {
        "model_path": str(model),
        "load_format": "dummy",
        "dtype": "float32",
        "context_length": 4096,
        "max_total_tokens": 32768,
        "max_running_requests": 4,
        **more,
    }


def test_an_offline_engine_schedules_programs(tiny_model: Path, tmp_path: Path) -> None:
    """By argument, by mapping and by block; batches, streams and coroutines too."""
    arguments = tiny_arguments(tiny_model, program_cost_model=cost_file(tmp_path))
    results = run(tmp_path, BODY, **arguments)
    first, second = results["chain"]
    assert (first["id"], first["thread"], second["thread"]) == ("run-1", "", "t")
    assert second["priority_ms"] == first["service_ms"] > 0
    assert [program["threads"] for program in results["listed"]] == [{"": 1, "t": 1}]
    assert not results["own"]
    assert results["batch"] == ["0", "1"]
    assert (results["stream"], results["session"]) == ("stream", "s-1")
    assert results["block"]
    assert (results["thread"], results["state"], results["ended"]) == ("t", 2, True)
    assert (results["async"], results["async_programs"]) == (["a", "b"], 1)
    assert results["refused"] == "program.id"
    assert results["left"] == ["batch", "stream", "s-1"]


def test_without_program_scheduling_it_is_sglangs_engine(tiny_model: Path, tmp_path: Path) -> None:
    """program_policy='none': the answer says nothing of programs."""
    body = 'results["meta"] = list(engine.generate("Hello", TOKENS)["meta_info"])'
    meta = run(tmp_path, body, **tiny_arguments(tiny_model, program_policy="none"))["meta"]
    assert "completion_tokens" in meta
    assert "program" not in meta
