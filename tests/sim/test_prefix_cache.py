from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from autellix_sgl.sim.branch import Branch
from autellix_sgl.sim.prefix_cache import PrefixCache
from autellix_sgl.workloads import ProgramBuilder, ProgramTrace, generate


def tree() -> ProgramTrace:
    """A root and two calls that both go on from it."""
    program = ProgramBuilder("p", "test")
    root = program.fresh(10, 5, system="s", system_tokens=100)
    program.extend(root, 20, 5)
    program.extend(root, 30, 5)
    return program.build()


def use(cache: PrefixCache, branch: Branch, length: int) -> int:
    """Hold a context once; returns what was cached of it."""
    matched = cache.matched(branch, length)
    cache.acquire(branch, length)
    cache.release(branch, length, 0)
    cache.check()
    return matched


def test_a_context_is_found_by_the_calls_that_repeat_it() -> None:
    """The system prompt by all, the root by both children, a child's own part by neither."""
    cache, program = PrefixCache(1000), tree()
    assert use(cache, cache.branch_of(program, 0), 115) == 0
    assert use(cache, cache.branch_of(program, 1), 135) == 115
    assert use(cache, cache.branch_of(program, 2), 145) == 115
    assert cache.used == 100 + 15 + 20 + 30
    other = ProgramBuilder("q", "test")
    other.fresh(10, 5, system="s", system_tokens=100)
    assert use(cache, cache.branch_of(other.build(), 0), 110) == 100


def test_a_chain_of_calls_is_one_branch() -> None:
    """Append-only contexts need no node for each call."""
    cache, program = PrefixCache(1000), tree()
    assert cache.branch_of(program, 0) is cache.branch_of(program, 1)
    assert cache.branch_of(program, 2) is not cache.branch_of(program, 0)


def test_the_least_recently_used_leaf_is_evicted_from_its_end() -> None:
    """The older child loses its last tokens; the root under both stays."""
    cache, program = PrefixCache(170), tree()
    for index, length in ((0, 115), (1, 135), (2, 145)):
        use(cache, cache.branch_of(program, index), length)
    assert cache.used == 165
    other = ProgramBuilder("q", "test")
    other.fresh(15, 1)
    use(cache, cache.branch_of(other.build(), 0), 15)
    assert cache.used == 170
    assert cache.matched(cache.branch_of(program, 2), 145) == 135
    assert cache.written(cache.branch_of(program, 2), 145) == 145


def test_what_runs_is_never_evicted() -> None:
    """A locked context survives any pressure, and all above it with it."""
    cache, program = PrefixCache(200), tree()
    branch = cache.branch_of(program, 2)
    cache.acquire(branch, 145)
    other = ProgramBuilder("q", "test")
    other.fresh(50, 5)
    use(cache, cache.branch_of(other.build(), 0), 50)
    cache.grow(30)
    cache.check()
    assert cache.matched(branch, 145) == 145
    assert cache.available == 200 - 145 - 30
    cache.release(branch, 175, 30)
    assert cache.matched(branch, 175) == 175
    assert cache.locked == 0


def test_without_sharing_nothing_stays() -> None:
    """vLLM without prefix caching: a context is gone with its call."""
    cache, program = PrefixCache(1000, shared=False), tree()
    assert use(cache, cache.branch_of(program, 0), 115) == 0
    assert use(cache, cache.branch_of(program, 1), 135) == 0
    assert cache.used == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(3000, 20_000))
def test_the_books_always_balance(seed: int, capacity: int) -> None:
    """Random holding and leaving of search trees' contexts: used is what the branches hold."""
    rng = Random(seed)
    programs = generate("mcts", 3, rng, scale=0.1)
    cache = PrefixCache(capacity)
    running: list[tuple[Branch, int]] = []
    for program in programs:
        for index, call in enumerate(program.calls[:60]):
            branch = cache.branch_of(program, index)
            if cache.available > call.context_tokens:
                cache.acquire(branch, call.prompt_tokens)
                cache.grow(call.output_tokens)
                running.append((branch, index))
                cache.release(branch, call.context_tokens, call.output_tokens)
            cache.check()
    seen: dict[int, int] = {}
    for program in programs:
        for index in range(len(program.calls[:60])):
            node: Branch | None = cache.branch_of(program, index)
            while node is not None:
                seen[node.number] = node.held
                node = node.parent
    assert sum(seen.values()) == cache.used
    assert cache.locked == 0
