"""Prompts that no model can run are refused before they are sent."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.runtime.tokenizer.token_ids import check_token_ids


@given(st.lists(st.integers(-5, 25), min_size=1), st.integers(1, 20))
def test_what_passes_is_in_the_vocabulary(ids: list[int], size: int) -> None:
    """And nothing else is refused."""
    if all(0 <= token < size for token in ids):
        check_token_ids(ids, size)
        check_token_ids(array("q", ids), size)
    else:
        with pytest.raises(ValueError, match="input_ids"):
            check_token_ids(ids, size)


@pytest.mark.parametrize("ids", [[1.5, "a"], [[1]], ["a"], [None, 1]])
def test_what_is_no_number_is_refused_by_name(ids: Any) -> None:
    """A ValueError, which SGLang answers with HTTP 400."""
    with pytest.raises(ValueError, match="input_ids"):
        check_token_ids(ids, 10)


def test_an_adapters_own_tokens_are_behind_the_models() -> None:
    """How many it has is not known here; that none is negative is."""
    check_token_ids([1, 99], None)
    with pytest.raises(ValueError, match="-1"):
        check_token_ids([1, -1], None)


def test_only_a_prompt_that_continues_a_session_may_be_empty() -> None:
    """The session has the rest of it."""
    check_token_ids([], 10, continues=True)
    with pytest.raises(ValueError, match="at least one token"):
        check_token_ids([], 10)
