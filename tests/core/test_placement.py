from __future__ import annotations

import os
import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import PLACEMENTS, CostModel, Footprint, Placer
from autellix_sgl.core.placement.placement import LONG_CALL_TOKENS
from autellix_sgl.errors import ConfigError, NoReplica, UnknownCall

COST = CostModel(8.0, 0.125, 0.03125, 0.0)
LONG = LONG_CALL_TOKENS + 1


def placer(policy: str, replicas: int = 3) -> Placer:
    return Placer(policy, replicas, COST, batch=8)


def fill(placer: Placer, replica: int, calls: int, *, prompt_tokens: int = 100) -> None:
    """Calls of strangers, all at one replica."""
    for number in range(calls):
        placer.place(
            f"r{replica}-{number}", Footprint(), prompt_tokens=prompt_tokens, replica=replica
        )


def test_round_robin_takes_turns() -> None:
    """Whatever the load, in order, and over what is left when a replica is gone."""
    p = placer("round_robin")
    assert [p.place(str(i), Footprint(), prompt_tokens=9) for i in range(4)] == [0, 1, 2, 0]
    p.remove(1)
    assert [p.place(f"x{i}", Footprint(), prompt_tokens=9) for i in range(3)] == [0, 2, 0]


def test_least_used_counts_calls_and_breaks_ties_by_number() -> None:
    """The lowest of those with the fewest calls in the system, however long the calls."""
    p = placer("least_used")
    assert p.place("long", Footprint(), prompt_tokens=50_000) == 0
    assert p.place("a", Footprint(), prompt_tokens=1) == 1
    assert p.place("b", Footprint(), prompt_tokens=1) == 2
    p.abort("a")
    assert p.place("c", Footprint(), prompt_tokens=1) == 1
    assert p.place("d", Footprint(), prompt_tokens=1) == 0


def test_algorithm_2_keeps_a_programs_long_calls_together() -> None:
    """The first long call goes to the least used replica; the next ones follow it, at any load."""
    p, program = placer("program"), Footprint()
    fill(p, 0, 1)
    assert p.place("a", program, prompt_tokens=LONG) == 1
    fill(p, 1, 20)
    assert p.place("b", program, prompt_tokens=LONG) == 1


def test_algorithm_2_sends_short_calls_to_the_least_used() -> None:
    """2048 tokens are short still, and give the program no replica."""
    p, program = placer("program"), Footprint()
    assert p.place("a", program, prompt_tokens=LONG_CALL_TOKENS) == 0
    assert program.home is None
    assert p.place("b", program, prompt_tokens=LONG_CALL_TOKENS) == 1


def test_algorithm_2_gives_a_program_whose_replica_died_another() -> None:
    """The least used of those that are left."""
    p, program = placer("program"), Footprint()
    assert p.place("a", program, prompt_tokens=LONG) == 0
    assert p.remove(0) == ["a"]
    fill(p, 1, 1)
    assert p.place("b", program, prompt_tokens=LONG) == 2
    assert program.home == 2


def test_radix_follows_the_prefix() -> None:
    """A lone program comes back to where it was, though another replica has as little to do."""
    p, program = placer("program-radix"), Footprint()
    fill(p, 0, 1)
    assert p.place("a", program, prompt_tokens=1000) == 1
    p.finish("a", cached_tokens=0, output_tokens=200)
    p.abort("r0-0")
    assert p.place("b", program, prompt_tokens=1300) == 1


def test_radix_moves_when_staying_costs_more_than_computing_again() -> None:
    """A long prefix is worth a long wait, a short one is not."""
    for prefix, expected in ((30_000, 0), (100, 1)):
        p, program = placer("program-radix", 2), Footprint()
        assert p.place("a", program, prompt_tokens=prefix) == 0
        p.finish("a", cached_tokens=0, output_tokens=1)
        fill(p, 0, 12)
        fill(p, 1, 8)
        assert p.place("b", program, prompt_tokens=prefix) == expected


def test_radix_spreads_parallel_threads_once_their_replica_is_full() -> None:
    """They stay together as long as there are free slots; then others share the work."""
    p, program = placer("program-radix", 2), Footprint()
    first = [p.place(f"a{i}", program, prompt_tokens=2000) for i in range(8)]
    assert first == [0] * 8
    rest = [p.place(f"b{i}", program, prompt_tokens=2000) for i in range(24)]
    assert 1 in rest
    p.check()


def test_radix_learns_how_much_is_found() -> None:
    """A program whose prompts share nothing with what it said before is not held by its past."""
    p, program = placer("program-radix", 2), Footprint()
    for number in range(20):
        call = f"a{number}"
        p.place(call, program, prompt_tokens=4000, replica=0)
        p.finish(call, cached_tokens=0, output_tokens=10)
    assert program.found_share < 0.1
    fill(p, 0, 4)
    assert p.place("b", program, prompt_tokens=4000) == 1


