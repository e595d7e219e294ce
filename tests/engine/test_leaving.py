"""Calls that are refused, aborted, paused or named again: each ends once, and nobody else does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.harness import Server, generation, running_server, tiny_flags
from tests.engine.test_storm import QUANTA

pytestmark = pytest.mark.engine

SLOTS = 2
LIMIT = 2


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two slots, at most two calls in the queue, quanta of three steps."""
    flags = [
        *tiny_flags(tiny_model, slots=SLOTS),
        *QUANTA,
        "--max-queued-requests",
        str(LIMIT),
        "--grammar-backend",
        "xgrammar",
    ]
    with running_server(tmp_path_factory.mktemp("leaving"), flags) as running:
        yield running


@pytest.fixture
def clean(server: Server) -> Iterator[Server]:
    """The server, of which nothing is remembered before and after the test."""
    yield server
    state = server.wait_until_idle()
    server.wait_until("that nothing is remembered", lambda: server.state()["remembered"] == 0)
    assert state["counters"]["accounting_faults"] == 0
    statistics = server.get("/v1/programs").json()["statistics"]
    assert statistics["active_calls"] == 0


class Stream:
    """One streamed /generate in a thread; ``begun`` once its first output is there."""

    def __init__(self, server: Server, body: dict[str, Any]) -> None:
        self.begun = threading.Event()
        self.chunks: list[dict[str, Any]] = []
        self.status = 0
        self._thread = threading.Thread(target=self._read, args=(server, body), daemon=True)
        self._thread.start()

    def _read(self, server: Server, body: dict[str, Any]) -> None:
        url = f"{server.url}/generate"
        with httpx.stream("POST", url, json={**body, "stream": True}, timeout=120) as response:
            self.status = response.status_code
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    self.chunks.append(json.loads(line.removeprefix("data: ")))
                    self.begun.set()
        self.begun.set()

    @property
    def last(self) -> dict[str, Any]:
        self._thread.join(120)
        assert not self._thread.is_alive(), "the stream did not end"
        return self.chunks[-1]


def body(text: str, tokens: int, **more: Any) -> dict[str, Any]:
    return {"text": text, "sampling_params": generation(tokens), **more}


def filled(server: Server, bodies: list[dict[str, Any]]) -> list[Stream]:
    """As many streams as there is room for: the first run before the others come to wait.

    Calls that arrive together would find each other in the queue, and be refused.
    """
    streams = [Stream(server, one) for one in bodies[:SLOTS]]
    for stream in streams:
        assert stream.begun.wait(60)
    streams += [Stream(server, one) for one in bodies[SLOTS:]]
    server.wait_until(f"{len(bodies)} calls", lambda: _calls_here(server) == len(bodies))
    return streams


def all_at_once(server: Server, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda one: server.post("/generate", one), bodies))


def test_a_call_that_has_run_is_not_refused_when_it_comes_back(clean: Server) -> None:
    """A pause retracts two calls into a queue that is full of others; all four end in full."""
    bodies = [body(f"r {i}", 500, program={"id": f"r{i}"}) for i in range(SLOTS + LIMIT)]
    streams = filled(clean, bodies)
    assert clean.post("/pause_generation", {"mode": "retract"}).status_code == 200
    assert clean.post("/continue_generation", {}).status_code == 200
    for stream in streams:
        assert stream.last["meta_info"]["finish_reason"]["type"] == "length"
        assert stream.last["meta_info"]["completion_tokens"] == 500


def _calls_here(server: Server) -> int:
    state = server.state()
    return int(state["waiting"] + state["running"])


@pytest.mark.parametrize("how", ["in_place", "retract", "abort"])
def test_every_pause_ends_with_all_calls_accounted_for(clean: Server, how: str) -> None:
    """Paused and continued twice, calls end in full, or with what they have where it aborts."""
    tokens = 3000 if how == "abort" else 300
    streams = filled(clean, [body(f"p {i}", tokens) for i in range(SLOTS + LIMIT)])
    for _ in range(2):
        assert clean.post("/pause_generation", {"mode": how}).status_code == 200
        assert clean.post("/continue_generation", {}).status_code == 200
    reasons = [stream.last["meta_info"]["finish_reason"]["type"] for stream in streams]
    lengths = [stream.last["meta_info"]["completion_tokens"] for stream in streams]
    if how == "abort":
        assert "abort" in reasons
    else:
        assert reasons == ["length"] * 4
        assert lengths == [300] * 4


def test_the_queue_limit_holds_for_calls_with_a_grammar(clean: Server) -> None:
    """Of a dozen calls whose grammars are compiled first, as many are refused as of plain ones."""
    bodies = [
        {
            "text": f"g {i}",
            "sampling_params": {
                "max_new_tokens": 200,
                "temperature": 0,
                "regex": f"(a|b|{i}){{400}}",
            },
        }
        for i in range(12)
    ]
    codes = [answer.status_code for answer in all_at_once(clean, bodies)]
    assert set(codes) == {200, 503}
    assert codes.count(200) <= SLOTS + LIMIT + 2


