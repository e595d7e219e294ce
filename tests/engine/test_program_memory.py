"""KV of programs between their calls: which leaves a full pool first, and who runs when it is full.

Prompts are tokens, so that what is cached of them is known to the token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from autellix_sgl.sim import replay_file
from tests.engine.harness import Server, generation, running_server, tiny_flags
from tests.engine.storm import storm
from tests.engine.test_storm import check_complete

pytestmark = pytest.mark.engine

POOL = 2048
# A millisecond a step and a tenth of one for each prefill token: what comes back within 200 ms is
# back before the pool could be filled.
COST = {"base_ms": 1.0, "per_prefill_token_ms": 0.1}
VALUE = ["--program-eviction", "value"]
ADMISSION = ["--program-admission", "working-set"]


def prompt(first: int, tokens: int) -> list[int]:
    """Tokens that no prompt with another *first* begins with."""
    return [first, *(100 + i % 1000 for i in range(tokens - 1))]


def call(
    server: Server, program: str, tokens: Sequence[int], answer: int = 2, *, end: bool = False
) -> dict[str, Any]:
    """One call; returns its meta_info."""
    body = {
        "input_ids": list(tokens),
        "sampling_params": generation(answer),
        "program": {"id": program, "end": end},
    }
    meta: dict[str, Any] = server.generate(body)["meta_info"]
    return meta


def kept_after_pressure(server: Server) -> tuple[int, int]:
    """How much is cached of a program that goes on, and of a later one that has ended.

    Between them and a third they need more than the pool holds.
    """
    call(server, "goes-on", prompt(1, 600))
    call(server, "ends", prompt(2, 600), end=True)
    call(server, "large", prompt(3, 1200))
    going_on = call(server, "goes-on", prompt(1, 600))
    ended = call(server, "another", prompt(2, 600))
    return going_on["cached_tokens"], ended["cached_tokens"]


@pytest.fixture(scope="module")
def by_value(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = [*tiny_flags(tiny_model, slots=4, tokens=POOL), *VALUE]
    with running_server(tmp_path_factory.mktemp("value"), flags, cost=COST) as server:
        yield server
        server.wait_until_idle()


def test_a_program_that_goes_on_is_kept_over_one_that_has_ended(by_value: Server) -> None:
    """The ended one made room at once, though it was used last."""
    going_on, ended = kept_after_pressure(by_value)
    assert going_on == 599
    assert ended == 0


def test_sglangs_order_keeps_the_one_that_was_used_last(tiny_model: Path, tmp_path: Path) -> None:
    """The same calls without the flag: what this is about."""
    flags = tiny_flags(tiny_model, slots=4, tokens=POOL)
    with running_server(tmp_path, flags, cost=COST) as server:
        going_on, _ = kept_after_pressure(server)
    assert going_on == 0


def test_a_prefix_that_several_programs_use_outlives_the_program_that_came_first(
    by_value: Server,
) -> None:
    """A system prompt belongs to nobody, and stays when its first user has ended."""
    system = prompt(11, 500)
    call(by_value, "first", [*system, 7, *range(200, 299)])
    call(by_value, "second", [*system, 8, *range(300, 399)])
    call(by_value, "first", [*system, 7, *range(200, 310)], end=True)
    call(by_value, "filler", prompt(12, 1300))
    assert call(by_value, "third", [*system, 9, *range(400, 499)])["cached_tokens"] == 500


def test_calls_wait_for_their_program_when_the_pool_is_full(
    tiny_model: Path, tmp_path: Path
) -> None:
    """A second large program is held until the first has ended, though there is a free slot."""
    trace = tmp_path / "trace"
    flags = [*tiny_flags(tiny_model, slots=4, tokens=POOL), *VALUE, *ADMISSION]
    flags += ["--program-trace", str(trace)]
    with (
        running_server(tmp_path, flags, cost=COST) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(call, server, "first", prompt(1, 900), 1000, end=True)
        server.wait_until("the first runs", lambda: server.state()["running"] == 1)
        second = pool.submit(call, server, "second", prompt(2, 1200), 4)

        def second_is_held() -> tuple[int, int] | None:
            # Both from one look: the first may end between two.
            state = server.state()
            return (state["held"], state["running"]) if state["held"] else None

        held, running = server.wait_until("the second is held", second_is_held)
        assert first.result()["completion_tokens"] == 1000
        assert second.result()["completion_tokens"] == 4
        assert second.result()["program"]["waited_ms"] > 0
        server.wait_until_idle()
    assert (held, running) == (1, 1)
    replayed = replay_file(trace)
    assert replayed["identical"], replayed["differences"]


@pytest.mark.parametrize("pool", [2048, 700])
def test_every_program_finishes_whatever_the_pool_holds(
    pool: int, tiny_model: Path, tmp_path: Path
) -> None:
    """40 programs of up to 700 tokens, where three fit and where one barely does; no wedge.

    The decision trace, played into a fresh core, lets the same programs in and out.
    """
    trace = tmp_path / "trace"
    flags = [*tiny_flags(tiny_model, slots=4, tokens=pool), *VALUE, *ADMISSION]
    flags += ["--program-first-quantum-ms", "20", "--program-trace", str(trace)]
    with running_server(tmp_path, flags, cost=COST) as server:
        check_complete(storm(server))
        server.wait_until_idle()
    replayed = replay_file(trace)
    assert replayed["identical"], replayed["differences"]
