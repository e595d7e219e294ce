"""Kinds of programs, by what their first prompts begin with."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core.programs.kinds import HEAD_LENGTHS, Kinds, heads_of
from autellix_sgl.errors import ConfigError

SYSTEM = list(range(1000, 1500))
TOOLS = list(range(5000, 5400))


def opened(kinds: Kinds, prompts: list[list[int]], tenant: str = "") -> None:
    for prompt in prompts:
        kinds.opened(tenant, heads_of(prompt))


def asking(system: list[int], programs: int) -> list[list[int]]:
    """First prompts with the same system prompt and a question of their own."""
    return [system + [900_000 + program] * 300 for program in range(programs)]


def test_programs_with_the_same_system_prompt_are_of_one_kind() -> None:
    kinds = Kinds(enough_programs=3)
    prompts = asking(SYSTEM, 4)
    opened(kinds, prompts)
    found = {kinds.find("", heads_of(prompt)) for prompt in prompts}
    assert len(found) == 1
    assert found != {None}
    assert kinds.find("", heads_of(SYSTEM + [7] * 50)) in found


def test_a_kind_is_the_longest_head_that_is_shared() -> None:
    kinds = Kinds(enough_programs=3)
    opened(kinds, asking(SYSTEM, 3) + asking(SYSTEM + TOOLS, 3))
    plain = kinds.find("", heads_of(asking(SYSTEM, 1)[0]))
    with_tools = kinds.find("", heads_of(asking(SYSTEM + TOOLS, 1)[0]))
    assert plain is not None
    assert with_tools is not None
    assert plain != with_tools
    assert int(plain.split("-")[0]) < int(with_tools.split("-")[0])


def test_too_few_programs_make_no_kind() -> None:
    kinds = Kinds(enough_programs=3)
    prompts = asking(SYSTEM, 2)
    opened(kinds, prompts)
    assert kinds.find("", heads_of(prompts[0])) is None


def test_a_prompt_shorter_than_any_head_is_of_no_kind() -> None:
    kinds = Kinds(enough_programs=1)
    short = list(range(HEAD_LENGTHS[0] - 1))
    opened(kinds, [short] * 5)
    assert heads_of(short) == ()
    assert kinds.find("", heads_of(short)) is None


def test_what_one_tenant_sends_makes_no_kind_for_another() -> None:
    kinds = Kinds(enough_programs=3)
    prompts = asking(SYSTEM, 5)
    opened(kinds, prompts, tenant="one")
    opened(kinds, prompts, tenant="three")
    first, third = (kinds.find(tenant, heads_of(prompts[0])) for tenant in ("one", "three"))
    assert first is not None
    assert third is not None
    assert first != third
    assert kinds.find("two", heads_of(prompts[0])) is None


def test_a_tenant_that_floods_forgets_its_own_kinds_only() -> None:
    kinds = Kinds(enough_programs=2, max_heads=200)
    mine = asking(SYSTEM, 3)
    opened(kinds, mine, tenant="quiet")
    opened(kinds, [[program] * 700 for program in range(500)], tenant="loud")
    assert len(kinds) == 200
    assert kinds.find("quiet", heads_of(mine[0])) is not None


@given(st.lists(st.lists(st.integers(0, 3), max_size=60), max_size=40), st.integers(1, 30))
def test_memory_is_bounded_whatever_is_sent(prompts: list[list[int]], max_heads: int) -> None:
    kinds = Kinds(enough_programs=2, max_heads=max_heads)
    for number, prompt in enumerate(prompts):
        opened(kinds, [prompt], tenant=f"tenant {number % 3}")
        assert len(kinds) <= max_heads


@given(st.lists(st.integers(0, 2**31)), st.lists(st.integers(0, 2**31)))
def test_equal_beginnings_have_equal_heads(shared: list[int], rest: list[int]) -> None:
    whole, part = heads_of(shared + rest), heads_of(shared)
    assert whole[: len(part)] == part


def test_heads_are_the_same_in_every_process() -> None:
    """A hash that is salted per process would make kinds that nobody can compare."""
    code = (
        "from autellix_sgl.core.programs.kinds import heads_of; print(heads_of(list(range(100))))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(heads_of(list(range(100))))


def test_a_kind_of_no_programs_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 program"):
        Kinds(enough_programs=0)