def test_a_full_queue_refuses_the_worst_that_has_not_run(clean: Server) -> None:
    """A newcomer takes the place of a waiting call of a program that has had much more.

    Log-probabilities of their prompts keep those that run in their slots meanwhile.
    """
    held = {"return_logprob": True, "logprob_start_len": 0}
    clean.generate(body("w", 100, program={"id": "old"}))
    running = [Stream(clean, body(f"held {i}", 1500, **held)) for i in range(SLOTS)]
    for stream in running:
        assert stream.begun.wait(60)
    with ThreadPoolExecutor(LIMIT + 1) as pool:
        waiting = [
            pool.submit(
                clean.post, "/generate", body(f"o {i}", 4, program={"id": "old", "thread": f"{i}"})
            )
            for i in range(LIMIT)
        ]
        clean.wait_until("a full queue", lambda: clean.state()["waiting"] == LIMIT)
        newcomer = pool.submit(clean.post, "/generate", body("n", 4, program={"id": "new"}))
        assert newcomer.result().status_code == 200
        codes = sorted(call.result().status_code for call in waiting)
    assert codes == [200, 503]
    for stream in running:
        assert stream.last["meta_info"]["completion_tokens"] == 1500


def test_a_request_id_can_be_used_again_at_once(clean: Server) -> None:
    """Forty calls one after another with the same id, each sent when the last was answered."""
    for number in range(40):
        answer = clean.generate(body(f"again {number}", 1 + number % 4, rid="same"))
        assert answer["meta_info"]["completion_tokens"] == 1 + number % 4


def test_an_abort_ends_the_calls_of_that_program_only(clean: Server) -> None:
    """Programs and ids that begin with the aborted one's go on to their end."""
    names = ["kob1", "kob10", "kob11", "kob"]
    bodies = [body(f"k {name}", 400, rid=name, program={"id": name}) for name in names]
    streams = dict(zip(names, filled(clean, bodies), strict=True))
    aborted = clean.post("/v1/programs/kob1/abort", {}).json()
    ends = {name: stream.last["meta_info"] for name, stream in streams.items()}
    assert "kob1" in json.dumps(aborted)
    assert ends["kob1"]["finish_reason"]["type"] == "abort"
    for name in ("kob10", "kob11", "kob"):
        assert ends[name]["finish_reason"]["type"] == "length"
        assert ends[name]["completion_tokens"] == 400


def test_a_client_that_goes_away_takes_only_its_own_call_along(clean: Server) -> None:
    """It chose its id, and another call's id begins with it."""
    other = Stream(clean, body("other", 300, rid="gone-too"))
    assert other.begun.wait(60)
    with httpx.stream(
        "POST",
        f"{clean.url}/generate",
        json={**body("gone", 400, rid="gone"), "stream": True},
        timeout=60,
    ) as response:
        next(response.iter_lines())
    clean.wait_until("the end of the call", lambda: _calls_here(clean) <= 1)
    assert other.last["meta_info"]["completion_tokens"] == 300


def test_a_waiting_call_that_has_run_is_aborted_with_what_it_has(clean: Server) -> None:
    """Its last answer has all its tokens, its usage and the abort, and it is charged for them."""
    long = Stream(clean, body("long", 2000, rid="long", program={"id": "long"}))
    assert long.begun.wait(60)
    fresh = [Stream(clean, body(f"f {i}", 600, program={"id": f"fr{i}"})) for i in range(SLOTS)]

    def waits() -> bool:
        calls = clean.get("/v1/programs/long/explain").json()["active_calls"]
        return bool(calls) and any(call["state"] == "waiting" for call in calls)

    clean.wait_until("that the long call waits", waits)
    clean.post("/abort_request", {"rid": "long"})
    last = long.last
    meta = last["meta_info"]
    assert meta["finish_reason"]["type"] == "abort"
    assert meta["prompt_tokens"] > 0
    assert meta["completion_tokens"] == len(last["output_ids"]) > 0
    assert meta["program"]["service_ms"] >= meta["completion_tokens"]
    assert clean.programs()["long"]["total_service_ms"] == meta["program"]["service_ms"]
    for stream in fresh:
        assert stream.last["meta_info"]["completion_tokens"] == 600


def test_an_aborted_message_is_not_a_whole_one(clean: Server) -> None:
    """Anthropic's API says of it that it was cut off, with the usage until then."""
    message = {
        "model": "default",
        "max_tokens": 2000,
        "messages": [{"role": "user", "content": "hi"}],
        "ignore_eos": True,
        "metadata": {"user_id": "cut"},
    }
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            clean.post, "/v1/messages", message, headers={"x-program-id": "message"}
        )
        clean.wait_until("the call", lambda: _calls_here(clean) == 1)
        clean.wait_until("its first tokens", lambda: clean.state()["calls_per_level"][0] == 0)
        clean.post("/v1/programs/message/abort", {})
        answer = asked.result().json()
    assert answer["stop_reason"] == "max_tokens", answer
    assert 0 < answer["usage"]["output_tokens"] < 2000


def test_abort_all_ends_what_runs_and_what_waits(clean: Server) -> None:
    """Running calls, waiting ones and those that are preempted, with one message."""
    streams = filled(clean, [body(f"all {i}", 1500) for i in range(SLOTS + LIMIT)])
    clean.post("/abort_request", {"abort_all": True})
    for stream in streams:
        assert stream.last["meta_info"]["finish_reason"]["type"] == "abort"
