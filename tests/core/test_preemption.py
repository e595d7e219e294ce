from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import Candidate, Running, choose_victims


def run(key: tuple[int, int], *, tokens: int = 10, steps: int = 99, ok: bool = True) -> Running:
    return Running(f"{key}", key, tokens, steps, ok)


def choose(
    candidates: list[Candidate], running: list[Running], slots: int, tokens: int
) -> list[str]:
    return choose_victims(
        candidates, running, free_slots=slots, free_tokens=tokens, min_steps_left=3
    )


def test_the_worst_running_call_makes_room_for_a_better_waiting_one() -> None:
    """Victims go worst level first, then latest ticket."""
    running = [run((0, 1)), run((2, 3)), run((2, 9))]
    assert choose([Candidate((1, 5), 0)], running, 0, 0) == ["(2, 9)"]


def test_nobody_is_preempted_while_a_slot_and_memory_are_free() -> None:
    """A candidate that fits is simply taken."""
    assert choose([Candidate((0, 5), 5)], [run((3, 1))], 1, 5) == []


def test_a_candidate_never_displaces_a_better_call() -> None:
    """The walk stops at the first candidate that no worse call can make room for."""
    candidates = [Candidate((1, 5), 0), Candidate((1, 6), 0)]
    assert choose(candidates, [run((0, 1)), run((1, 2))], 0, 0) == []


def test_a_call_about_to_end_is_left_alone() -> None:
    """Fewer steps to go than a preemption costs: it frees its slot as soon by itself."""
    assert choose([Candidate((0, 5), 0)], [run((3, 1), steps=2)], 0, 0) == []


def test_nothing_is_freed_for_a_candidate_that_would_not_fit_even_then() -> None:
    """If all worse calls together free too little memory, none of them is taken out."""
    assert choose([Candidate((0, 5), 1000)], [run((3, 1)), run((3, 2))], 0, 0) == []


def test_a_debt_that_others_ran_up_takes_nobody_out() -> None:
    """Far below zero, a small call is not worth dozens of running ones, slot or no slot."""
    running = [run((3, ticket), tokens=4500) for ticket in range(40)]
    assert choose([Candidate((0, 5), 100)], running, 1, -100_000) == []
    assert choose([Candidate((0, 5), 100)], running, 0, -100_000) == []
    assert choose([Candidate((0, 5), 100)], running, 0, -1_000) == ["(3, 39)"]


def test_several_victims_make_room_for_one_large_candidate() -> None:
    """Memory is gathered from the worst calls until the candidate fits."""
    running = [run((3, 1)), run((3, 2)), run((3, 3))]
    assert choose([Candidate((0, 5), 20)], running, 5, 0) == ["(3, 3)", "(3, 2)"]


keys = st.tuples(st.integers(0, 3), st.integers(0, 1000))


@given(
    st.lists(keys, unique=True, max_size=12),
    st.lists(keys, unique=True, max_size=12),
    st.integers(0, 3),
    st.integers(-1000, 50),
)
def test_a_victim_is_always_worse_than_the_candidate_it_makes_room_for(
    waiting: list[tuple[int, int]],
    running_keys: list[tuple[int, int]],
    slots: int,
    tokens: int,
) -> None:
    """Every victim loses to some candidate, none is taken twice, and the worst go first."""
    running = [run(key) for key in running_keys if key not in waiting]
    candidates = [Candidate(key, 7) for key in sorted(waiting)]
    victims = choose(candidates, running, slots, tokens)
    by_id = {r.id: r.key for r in running}
    assert len(victims) == len(set(victims))
    spared = [r.key for r in running if r.id not in victims]
    for victim in victims:
        assert by_id[victim] > min(waiting)
        assert all(by_id[victim] > key for key in spared)


@given(
    st.lists(st.integers(1, 500), max_size=30),
    st.integers(0, 400),
    st.integers(-2, 3),
    st.integers(-20_000, 500),
)
def test_no_candidate_costs_more_than_it_brings(
    sizes: list[int], wanted: int, slots: int, tokens: int
) -> None:
    """Its victims but the last hold less than it asks for; with a slot and room there are none."""
    running = [run((3, ticket), tokens=size) for ticket, size in enumerate(sizes)]
    victims = choose([Candidate((0, 5), wanted)], running, slots, tokens)
    held = {r.id: r.tokens for r in running}
    assert len(victims) <= 1 or sum(held[v] for v in victims[:-1]) < max(wanted, 1 - slots)
    if victims:
        assert tokens + sum(held[v] for v in victims) >= wanted
        assert slots + len(victims) >= 1
    if slots >= 1 and tokens >= wanted:
        assert not victims
