import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import CallScheduler, CallStamp, CostModel, Levels, StepWork, policy_named
from autellix_sgl.errors import UnknownCall


def scheduler(
    policy: str = "plas", *, beta: float = 0.0, interval: int = 1, levels: Levels | None = None
) -> CallScheduler:
    """One unit of service a step; three levels that begin at 0, 2 and 6."""
    return CallScheduler(
        policy_named(policy),
        levels or Levels((2.0, 6.0), (2.0, 4.0, math.inf)),
        CostModel(1.0),
        starvation_ratio=beta,
        interval=interval,
    )


def decode(s: CallScheduler, *calls: str, steps: int = 1) -> None:
    for _ in range(steps):
        s.step(StepWork(decodes=calls))


def test_calls_wait_in_the_order_of_their_programs_service() -> None:
    """PLAS: level by p(c), arrival order inside a level."""
    s = scheduler()
    for call, served in (("old", 7.0), ("young", 1.0), ("middle", 2.0), ("young2", 0.0)):
        s.arrive(call, CallStamp(call, priority_ms=served))
    assert s.head(9) == ["young", "young2", "middle", "old"]


@pytest.mark.parametrize("policy", ["fcfs", "mlfq"])
def test_baselines_start_every_call_at_the_top(policy: str) -> None:
    """FCFS and MLFQ ignore what the program has attained."""
    s = scheduler(policy)
    s.arrive("old", CallStamp("A", priority_ms=100))
    s.arrive("young", CallStamp("B"))
    assert s.head(2) == ["old", "young"]


def test_a_call_moves_to_the_tail_of_the_next_level_when_its_quantum_is_used() -> None:
    """It gets that level's quantum, and queues behind calls that were there before."""
    s = scheduler()
    s.arrive("a", CallStamp("A"))
    s.admit("a")
    s.arrive("b", CallStamp("B", priority_ms=2))
    decode(s, "a", steps=2)
    assert s.call("a").level == 1
    assert s.call("a").key > s.call("b").key
    decode(s, "a", steps=4)
    assert s.call("a").level == 2
    decode(s, "a", steps=1000)
    assert s.call("a").level == 2


def test_fcfs_never_moves_a_call() -> None:
    """One level without a quantum."""
    s = scheduler("fcfs")
    s.arrive("a", CallStamp("A"))
    s.admit("a")
    decode(s, "a", steps=1000)
    assert (s.call("a").level, s.call("a").demotions) == (0, 0)


def test_a_preempted_call_keeps_its_place() -> None:
    """Back in line it stands before calls of its level that came later."""
    s = scheduler()
    s.arrive("a", CallStamp("A"))
    s.admit("a")
    s.arrive("b", CallStamp("B"))
    s.requeue("a")
    assert s.head(2) == ["a", "b"]
    assert s.call("a").preemptions == 1


def test_wait_counts_while_queued_and_service_while_stepped() -> None:
    """The two add up to the time since arrival for a call that is always one or the other."""
    s = scheduler()
    s.arrive("other", CallStamp("B"))
    s.admit("other")
    s.arrive("a", CallStamp("A"))
    decode(s, "other", steps=3)
    s.admit("a")
    decode(s, "a", "other", steps=2)
    s.requeue("a")
    decode(s, "other", steps=4)
    s.admit("a")
    decode(s, "a", "other")
    statistics = s.remove("a")
    assert (statistics.wait_ms, statistics.service_ms) == (7, 3)


def test_a_starving_call_is_promoted_when_wait_outweighs_service_by_beta() -> None:
    """(W + w) / (T + t) >= beta with W=1, T=7, beta=2: due after 13 units of waiting."""
    s = scheduler(beta=2)
    s.arrive("x", CallStamp("X"))
    s.admit("x")
    s.arrive("old", CallStamp("A", priority_ms=7, program_wait_ms=1, program_service_ms=7))
    decode(s, "x", steps=12)
    assert s.promote_starving() == []
    decode(s, "x")
    assert s.promote_starving() == ["old"]
    assert (s.call("old").level, s.call("old").promotions) == (0, 1)
    assert s.call("old").recent_wait_ms == 0
    assert s.remove("old").wait_ms == 13  # the report keeps the whole wait


def test_the_next_promotion_is_known_before_it_is_due() -> None:
    """(W + w) / (T + t) = 2 with T = 7 is reached after 14 ms."""
    s = scheduler(beta=2)
    assert s.next_promotion_ms == math.inf
    s.arrive("a", CallStamp("A", priority_ms=7.0, program_service_ms=7.0))
    assert s.next_promotion_ms == 14.0
    decode(s, steps=14)
    assert s.promote_starving() == ["a"]
    assert s.next_promotion_ms == math.inf


