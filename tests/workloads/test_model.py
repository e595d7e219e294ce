from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from autellix_sgl.errors import ConfigError
from autellix_sgl.workloads import (
    Interrupt,
    ProgramBuilder,
    ProgramTrace,
    TracedCall,
    Workload,
    WorkloadError,
    all_at_once,
    burst_times,
    closed_loop,
    generate,
    load,
    poisson_times,
    save,
)
from autellix_sgl.workloads.distributions import ClippedLognormal, QuantileTable


def test_pieces_name_equal_tokens_equally() -> None:
    """Two calls that share a prefix share its pieces, and lengths add up to the prompt."""
    program = ProgramBuilder("p", "test")
    root = program.fresh(10, 5, system="s", system_tokens=100)
    left = program.extend(root, 7, 3)
    program.extend(root, 9, 3, shared_tokens=112)
    built = program.build()
    assert built.pieces(left) == [
        ("system:s", 0, 100),
        ("p/0/prompt", 0, 10),
        ("p/0/output", 0, 5),
        ("p/1/prompt", 0, 7),
    ]
    assert built.pieces(2) == [
        ("system:s", 0, 100),
        ("p/0/prompt", 0, 10),
        ("p/0/output", 0, 2),
        ("p/2/prompt", 0, 9),
    ]
    for index, call in enumerate(built.calls):
        assert sum(b - a for _, a, b in built.pieces(index)) == call.prompt_tokens


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ((), "no calls"),
        ((TracedCall(new_tokens=1, output_tokens=1, parents=(0,)),), "earlier"),
        (
            (
                TracedCall(new_tokens=1, output_tokens=1),
                TracedCall(new_tokens=1, output_tokens=1, extends=0, shared_tokens=2),
            ),
            "no ancestor",
        ),
        (
            (
                TracedCall(new_tokens=1, output_tokens=1),
                TracedCall(new_tokens=1, output_tokens=1, extends=0, shared_tokens=3, parents=(0,)),
            ),
            "shares 3",
        ),
    ],
)
def test_an_impossible_program_is_refused(calls: tuple[TracedCall, ...], message: str) -> None:
    """Cycles, contexts that are not there yet and contexts that are too short."""
    with pytest.raises(ConfigError, match=message):
        ProgramTrace("p", "test", calls)


def test_impossible_calls_and_interrupts_are_refused() -> None:
    """No output, no prompt, unknown kinds and negative times."""
    for make in (
        lambda: TracedCall(new_tokens=1, output_tokens=0),
        lambda: TracedCall(new_tokens=0, output_tokens=1),
        lambda: Interrupt("nap", 1),
        lambda: Interrupt("tool", -1),
        lambda: Interrupt("tool", float("nan")),
    ):
        with pytest.raises(ConfigError):
            make()


def test_a_file_gives_the_workload_back(tmp_path: Path) -> None:
    """save then load is the identity."""
    for name in ("mcts", "coding"):
        programs = generate(name, 3, Random(1))
        for workload in (all_at_once(name, programs), closed_loop(name, programs, 2)):
            save(workload, tmp_path / "w.jsonl")
            assert load(tmp_path / "w.jsonl") == workload


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"id": "a", "kind": "k", "calls": [{"new_tokens": 1}]}', "calls[0].output_tokens"),
        ('{"id": "a", "kind": "k", "calls": [{"new_tokens": -1}]}', "calls[0].new_tokens"),
        ('{"id": "a", "kind": "k", "calls": 3}', "calls"),
        ('{"id": "a", "kind": "k", "calls": []}', "calls"),
        ('{"id": 3, "kind": "k", "calls": []}', "id"),
        ("{nope", ""),
        (
            '{"id": "a", "kind": "k", "calls": [{"new_tokens": 1, "output_tokens": 1, "x": 1}]}',
            "calls[0].x",
        ),
    ],
)
def test_a_bad_line_gives_file_line_and_field(tmp_path: Path, line: str, field: str) -> None:
    """The blank second line still counts."""
    path = tmp_path / "bad.jsonl"
    path.write_text('{"workload": "w"}\n\n' + line + "\n")
    with pytest.raises(WorkloadError) as caught:
        load(path)
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), 3, field)
    assert f"{path}:3" in str(caught.value)


def test_poisson_arrivals_have_their_rate() -> None:
    """5,000 arrivals at 20 a second: the mean gap within 4 %, its deviation like the mean."""
    times = poisson_times(Random(1), 5000, 20)
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(50, rel=0.04)
    deviation = (sum((g - mean) ** 2 for g in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(50, rel=0.06)


def test_bursts_come_together_at_the_same_rate() -> None:
    """Groups of 10, and the programs a second of a Poisson process."""
    times = burst_times(Random(1), 5000, 20, 10)
    assert len(set(times)) == 500
    assert times[-1] == pytest.approx(250e3, rel=0.1)


def test_a_workload_has_no_twins() -> None:
    """Program ids name programs, and a closed loop needs at least one place."""
    program = generate("chat", 1, Random(1))[0]
    with pytest.raises(ConfigError, match="same id"):
        Workload("w", (program, program))
    with pytest.raises(ConfigError, match="concurrency"):
        Workload("w", (program,), concurrency=0)


def test_a_clipped_log_normal_has_the_mean_it_was_asked_for() -> None:
    """Clipping is paid back: 20,000 samples within 3 %, none outside the range."""
    wanted = ClippedLognormal(6.66, 1.2, 1, 80)
    rng = Random(1)
    samples = [wanted.sample(rng) for _ in range(20_000)]
    assert sum(samples) / len(samples) == pytest.approx(6.66, rel=0.03)
    assert min(samples) >= 1
    assert max(samples) <= 80


def test_a_quantile_table_gives_its_quantiles_back() -> None:
    """Exactly at its points, and its mean is its samples' mean."""
    table = QuantileTable(((0, 1), (0.5, 10), (0.9, 100), (1, 1000)))
    assert [table.at(p) for p in (0, 0.5, 0.9, 1)] == pytest.approx([1, 10, 100, 1000])
    rng = Random(1)
    samples = [table.sample(rng) for _ in range(20_000)]
    assert sum(samples) / len(samples) == pytest.approx(table.mean, rel=0.05)


def test_bad_distributions_are_refused() -> None:
    """Means outside the range, tables that do not rise."""
    with pytest.raises(ConfigError):
        ClippedLognormal(5, 1, 6, 9)
    with pytest.raises(ConfigError):
        QuantileTable(((0, 1), (0.5, 2)))
    with pytest.raises(ConfigError):
        QuantileTable(((0, 2), (1, 1)))