def test_a_call_weighs_what_its_program_usually_asks_for() -> None:
    """Outputs are expected as they were; a limit in the request caps them."""
    p, program = placer("program-radix", 1), Footprint()
    for number in range(50):
        p.place(str(number), program, prompt_tokens=10)
        p.finish(str(number), cached_tokens=10, output_tokens=1000)
    p.place("much", program, prompt_tokens=10)
    much = p.loads.work_us[0]
    p.place("little", program, prompt_tokens=10, max_output_tokens=10)
    assert p.loads.work_us[0] - much < much / 50


def test_someone_elses_choice_is_kept_and_counted() -> None:
    """A request may name its replica; the program is then known to be there."""
    p, program = placer("program-radix"), Footprint()
    assert p.place("a", program, prompt_tokens=5000, replica=2) == 2
    assert p.loads.calls == [0, 0, 1]
    assert p.place("b", program, prompt_tokens=5000) == 2


def test_the_lost_replicas_calls_are_named() -> None:
    """Its calls leave with it, in the order they came; nothing goes there any more."""
    p = placer("least_used", 2)
    placed = {str(i): p.place(str(i), Footprint(), prompt_tokens=5) for i in range(6)}
    assert p.remove(0) == [call for call, replica in placed.items() if replica == 0]
    assert all(p.place(f"x{i}", Footprint(), prompt_tokens=5) == 1 for i in range(6))
    with pytest.raises(NoReplica, match="0"):
        p.place("y", Footprint(), prompt_tokens=5, replica=0)
    p.remove(1)
    with pytest.raises(NoReplica):
        p.place("z", Footprint(), prompt_tokens=5)
    p.check()


def test_bad_events_are_refused() -> None:
    """Twice in, out without in, and names nobody knows."""
    p = placer("program")
    p.place("a", Footprint(), prompt_tokens=5)
    with pytest.raises(UnknownCall):
        p.place("a", Footprint(), prompt_tokens=5)
    with pytest.raises(UnknownCall):
        p.abort("b")
    with pytest.raises(UnknownCall):
        p.replica_of("b")
    with pytest.raises(ConfigError, match="program-radix"):
        placer("best")
    with pytest.raises(ConfigError, match="at least 1"):
        placer("program", 0)
    p.check()


@given(
    st.sampled_from(sorted(PLACEMENTS)),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9000), st.integers(0, 9)), max_size=80),
)
def test_loads_are_what_is_outstanding(
    policy: str, replicas: int, events: list[tuple[int, int, int]]
) -> None:
    """Under any sequence of events the loads are sums, and only live replicas are chosen."""
    p = placer(policy, replicas)
    programs = [Footprint() for _ in range(7)]
    active: list[str] = []
    for number, (program, tokens, what) in enumerate(events):
        if what == 0 and len(p.loads.live) > 1:
            lost = p.remove(p.loads.live[tokens % len(p.loads.live)])
            active = [call for call in active if call not in lost]
        elif what <= 3 and active:
            call = active.pop(tokens % len(active))
            if what == 1:
                p.abort(call)
            else:
                p.finish(call, cached_tokens=tokens, output_tokens=tokens // 7)
        else:
            chosen = p.place(str(number), programs[program], prompt_tokens=tokens)
            assert p.loads.alive[chosen]
            assert p.replica_of(str(number)) == chosen
            active.append(str(number))
        p.check()
        assert sum(p.loads.calls) == len(active)
        assert all(0 < footprint.found_share <= 1 for footprint in programs)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 20_000)), min_size=1, max_size=60))
def test_a_long_program_never_moves_under_algorithm_2(calls: list[tuple[int, int]]) -> None:
    """While its replica lives, all of its long calls run there."""
    p = placer("program", 4)
    programs = [Footprint() for _ in range(5)]
    homes: dict[int, int] = {}
    for number, (program, tokens) in enumerate(calls):
        chosen = p.place(str(number), programs[program], prompt_tokens=tokens)
        if tokens > LONG_CALL_TOKENS:
            assert homes.setdefault(program, chosen) == chosen


def choices(policy: str, seed: int) -> list[int]:
    """What a policy decides over a random history; for comparing processes."""
    rng, p = Random(seed), placer(policy, 4)
    programs = [Footprint() for _ in range(9)]
    active: list[str] = []
    chosen = []
    for number in range(300):
        if active and rng.random() < 0.4:
            p.finish(active.pop(0), cached_tokens=rng.randrange(3000), output_tokens=50)
        chosen.append(
            p.place(str(number), rng.choice(programs), prompt_tokens=rng.randrange(1, 6000))
        )
        active.append(str(number))
    return chosen


def test_decisions_do_not_depend_on_the_process() -> None:
    """Two hash seeds, the same choices."""
    script = (
        "from autellix_sgl.core import PLACEMENTS\n"
        "from tests.core.test_placement import choices\n"
        "print([choices(policy, 3) for policy in PLACEMENTS])\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert outputs == {f"{[choices(policy, 3) for policy in PLACEMENTS]}\n"}
