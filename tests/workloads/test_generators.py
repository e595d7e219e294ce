"""Sample statistics against published ones, each within the tolerance named at its test."""

from __future__ import annotations

from random import Random

import pytest

from autellix_sgl.errors import ConfigError
from autellix_sgl.workloads import PUBLISHED_MEANS, WORKLOADS, describe, generate
from autellix_sgl.workloads.generators.coding import APPENDED_TOKENS, OUTPUT_TOKENS, STEPS
from autellix_sgl.workloads.model import HUMAN, ProgramTrace

# Enough programs for a standard error of about 2 % of the mean number of calls.
SAMPLE = {"chat": 3000, "react": 2000, "mcts": 600}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("name", ["chat", "react", "mcts"])
def test_means_are_the_papers(name: str) -> None:
    """Calls a program within 6 %, prefill and output tokens a call within 4 % (2502.13965)."""
    programs = generate(name, SAMPLE[name], Random(7))
    found = describe(programs)
    published = PUBLISHED_MEANS[name]
    for field, tolerance in (
        ("calls_per_program", 0.06),
        ("prefill_tokens", 0.04),
        ("output_tokens", 0.04),
    ):
        assert found[field]["mean"] == pytest.approx(published[field], rel=tolerance), field


@pytest.mark.parametrize(("name", "most"), [("chat", 80), ("react", 70)])
def test_the_longest_program_is_the_papers(name: str, most: int) -> None:
    """No more calls than the published maximum, and the tail comes near it."""
    longest = max(len(p.calls) for p in generate(name, SAMPLE[name], Random(7)))
    assert 0.7 * most <= longest <= most


def test_mixed_is_the_three_in_equal_parts() -> None:
    """A third each, to the program, in an order that is not a cycle."""
    kinds = [p.kind for p in generate("mixed", 300, Random(1))]
    assert [kinds.count(k) for k in ("chat", "react", "mcts")] == [100, 100, 100]
    assert kinds[:9] != kinds[:3] * 3


def test_coding_has_tracelabs_quantiles() -> None:
    """Median and p90 within 15 %, means within 25 %: the tails are heavy (2606.30560)."""
    programs = generate("coding", 1500, Random(3))
    main = [[c for c in p.calls if c.thread == ""] for p in programs]
    steps = sorted(len(calls) for calls in main)
    assert steps[len(steps) // 2] == pytest.approx(15, rel=0.15)
    assert steps[int(0.9 * len(steps))] == pytest.approx(135, rel=0.15)
    assert mean([float(s) for s in steps]) == pytest.approx(73.6, rel=0.25)
    outputs = sorted(c.output_tokens for p in programs for c in p.calls)
    assert outputs[len(outputs) // 2] == pytest.approx(214, rel=0.15)
    assert mean([float(o) for o in outputs]) == pytest.approx(523, rel=0.25)
    gaps = describe(programs)
    assert gaps["tool_ms"]["p50"] == pytest.approx(100, rel=0.15)
    assert gaps["tool_ms"]["p99"] == pytest.approx(192e3, rel=0.15)
    assert gaps["human_ms"]["p50"] == pytest.approx(84e3, rel=0.15)


def test_codings_tables_have_the_published_means() -> None:
    """The interpolated tables' exact means: steps, appended and output tokens within 8 %."""
    assert STEPS.mean == pytest.approx(73.6, rel=0.08)
    assert APPENDED_TOKENS.mean == pytest.approx(6539, rel=0.08)
    assert OUTPUT_TOKENS.mean == pytest.approx(523, rel=0.08)


def test_coding_requests_and_compaction() -> None:
    """One step in eight begins with a human; no context exceeds the limit; some sessions fork."""
    programs = generate("coding", 400, Random(5))
    gaps = [c.interrupt for p in programs for c in p.calls if c.interrupt and c.thread == ""]
    humans = sum(gap.kind == HUMAN for gap in gaps)
    assert humans / len(gaps) == pytest.approx(9.2 / 73.6, rel=0.1)
    assert max(c.context_tokens for p in programs for c in p.calls) <= 200_000
    compacted = sum(
        any(c.extends is None and c.parents and not c.thread for c in p.calls) for p in programs
    )
    assert 0.045 <= compacted / len(programs) <= 0.5
    forked = sum(any(c.thread for c in p.calls) for p in programs)
    assert 0.25 <= forked / len(programs) <= 0.44


def test_mapreduce_fans_out_and_joins() -> None:
    """Its stated means within 5 %, and the reduce waits for every map."""
    programs = generate("mapreduce", 800, Random(2))
    assert mean([len(p.calls) - 2.0 for p in programs]) == pytest.approx(12, rel=0.05)
    for program in programs[:20]:
        assert program.calls[-1].parents == tuple(range(1, len(program.calls) - 1))


def test_mcts_runs_in_parallel() -> None:
    """Five calls at a time: the critical path is about a fifth of the output."""
    share = describe(generate("mcts", 60, Random(2)))["critical_share"]
    assert 0.2 < share < 0.45


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_seed_gives_the_same_programs(name: str) -> None:
    """Equal seeds, equal programs; other seeds, others."""
    assert generate(name, 6, Random(11)) == generate(name, 6, Random(11))
    assert generate(name, 6, Random(11)) != generate(name, 6, Random(12))


@pytest.mark.parametrize("name", ["chat", "react", "coding", "mcts"])
def test_contexts_only_grow(name: str) -> None:
    """A call that extends another repeats all of it: prefix reuse is real."""
    for program in generate(name, 20, Random(4)):
        for call in program.calls:
            if call.extends is not None:
                assert call.shared_tokens == program.calls[call.extends].context_tokens


def test_scale_shrinks_all_lengths_alike() -> None:
    """A tenth of the lengths, the same calls, and whole contexts still repeated."""
    full = generate("chat", 50, Random(1))
    small = generate("chat", 50, Random(1), scale=0.1)
    assert [len(p.calls) for p in full] == [len(p.calls) for p in small]
    ratio = sum(p.output_tokens for p in small) / sum(p.output_tokens for p in full)
    assert ratio == pytest.approx(0.1, rel=0.05)
    for program in small:
        for call in program.calls[1:]:
            assert call.extends is not None
            assert call.shared_tokens == program.calls[call.extends].context_tokens


def test_interrupts_can_be_taken_out() -> None:
    """Factor 0 leaves no gap, factor 2 doubles each."""

    def total(programs: list[ProgramTrace]) -> float:
        return sum(c.interrupt.duration_ms for p in programs for c in p.calls if c.interrupt)

    once = total(generate("react", 20, Random(1)))
    assert total(generate("react", 20, Random(1), interrupts=0)) == 0
    assert total(generate("react", 20, Random(1), interrupts=2)) == pytest.approx(2 * once)


def test_an_unknown_workload_is_refused_with_the_known_ones() -> None:
    """ConfigError lists them."""
    with pytest.raises(ConfigError, match="mapreduce"):
        generate("nope", 1, Random(1))
