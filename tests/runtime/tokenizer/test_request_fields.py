"""Fields that cannot be right are refused by name; what SGLang serves passes."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from autellix_sgl.runtime.tokenizer.request_fields import (
    SAMPLING,
    check_overrides,
    check_rid,
    check_sampling,
    check_session,
    check_single,
    check_stop_ids,
    check_top_logprobs,
)

KNOWN = {*SAMPLING, "ignore_eos", "is_normalized"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 1.5),
        ("max_new_tokens", 2.0),
        ("max_new_tokens", "many"),
        ("min_new_tokens", "x"),
        ("n", "x"),
        ("n", 2.0),
        ("top_k", "x"),
        ("top_k", 2**31),
        ("beam_width", 3.0),
        ("stream_interval", "x"),
        ("skip_special_tokens", "x"),
        ("spaces_between_special_tokens", 1),
        ("is_normalized", True),
        ("temperature", "x"),
        ("top_p", [1]),
        ("stop", 5),
        ("stop", [1]),
        ("stop_regex", "("),
        ("stop_regex", ["a", 5]),
        ("stop_token_ids", 5),
        ("stop_token_ids", [[1]]),
        ("logit_bias", [1]),
        ("logit_bias", {"1": "x"}),
        ("logit_bias", {"1": None}),
        ("logit_bias", {"1": math.nan}),
        ("logit_bias", {"1": math.inf}),
        ("regex", 5),
        ("unknown", 1),
        ("x", None),
    ],
)
def test_a_parameter_that_cannot_be_one_is_refused_by_name(name: str, value: Any) -> None:
    """Of one prompt, and of the later one of two."""
    for parameters in ({name: value}, [{}, {"temperature": 0, name: value}]):
        with pytest.raises(ValueError, match=rf"^sampling_params\.{name}: "):
            check_sampling(parameters, KNOWN)


@pytest.mark.parametrize("parameters", [[], "x", 5, [None], [{}, 5]])
def test_what_holds_no_parameters_is_refused(parameters: Any) -> None:
    """A ValueError, which SGLang answers with HTTP 400."""
    with pytest.raises(ValueError, match=r"^sampling_params: "):
        check_sampling(parameters, KNOWN)


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {},
        [{}],
        dict.fromkeys(SAMPLING),
        {"max_new_tokens": 4, "temperature": 0, "top_p": 1, "n": True, "ignore_eos": 1},
        {"stream_interval": 0, "n": 1.0, "top_k": 50.0},
        {"stop": "a", "stop_regex": ["a"], "stop_token_ids": [1], "logit_bias": {"1": 1}},
        {"logit_bias": {"1": -math.inf, "2": 0.5}},
        {"stop": ("a",), "stop_token_ids": {1}},
    ],
)
def test_what_sglang_serves_passes(parameters: Any) -> None:
    """Null is the default, and an integer is a number."""
    check_sampling(parameters, KNOWN)


@pytest.mark.parametrize(
    ("name", "value"),
    [("id", []), ("rid", 5), ("offset", "x"), ("offset", 1.5), ("replace", "x"), ("x", 1)],
)
def test_a_session_parameter_that_cannot_be_one_is_refused_by_name(name: str, value: Any) -> None:
    """A list as an id would be looked up by a scheduler."""
    with pytest.raises(ValueError, match=rf"^session_params\.{name}: "):
        check_session({"id": "s", name: value})


@pytest.mark.parametrize("parameters", [None, {}, {"id": "s", "rid": None, "offset": -1}])
def test_what_names_a_session_passes(parameters: Any) -> None:
    """Null is as good as nothing."""
    check_session(parameters)


@pytest.mark.parametrize("count", [-1, 11])
def test_no_more_tokens_are_listed_than_there_are(count: int) -> None:
    """All of them can be."""
    check_top_logprobs(None, 10)
    check_top_logprobs(10, 10)
    with pytest.raises(ValueError, match=r"^top_logprobs_num: "):
        check_top_logprobs(count, 10)


@pytest.mark.parametrize("overrides", [5, {"embeds": [], "positions": []}, [None, 5]])
def test_embeddings_come_in_python_only(overrides: Any) -> None:
    """What a body has in their place would be taken apart by a scheduler."""
    with pytest.raises(ValueError, match=r"^positional_embed_overrides: "):
        check_overrides(overrides, bytes)
    for given in (None, b"", [None, b""]):
        check_overrides(given, bytes)


def test_one_prompt_has_one_of_each() -> None:
    """A list of one too, which a scheduler would compare with a number."""
    check_single(SimpleNamespace(rid="a", logprob_start_len=0, return_logprob=True))
    with pytest.raises(ValueError, match=r"^logprob_start_len: "):
        check_single(SimpleNamespace(rid="a", logprob_start_len=[0]))


@pytest.mark.parametrize("token", [10, -1, 2**70])
def test_only_a_token_that_is_held_back_has_to_be_one(token: int) -> None:
    """The others never come, which harms nobody."""
    check_stop_ids({"stop_token_ids": [token]}, 10)
    check_stop_ids({"stop_token_ids": [9, None, "0"], "min_new_tokens": 2}, 10)
    check_stop_ids({"stop_token_ids": None, "min_new_tokens": 2}, 10)
    with pytest.raises(ValueError, match=r"^sampling_params\.stop_token_ids: "):
        check_stop_ids({"stop_token_ids": [1, token], "min_new_tokens": 2}, 10)


@pytest.mark.parametrize("rid", ["HEALTH_CHECK", "HEALTH_CHECK_1", ["a", "HEALTH_CHECK_2"]])
def test_an_id_of_the_servers_own_health_checks_is_refused(rid: object) -> None:
    with pytest.raises(ValueError, match=r"^rid: may not begin with HEALTH_CHECK"):
        check_rid(rid, "HEALTH_CHECK")


@pytest.mark.parametrize("rid", [None, "a", "a-HEALTH_CHECK", ["a", None]])
def test_other_ids_are_taken(rid: object) -> None:
    check_rid(rid, "HEALTH_CHECK")
