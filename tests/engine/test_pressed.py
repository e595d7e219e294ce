"""Calls that SGLang itself takes out: retracted for want of memory, or held to a time limit."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.engine.harness import generation, running_server, tiny_flags
from tests.engine.test_leaving import Stream, body
from tests.engine.test_storm import QUANTA

pytestmark = pytest.mark.engine

TIME_LIMIT_S = 6


def test_a_retracted_call_comes_back_into_a_full_queue(tiny_model: Path, tmp_path: Path) -> None:
    """Log-probabilities of prompts keep four calls from being preempted; memory retracts them.

    One more waits in a queue for one, and whoever is refused it is none of those that ran.
    """
    flags = [
        *tiny_flags(tiny_model, slots=4, tokens=700),
        *QUANTA,
        "--max-queued-requests",
        "1",
        "--schedule-conservativeness",
        "0.05",
    ]
    asked = {"sampling_params": generation(300), "return_logprob": True, "logprob_start_len": 0}
    with running_server(tmp_path, flags) as server, ThreadPoolExecutor(5) as pool:
        first = Stream(server, {"text": "a 0", **asked})
        assert first.begun.wait(60)
        others = [pool.submit(server.post, "/generate", {"text": "a 1", **asked})]
        for number in (2, 3):
            running = number
            server.wait_until("room", lambda running=running: server.state()["running"] == running)
            others.append(pool.submit(server.post, "/generate", {"text": f"a {number}", **asked}))
        server.wait_until("four calls", lambda: server.state()["running"] == 4)
        late = pool.submit(server.post, "/generate", {"text": "late", **asked})
        answers = [other.result() for other in others]
        assert late.result().status_code in (200, 503)
        assert [answer.status_code for answer in answers] == [200] * 3
        assert [answer.json()["meta_info"]["completion_tokens"] for answer in answers] == [300] * 3
        assert first.last["meta_info"]["completion_tokens"] == 300
        state = server.wait_until_idle()
        assert state["remembered"] == 0
        assert state["counters"]["accounting_faults"] == 0


def test_a_preempted_call_is_not_out_of_time_when_it_comes_back(
    tiny_model: Path, tmp_path: Path
) -> None:
    """SGLang's limit on running time does not count the time a call was out of the batch.

    Fresh programs keep the one slot until the call has been away for longer than the limit.
    """
    env = {"SGLANG_REQ_RUNNING_TIMEOUT": str(TIME_LIMIT_S)}
    with running_server(tmp_path, [*tiny_flags(tiny_model, slots=1), *QUANTA], env=env) as server:
        long = Stream(server, body("long", 60, program={"id": "long"}))
        assert long.begun.wait(60)
        until = time.monotonic() + TIME_LIMIT_S + 1
        numbers = iter(range(100_000))

        def press() -> None:
            while time.monotonic() < until:
                server.generate(body(f"fresh {next(numbers)}", 3))

        with ThreadPoolExecutor(4) as pool:
            for pressing in [pool.submit(press) for _ in range(4)]:
                pressing.result()
        meta = long.last["meta_info"]
        assert meta["finish_reason"]["type"] == "length"
        assert meta["completion_tokens"] == 60
        assert meta["program"]["preemptions"] > 0
