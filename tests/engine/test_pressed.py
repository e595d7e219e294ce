"""Calls that SGLang itself takes out: retracted for want of memory, or held to a time limit."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.engine.harness import generation, running_server, tiny_flags
from tests.engine.test_leaving import Stream, body
from tests.engine.test_storm import QUANTA

pytestmark = pytest.mark.engine

TIME_LIMIT_S = 10


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
    # Of what would not stop by itself all is set aside, and nothing has to be retracted.
    sampling = generation(300, ignore_eos=False, min_new_tokens=300)
    asked = {"return_logprob": True, "logprob_start_len": 0, "sampling_params": sampling}
    with running_server(tmp_path, flags) as server:
        streams = []
        for number in range(4):
            streams.append(Stream(server, body(f"a {number}", 300, **asked)))
            assert streams[-1].begun.wait(60)
        late = server.post("/generate", body("late", 300, **asked))
        assert late.status_code in (200, 503)
        ends = [stream.last["meta_info"] for stream in streams]
        assert [end["completion_tokens"] for end in ends] == [300] * 4
        assert sum(end["num_retractions"] for end in ends) > 0
        state = server.wait_until_idle()
        assert state["remembered"] == 0
        assert state["counters"]["accounting_faults"] == 0


def test_a_preempted_call_is_not_out_of_time_when_it_comes_back(
    tiny_model: Path, tmp_path: Path
) -> None:
    """SGLang's limit on running time does not count the time a call was out of the batch.

    A pause takes it out and puts it back into the queue, for longer than the limit.
    """
    env = {"SGLANG_REQ_RUNNING_TIMEOUT": str(TIME_LIMIT_S)}
    with running_server(tmp_path, [*tiny_flags(tiny_model, slots=1), *QUANTA], env=env) as server:
        long = Stream(server, body("long", 400))
        assert long.begun.wait(60)
        server.post("/pause_generation", {"mode": "retract"})
        time.sleep(TIME_LIMIT_S + 1)  # it is time itself that has to pass
        server.post("/continue_generation", {})
        meta = long.last["meta_info"]
        assert meta["program"]["preemptions"] > 0
        assert meta["finish_reason"]["type"] == "length"
        assert meta["completion_tokens"] == 400
