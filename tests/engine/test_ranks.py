"""Two tensor-parallel ranks, each with a scheduler of its own, decide alike."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tests.engine.harness import Server, running_server, tiny_flags
from tests.engine.storm import CALLS, storm
from tests.engine.test_storm import MODES, QUANTA, check_complete

pytestmark = pytest.mark.engine

ALL_CALLS = 2000
LENGTHS = (2, 4, 8, 20)


def digests(server: Server) -> tuple[str, str]:
    """Each rank's hash of all it has decided."""
    first, second = server.state()["digests"]
    return first, second


def test_ranks_never_diverge_under_preemption(tiny_model: Path, tmp_path: Path) -> None:
    """2,000 calls over 32 slots, looked at meanwhile: both ranks ran the same steps for the same
    calls, took out the same victims, and read the same modelled clock.
    """
    flags, env = MODES["tp-2"]
    with (
        running_server(
            tmp_path, [*tiny_flags(tiny_model, slots=32), *QUANTA, *flags], env=env
        ) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(storm, server, programs=ALL_CALLS // CALLS, lengths=LENGTHS)
        seen = []
        while wait([running], timeout=0.5).not_done:
            seen.append(digests(server))
        outcomes = running.result()
        state = server.wait_until_idle()
    check_complete(outcomes)
    assert len(outcomes) == ALL_CALLS
    assert all(first == second for first, second in [*seen, tuple(state["digests"])])
    preemptions = state["counters"]["preemptions"]
    print(f"{preemptions:.0f} preemptions, ranks compared {len(seen)} times")
    assert preemptions > ALL_CALLS / 4
    assert len(set(seen)) > 10
