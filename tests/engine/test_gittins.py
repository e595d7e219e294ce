"""What a server learns of kinds of programs, on two slots, one unit of service a step."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from autellix_sgl.core.programs.forecast import ENOUGH_PROGRAMS
from autellix_sgl.sim import replay_file
from tests.engine.harness import Server, generation, running_server, tiny_flags

pytestmark = pytest.mark.engine

FLAGS = ["--program-policy", "gittins", "--program-levels", "8", "--program-first-quantum-ms", "4"]

# Two system prompts; each program's own question follows.
SYSTEMS = {"short": [1000 + token for token in range(60)], "long": [3000 + t for t in range(60)]}
TOKENS = {"short": 4, "long": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gittins")


@pytest.fixture(scope="module")
def server(tiny_model: Path, folder: Path) -> Iterator[Server]:
    """It has seen enough programs of both kinds; its trace must decide the same again."""
    trace = folder / "trace.jsonl"
    flags = [*tiny_flags(tiny_model, slots=2), *FLAGS, "--program-trace", str(trace)]
    with running_server(folder, flags) as server:
        kinds = [kind for kind in SYSTEMS for _ in range(ENOUGH_PROGRAMS + 5)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: call(server, f"w{n}", kinds[n], end=True), range(len(kinds))))
        yield server
        server.wait_until_idle()
    replayed = replay_file(trace)
    assert replayed["identical"], replayed["differences"]


def call(
    server: Server, program: str, kind: str, *, end: bool, tokens: int | None = None, **more: Any
) -> dict[str, Any]:
    """One call of *program*; returns what its response says of the program.

    Of as many tokens as its kind's calls have, or of *tokens*.
    """
    question = [5000 + sum(program.encode()) % 500] * 8
    answer = server.generate(
        {
            "input_ids": SYSTEMS[kind] + question,
            "sampling_params": generation(tokens or TOKENS[kind]),
            "program": {"id": program, "end": end, **more},
        }
    )
    meta: dict[str, Any] = answer["meta_info"]["program"]
    return meta


def test_programs_that_begin_alike_are_of_one_kind(server: Server) -> None:
    for program, kind in (("a", "short"), ("b", "short"), ("c", "long")):
        call(server, program, kind, end=False)
    kinds = {name: server.programs()[name]["kind"] for name in "abc"}
    assert kinds["a"] == kinds["b"] != kinds["c"]
    assert None not in kinds.values()


def test_a_call_of_a_kind_of_long_programs_enters_a_worse_level(server: Server) -> None:
    """Although its program has had nothing yet; under plas both would enter the best.

    One token, so that they leave in the level that they entered.
    """
    short = call(server, "new-short", "short", end=True, tokens=1)
    long = call(server, "new-long", "long", end=True, tokens=1)
    assert short["priority_ms"] == long["priority_ms"] == 0
    assert short["level"] < long["level"]


def test_a_call_of_no_known_kind_goes_by_attained_service(server: Server) -> None:
    """The best level at first, and one further with each quantum."""
    levels = [
        server.generate(
            {
                "input_ids": [7] * 12,
                "sampling_params": generation(tokens),
                "program": {"id": "stranger"},
            }
        )["meta_info"]["program"]["level"]
        for tokens in (1, 6)
    ]
    assert levels == [0, 1]
    assert server.programs()["stranger"]["kind"] is None


def test_an_expectation_changes_the_level_by_one_at_most(server: Server) -> None:
    plain, less, more = (
        call(server, f"hinted-{calls}", "long", end=True, tokens=1, **hints)["level"]
        for calls, hints in ((0, {}), (1, {"expected_tokens": 1}), (2, {"expected_calls": 900}))
    )
    assert plain - 1 <= less <= plain <= more <= plain + 1
    assert less < more


@pytest.mark.parametrize("field", ["expected_calls", "expected_tokens"])
def test_an_expectation_that_is_none_is_a_bad_request(server: Server, field: str) -> None:
    body = {"text": "Hello", "program": {"id": "a", field: "soon"}}
    refused = server.post("/generate", body)
    assert refused.status_code == 400
    assert f"program.{field}" in refused.text
