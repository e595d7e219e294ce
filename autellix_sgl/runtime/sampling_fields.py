"""Sampling parameters of the wrong type: refused by name before anything is made of them.

SGLang takes them as they come. Some are found wanting only by a scheduler in the middle of a step,
such as a length of one and a half tokens, which ends the server with every call on it; others by
the main process, which answers 500.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Mapping
from typing import Any

FIELD = "sampling_params"

# A list in JSON; SGLang's Engine takes the others as well.
COLLECTIONS = (list, tuple, set, frozenset)


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


# What a parameter has to be, if it is given and not null: as SGLang's own annotations say, and an
# integer will do for a number. Those that only switch something are left to their truth.
KINDS: tuple[tuple[str, Callable[[object], bool], tuple[str, ...]], ...] = (
    (
        "a whole number",
        lambda value: isinstance(value, int),
        ("max_new_tokens", "min_new_tokens", "n", "top_k", "beam_width", "stream_interval"),
    ),
    (
        "a number",
        lambda value: isinstance(value, int | float),
        (
            "temperature",
            "top_p",
            "min_p",
            "frequency_penalty",
            "presence_penalty",
            "repetition_penalty",
        ),
    ),
    ("a string", _is_text, ("json_schema", "regex", "ebnf", "structural_tag")),
    ("a string or a list of strings", _is_texts, ("stop",)),
    ("a regular expression or a list of them", _are_patterns, ("stop_regex",)),
    ("a list of token ids", _are_ids, ("stop_token_ids",)),
    ("an object of token ids and finite numbers", _is_bias, ("logit_bias",)),
    ("an object", lambda value: isinstance(value, Mapping), ("custom_params",)),
)
CHECKS = {name: (kind, check) for kind, check, names in KINDS for name in names}


def check_sampling(parameters: object, known: Container[str]) -> None:
    """Raise ValueError for the first parameter, of one prompt or several, that cannot be one.

    *known* are the names that there are.
    """
    if parameters is None:
        return
    each = parameters if isinstance(parameters, list) else [parameters]
    if not each:
        raise ValueError(f"{FIELD}: is an empty list")
    for fields in each:
        if not isinstance(fields, Mapping):
            raise ValueError(f"{FIELD}: must be an object, or a list with one for each prompt")
        _check(fields, known)


def _check(fields: Mapping[str, Any], known: Container[str]) -> None:
    for name, value in fields.items():
        if name not in known:
            raise ValueError(f"{FIELD}.{name}: there is no such parameter")
        if value is None or name not in CHECKS:
            continue
        kind, check = CHECKS[name]
        if not check(value):
            raise ValueError(f"{FIELD}.{name}: must be {kind}, got {value!r:.80}")