def test_a_promoted_programs_other_thread_is_promoted_with_it() -> None:
    """Only the call's own counters are zeroed, so the program's W and T promote the sibling too."""
    s = scheduler(beta=2)
    stamp = CallStamp("A", priority_ms=7, program_wait_ms=0, program_service_ms=7)
    s.arrive("x", CallStamp("X"))
    s.admit("x")
    s.arrive("t1", stamp)
    s.arrive("t2", stamp)
    decode(s, "x", steps=14)
    assert s.promote_starving() == ["t1", "t2"]


def test_with_beta_zero_nobody_is_promoted() -> None:
    """The switch is off, however long the wait."""
    s = scheduler(beta=0)
    s.arrive("x", CallStamp("X"))
    s.admit("x")
    s.arrive("old", CallStamp("A", priority_ms=7, program_service_ms=7))
    decode(s, "x", steps=10_000)
    assert s.promote_starving() == []


def test_a_pass_is_due_every_n_steps_or_when_a_better_call_arrives() -> None:
    """A worse arrival does not hurry it."""
    s = scheduler(interval=3)
    s.arrive("a", CallStamp("A", priority_ms=2))
    s.admit("a")
    s.begin_pass()
    s.arrive("worse", CallStamp("B", priority_ms=9))
    assert not s.pass_due
    s.arrive("better", CallStamp("C"))
    assert s.pass_due
    s.begin_pass()
    decode(s, "a", steps=2)
    assert not s.pass_due
    decode(s, "a")
    assert s.pass_due


def test_events_that_cannot_be_are_refused() -> None:
    """Unknown calls, double arrivals and double admissions raise UnknownCall."""
    s = scheduler()
    s.arrive("a", CallStamp("A"))
    for wrong in (
        lambda: s.arrive("a", CallStamp("A")),
        lambda: s.requeue("a"),
        lambda: s.admit("b"),
        lambda: s.remove("b"),
        lambda: s.call("b"),
    ):
        with pytest.raises(UnknownCall):
            wrong()
    s.check()


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "admit", "requeue", "step", "remove", "promote"]),
        st.integers(0, 9),
    ),
    max_size=120,
)


def play(s: CallScheduler, events: list[tuple[str, int]]) -> list[object]:
    """Drive *s* with events that are possible, and return what it decided on the way."""
    seen: list[object] = []
    running: list[str] = []
    for number, (event, which) in enumerate(events):
        waiting = list(s.waiting())
        if event == "arrive":
            service = float(which)
            stamp = CallStamp(f"P{which}", "", service, service / 2, service)
            seen.append(s.arrive(f"c{number}", stamp).key)
        elif event == "admit" and waiting:
            call = waiting[which % len(waiting)]
            s.admit(call)
            running.append(call)
        elif event == "requeue" and running:
            s.requeue(running.pop(which % len(running)))
        elif event == "remove" and waiting + running:
            call = (waiting + running)[which % len(waiting + running)]
            seen.append(s.remove(call))
            if call in running:
                running.remove(call)
        elif event == "step":
            s.step(StepWork(decodes=tuple(running)))
        elif event == "promote":
            seen.append(s.promote_starving())
        s.check()
        seen.append(s.head(4))
    return seen


@given(EVENTS, st.sampled_from(["fcfs", "mlfq", "plas", "atlas"]))
def test_no_call_is_ever_lost_and_order_is_total(
    events: list[tuple[str, int]], policy: str
) -> None:
    """After any events every call is in exactly one place, and waiting calls are sorted by key."""
    s = scheduler(policy, beta=1.5)
    play(s, events)
    keys = [s.call(c).key for c in s.waiting()]
    assert keys == sorted(keys)
    assert len(keys) == len(set(keys))


@given(EVENTS)
def test_the_same_events_give_the_same_decisions(events: list[tuple[str, int]]) -> None:
    """Two ranks that see the same events never differ."""
    assert play(scheduler(beta=1.5), events) == play(scheduler(beta=1.5), events)


def test_decisions_do_not_depend_on_the_hash_seed() -> None:
    """Processes with different PYTHONHASHSEED order the same calls alike."""
    script = (
        "from autellix_sgl.core import *\n"
        "s = CallScheduler(policy_named('plas'), Levels.geometric(4, 2, 2), CostModel(1.0),"
        " starvation_ratio=1)\n"
        "for i in range(50):\n"
        "    s.arrive(f'call-{i}', CallStamp(f'p{i % 7}', '', i % 11, i % 5, i % 11))\n"
        "for c in s.head(8): s.admit(c)\n"
        "for _ in range(9): s.step(StepWork(decodes=tuple(s._running)))\n"
        "print(s.promote_starving(), s.head(50), [s.call(c).key for c in s.head(50)])\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(outputs) == 1
