"""Every example, run as its docstring says, on the server that ``make serve`` starts."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.harness import Server, running_server

pytestmark = pytest.mark.engine

FOLDER = Path(__file__).parent.parent.parent / "examples"
MAX_LINES = 60

# An example -> the package it needs beside the server's, and what its output says.
EXAMPLES = {
    "tree_of_thought": ("sglang", r": calls by thread (?=.*\.1': 2)(?=.*\.2': 2)(?=.*\.3': 2)"),
    "react": ("openai", r"(population\(\w+\) = \d+\n){3}.*: 4 calls"),
    "map_reduce": ("openai", r": calls by thread \{('part-[012]': 1, ){3}'': 1\}"),
    "langgraph_agent": ("langgraph", r": 2 calls"),
    "openai_agents": ("agents", r": calls by thread \{'': 2, 'poet': 1\}"),
    "smolagents_agent": ("smolagents", r": [2-9] calls"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("default"), []) as running:
        yield running


def test_every_example_is_tested_and_short() -> None:
    """One screen, so that it can be read at once."""
    assert {path.stem for path in FOLDER.glob("*.py")} == set(EXAMPLES)
    for path in FOLDER.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < MAX_LINES, path.name


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_one_program_and_ends_it(server: Server, name: str) -> None:
    """It says how many calls it made, and the server has forgotten it afterwards."""
    package, says = EXAMPLES[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'autellix-sgl[examples]'")
    opened = server.get("/v1/programs").json()["statistics"]["opened"]
    result = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), server.url],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert re.search(says, result.stdout, re.DOTALL), result.stdout[-2000:]
    named = re.search(r"^program (\S+): ", result.stdout, re.MULTILINE)
    assert named is not None
    assert server.get(f"/v1/programs/{named[1]}").status_code == 404
    assert server.get("/v1/programs").json()["statistics"]["opened"] == opened + 1
