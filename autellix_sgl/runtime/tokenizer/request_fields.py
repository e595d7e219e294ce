"""Fields of a request that SGLang takes as they come: refused by name if they cannot be right.

What a body has at its top is checked against SGLang's types before it comes here. What is inside of
``sampling_params`` and ``session_params`` is not, nor is a count against the vocabulary. Some of it
is found wanting only by a scheduler in the middle of a step, such as a length of one and a half
tokens, which ends the server with every call on it; some by the main process, which answers 500.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Mapping
from typing import Any

# A list in JSON; SGLang's Engine takes the others as well.
COLLECTIONS = (list, tuple, set, frozenset)


def _is_whole(value: object) -> bool:
    return isinstance(value, int)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return _is_text(value) or (isinstance(value, COLLECTIONS) and all(map(_is_text, value)))


def _are_patterns(value: object) -> bool:
    if not _is_texts(value):
        return False
    try:
        for pattern in [value] if isinstance(value, str) else value:  # type: ignore[attr-defined]
            re.compile(pattern)
    except re.error:
        return False
    return True


def _is_bias(value: object) -> bool:
    # What is taken from a token without end bars it; what is added without end is no number later.
    return isinstance(value, Mapping) and all(
        isinstance(bias, int | float) and bias < math.inf for bias in value.values()
    )


def _are_ids(value: object) -> bool:
    return isinstance(value, COLLECTIONS) and all(
        token is None or isinstance(token, int | float | str) for token in value
    )


# What a parameter has to be, if it is given and not null: what SGLang can serve, which is more than
# its annotations say. Its other switches are left to their truth.
KINDS: tuple[tuple[str, Callable[[object], bool], tuple[str, ...]], ...] = (
    ("a whole number", _is_whole, ("max_new_tokens", "beam_width")),
    ("a whole number", lambda value: _is_whole(value) or value == 1, ("n",)),
    # The detokenizer hands these on as they are.
    ("true or false", _is_flag, ("skip_special_tokens", "spaces_between_special_tokens")),
    (
        "a number",
        lambda value: isinstance(value, int | float),
        (
            "min_new_tokens",
            "stream_interval",
            "temperature",
            "top_p",
            "min_p",
            "frequency_penalty",
            "presence_penalty",
            "repetition_penalty",
        ),
    ),
    (
        "a number below 2**31",
        lambda value: isinstance(value, int | float) and value < 2**31,
        ("top_k",),
    ),
    ("a string", _is_text, ("json_schema", "regex", "ebnf", "structural_tag")),
    ("a string or a list of strings", _is_texts, ("stop",)),
    ("a regular expression or a list of them", _are_patterns, ("stop_regex",)),
    ("a list of token ids", _are_ids, ("stop_token_ids",)),
    ("an object of token ids and finite numbers", _is_bias, ("logit_bias",)),
    ("an object", lambda value: isinstance(value, Mapping), ("custom_params",)),
)
SAMPLING = {name: (kind, check) for kind, check, names in KINDS for name in names}
# SGLang's own notes among the parameters. Said to be normalised, they would be taken as they are.
INTERNAL = frozenset(
    {
        "is_normalized",
        "stop_strs",
        "stop_str_max_len",
        "stop_regex_strs",
        "stop_regex_max_len",
    }
)
# A list of prompts may have a list of these.
PER_PROMPT = (
    "rid",
    "return_logprob",
    "logprob_start_len",
    "top_logprobs_num",
    "return_sampling_mask",
    "sampling_logprobs_mode",
    "return_hidden_states",
    "custom_logit_processor",
    "lora_path",
)
SESSION = {
    "id": ("a string", _is_text),
    "rid": ("a string", _is_text),
    "offset": ("a whole number", _is_whole),
    "replace": ("true or false", _is_flag),
    "drop_previous_output": ("true or false", _is_flag),
}


def check_sampling(parameters: object, known: Container[str]) -> None:
    """Raise ValueError for the first parameter, of one prompt or several, that cannot be one.

    *known* are the names that there are.
    """
    if parameters is None:
        return
    each = parameters if isinstance(parameters, list) else [parameters]
    if not each:
        raise ValueError("sampling_params: is an empty list")
    for fields in each:
        _check("sampling_params", fields, SAMPLING, known)


def check_session(parameters: object) -> None:
    """Raise ValueError for the first of ``session_params`` that cannot be one."""
    if parameters is not None:
        _check("session_params", parameters, SESSION, SESSION)


def check_rid(rid: object, reserved: str) -> None:
    """Raise ValueError if an id, or one of a list, begins as the server's health checks' do.

    SGLang passes over outputs and aborts of such requests, and they are nobody's calls.
    """
    for each in rid if isinstance(rid, list) else [rid]:
        if isinstance(each, str) and each.startswith(reserved):
            raise ValueError(f"rid: may not begin with {reserved}, got {each!r:.80}")


def check_single(request: object) -> None:
    """Raise ValueError if *request*, of one prompt, has a list where several have one each."""
    for name in PER_PROMPT:
        if isinstance(getattr(request, name, None), list):
            raise ValueError(f"{name}: a list is for a list of prompts")


def check_overrides(overrides: object, kind: type) -> None:
    """Raise ValueError unless the ``positional_embed_overrides`` are of the *kind* that SGLang has.

    It is made in Python, by callers of the Engine; no JSON is one.
    """
    each = overrides if isinstance(overrides, list) else [overrides]
    if not all(override is None or isinstance(override, kind) for override in each):
        raise ValueError("positional_embed_overrides: cannot be given in JSON")


def check_stop_ids(parameters: Mapping[str, Any], size: int) -> None:
    """Raise ValueError if a token that is held back at first is not in a vocabulary of *size*.

    Without ``min_new_tokens`` nothing is held back, and such a token just never comes.
    """
    if not parameters.get("min_new_tokens"):
        return
    for token in parameters.get("stop_token_ids") or ():
        if token is not None and not 0 <= int(token) < size:
            raise ValueError(f"sampling_params.stop_token_ids: {token} is not 0 to {size - 1}")


def check_top_logprobs(count: int | None, size: int) -> None:
    """Raise ValueError unless so many tokens of a vocabulary of *size* can be listed."""
    if count is not None and not 0 <= count <= size:
        raise ValueError(f"top_logprobs_num: must be 0 to {size}, got {count}")


def _check(
    field: str,
    values: object,
    checks: Mapping[str, tuple[str, Callable[[object], bool]]],
    known: Container[str],
) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{field}: must be an object, got {values!r:.80}")
    for name, value in values.items():
        if name not in known or name in INTERNAL:
            raise ValueError(f"{field}.{name}: there is no such parameter")
        if value is None or name not in checks:
            continue
        kind, check = checks[name]
        if not check(value):
            raise ValueError(f"{field}.{name}: must be {kind}, got {value!r:.80}")
