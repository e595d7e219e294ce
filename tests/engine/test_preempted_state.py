"""A call that is taken out of the batch, again and again, answers as it does alone.

For each kind of state that SGLang keeps for a request: a long call runs alone, and then with short
calls of new programs pushing in. docs/design.md has the table that these rows are named in.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.harness import Server, generation, running_server, tiny_flags
from tests.engine.pressure import Answer, alone, disturbed, pressed
from tests.engine.test_storm import QUANTA

pytestmark = pytest.mark.engine

LONG = 96
EOS = 2
PACE_S = 0.003

# A request may ask for these only if the server was started so.
OPTIONS = ["--enable-custom-logit-processor", "--enable-return-hidden-states"]
SERVERS = {
    # One slot: each short call takes the long one out.
    "no-overlap": (1, ["--disable-overlap-schedule"]),
    # Two: some run beside it, so that their prefills come between its steps, or ride along.
    "overlap": (2, ["--chunked-prefill-size", "64", "--enable-mixed-chunk"]),
}

SAMPLING: dict[str, dict[str, Any]] = {
    "frequency_penalty": {"frequency_penalty": 1.5},
    "presence_penalty": {"presence_penalty": 1.1},
    "repetition_penalty": {"repetition_penalty": 1.3},
    "all_penalties": {
        "frequency_penalty": 0.3,
        "presence_penalty": 0.2,
        "repetition_penalty": 1.2,
    },
    # The end of the text is by far the likeliest token, and forbidden until then.
    "min_new_tokens": {
        "min_new_tokens": LONG - 10,
        "logit_bias": {str(EOS): 100.0},
        "ignore_eos": False,
    },
    "logit_bias": {"logit_bias": {"7": 0.5, "19": 0.5}, "frequency_penalty": 0.05},
    "top_k": {"temperature": 1.0, "top_k": 1, "top_p": 0.5, "min_p": 0.1},
    "regex": {"regex": "([a-z]{3} ){60}"},
    "ebnf": {"ebnf": 'root ::= ("yes" | "no") root'},
    "json_schema": {
        "json_schema": json.dumps(
            {"type": "array", "items": {"type": "boolean"}, "minItems": 40, "maxItems": 40}
        )
    },
    "structural_tag": {
        "structural_tag": json.dumps(
            {
                "type": "structural_tag",
                "format": {
                    "type": "tag",
                    "begin": "<list>",
                    "content": {
                        "type": "json_schema",
                        "json_schema": {
                            "type": "array",
                            "items": {"type": "integer"},
                            "minItems": 40,
                        },
                    },
                    "end": "</list>",
                },
            }
        )
    },
}


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    slots, flags = SERVERS[request.param]
    flags = [*tiny_flags(tiny_model, slots=slots), *QUANTA, *OPTIONS, *flags]
    with running_server(tmp_path_factory.mktemp("state"), flags) as running:
        # The client has to keep up with the tokens to push in between them.
        running.post("/slow_down", {"forward_sleep_time": PACE_S}).raise_for_status()
        yield running
        state = running.wait_until_idle()
        assert state["remembered"] == 0


def prompt_of(seed: str, tokens: int = 40) -> list[int]:
    """A prompt of its own for each test."""
    rng = random.Random(seed)
    return [rng.randrange(100, 40000) for _ in range(tokens)]


def body_of(seed: str, sampling: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "input_ids": prompt_of(seed),
        "sampling_params": {**generation(LONG), **sampling},
        **more,
    }


def check_the_same(under_pressure: Answer, undisturbed: Answer, *, preempted: bool = True) -> None:
    """Same tokens, text and end; the stream only grew; it was taken out, or it never was."""
    print(f"{under_pressure.preemptions} preemptions, {len(under_pressure.tokens)} tokens")
    assert under_pressure.tokens == undisturbed.tokens
    assert under_pressure.text == undisturbed.text
    assert under_pressure.meta["finish_reason"] == undisturbed.meta["finish_reason"]
    for earlier, later in zip(under_pressure.texts, under_pressure.texts[1:], strict=False):
        assert later.startswith(earlier)
    assert under_pressure.texts[-1] == under_pressure.text
    assert undisturbed.preemptions == 0
    assert (under_pressure.preemptions > 0) == preempted


@pytest.mark.parametrize("kind", SAMPLING)
def test_sampling_state_survives(server: Server, kind: str) -> None:
    """Penalties, minimum length, biases, truncation and grammars are where they were."""
    body = body_of(kind, SAMPLING[kind])
    check_the_same(pressed(server, body), alone(server, body))


def test_penalties_do_not_depend_on_who_else_is_served(server: Server) -> None:
    """The short calls have penalties, too: rows are added to the batch and leave it."""
    sampling = {"frequency_penalty": 0.7, "repetition_penalty": 1.1}
    body = body_of("neighbours", sampling)
    check_the_same(pressed(server, body, short={"presence_penalty": 2.0}), alone(server, body))


def test_a_minimum_of_new_tokens_is_met_once(server: Server) -> None:
    """It is not counted anew: the answer ends with the first token that may end it."""
    body = body_of("minimum", SAMPLING["min_new_tokens"])
    answer = pressed(server, body)
    assert answer.meta["finish_reason"]["type"] == "stop"
    assert len(answer.tokens) == LONG - 10 + 1


@pytest.mark.parametrize("kind", ["stop", "stop_regex", "stop_token_ids"])
def test_stop_conditions_survive(server: Server, kind: str) -> None:
    """What is looked for in the text, or among the tokens, is found where it was found before."""
    varied = {"frequency_penalty": 1.5}  # no token comes twice
    free = alone(server, body_of(kind, varied))
    place = LONG - 12
    word = free.text[len(free.text) * place // LONG :][:6]
    stop: dict[str, Any] = {
        "stop": {"stop": word},
        "stop_regex": {"stop_regex": re.escape(word)},
        "stop_token_ids": {"stop_token_ids": [free.tokens[place]], "ignore_eos": False},
    }[kind]
    body = body_of(kind, {**varied, **stop})
    answer = pressed(server, body)
    check_the_same(answer, alone(server, body))
    assert EOS not in answer.tokens
    assert answer.meta["finish_reason"]["type"] == "stop"
    assert LONG // 2 < len(answer.tokens) < LONG


def test_logprobs_of_the_output_survive(server: Server) -> None:
    """Of each token once, in order, with the likeliest and with those that were asked for."""
    body = body_of(
        "logprobs",
        {"frequency_penalty": 0.5},
        return_logprob=True,
        top_logprobs_num=3,
        token_ids_logprob=[5, 11],
    )
    answer, expected = pressed(server, body), alone(server, body)
    check_the_same(answer, expected)
    for name in ("output_token_logprobs", "output_top_logprobs", "output_token_ids_logprobs"):
        found, wanted = (flat(a.meta[name]) for a in (answer, expected))
        assert [token for _, token in found] == [token for _, token in wanted]
        assert [value for value, _ in found] == pytest.approx(
            [value for value, _ in wanted], abs=1e-4
        )


def flat(entries: list[Any]) -> list[tuple[float, int]]:
    """The (log-probability, token) pairs of a possibly nested list."""
    pairs: list[tuple[float, int]] = []
    for entry in entries:
        pairs += flat(entry) if isinstance(entry[0], list) else [(entry[0], entry[1])]
    return pairs


DISALLOWED = 29768
# What SGLang's DisallowedTokensLogitsProcessor.to_str() says, a reference to the class, without the
# seconds that importing it takes.
PROCESSOR = json.dumps(
    {
        "callable": b"csglang.srt.sampling.custom_logit_processor\n"
        b"DisallowedTokensLogitsProcessor\n.".hex()
    }
)

NOT_PREEMPTED: dict[str, dict[str, Any]] = {
    "prompt_logprobs": {"return_logprob": True, "logprob_start_len": 0},
    "hidden_states": {"return_hidden_states": True},
    "sampling_mask": {"return_sampling_mask": True},
}


@pytest.mark.parametrize("kind", NOT_PREEMPTED)
def test_what_a_second_prefill_would_compute_twice_is_not_preempted(
    server: Server, kind: str
) -> None:
    """It runs to its end, and then the short calls do."""
    body = body_of(kind, {"top_k": 1}, **NOT_PREEMPTED[kind])
    check_the_same(pressed(server, body, attempts=1), alone(server, body), preempted=False)


def test_a_custom_logit_processor_is_not_preempted(server: Server) -> None:
    """Nobody knows what it remembers."""
    body = body_of(
        "processor",
        {"custom_params": {"token_ids": [DISALLOWED]}},
        custom_logit_processor=PROCESSOR,
    )
    check_the_same(pressed(server, body, attempts=1), alone(server, body), preempted=False)


def test_parallel_samples_survive(server: Server) -> None:
    """Each of n is a request of its own, and one pushes the other out."""
    sampling = {"frequency_penalty": 0.9}
    answers = server.generate(body_of("parallel", {"n": 2, **sampling}))
    one = alone(server, body_of("parallel", sampling))
    assert [answer["output_ids"] for answer in answers] == [one.tokens] * 2


def test_a_session_goes_on(server: Server) -> None:
    """The second call of a session, preempted, continues the first."""
    opened = server.post("/open_session", {"capacity_of_str_len": 4096}).json()
    first = {"session_params": {"id": opened, "rid": None}}
    begun = alone(server, body_of("session", {}, **first))
    more = prompt_of("more", 10)
    body = {
        **body_of("session", {"frequency_penalty": 0.4}),
        "input_ids": more,
        "session_params": {"id": opened, "rid": begun.meta["id"]},
    }
    answer = pressed(server, body)
    whole = {**body, "input_ids": prompt_of("session") + begun.tokens + more}
    del whole["session_params"]
    check_the_same(answer, alone(server, whole))


def test_pausing_the_engine_takes_nothing_from_a_call(server: Server) -> None:
    """SGLang's own retraction, of every call: the same way back, the same answer."""
    body = body_of("pause", SAMPLING["all_penalties"])

    async def pause(client: httpx.AsyncClient) -> None:
        for path, message in (
            ("pause_generation", {"mode": "retract"}),
            ("continue_generation", {}),
        ):
            response = await client.post(f"{server.url}/{path}", json=message)
            response.raise_for_status()

    answer = disturbed(server, body, pause)
    check_the_same(answer, alone(server, body))
    assert answer.meta["num_retractions"] > 0
