import pytest
from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core import (
    CallStatistics,
    Forecast,
    Hints,
    Kinds,
    Levels,
    ProcessTable,
    policy_named,
)
from autellix_sgl.core.programs.program import LAST_CALLS_KEPT
from autellix_sgl.errors import UnknownCall, UnknownProgram


def spent(service_ms: float, wait_ms: float = 0.0) -> CallStatistics:
    return CallStatistics(0, service_ms, wait_ms, 0, 0, 0)


def table(policy: str = "plas", *, lease_s: float = 60, max_programs: int = 100) -> ProcessTable:
    return ProcessTable(policy_named(policy), lease_s=lease_s, max_programs=max_programs)


def test_plas_orders_a_call_by_the_service_of_the_calls_before_it() -> None:
    """p(c_j) is the sum of t_k over the completed calls k < j."""
    t = table("plas")
    assert t.arrive("a1", "A", now=0).priority_ms == 0
    t.complete("a1", spent(5, 2), now=1)
    assert t.arrive("a2", "A", now=2).priority_ms == 5
    t.complete("a2", spent(7, 1), now=3)
    stamp = t.arrive("a3", "A", now=4)
    assert (stamp.priority_ms, stamp.program_service_ms, stamp.program_wait_ms) == (12, 12, 3)


def test_atlas_orders_parallel_calls_by_the_longest_chain_not_by_their_sum() -> None:
    """Three parallel calls of 10, 4 and 6 leave the program at 10; PLAS would say 20."""
    t = table("atlas")
    for call in ("x", "y", "z"):
        assert t.arrive(call, "A", now=0).priority_ms == 0
    for call, service in (("x", 10), ("y", 4), ("z", 6)):
        t.complete(call, spent(service), now=1)
    assert t.program("A").service_ms == 10
    assert t.program("A").total_service_ms == 20


@given(st.lists(st.floats(0, 1000), max_size=30))
def test_atlas_equals_plas_on_a_single_threaded_program(services: list[float]) -> None:
    """One call after another: the longest chain is the whole program."""
    plas, atlas = table("plas"), table("atlas")
    for i, service in enumerate(services):
        stamps = [t.arrive(f"c{i}", "A", now=i) for t in (plas, atlas)]
        assert stamps[0].priority_ms == pytest.approx(stamps[1].priority_ms)
        for t in (plas, atlas):
            t.complete(f"c{i}", spent(service), now=i)


def test_service_is_carried_from_another_table() -> None:
    """A program that comes from elsewhere goes on where it was; an old number changes nothing."""
    here, there = table("plas"), table("plas")
    here.arrive("a", "A", now=0)
    here.complete("a", spent(50), now=1)
    carried_ms = here.program("A").service_ms
    stamp = there.arrive("b", "A", now=2, attained_ms=carried_ms)
    assert (stamp.priority_ms, stamp.program_service_ms) == (50, 50)
    there.complete("b", spent(20), now=3)
    assert there.arrive("c", "A", now=4, attained_ms=carried_ms).priority_ms == 70
    assert here.arrive("d", "A", now=5, attained_ms=70).priority_ms == 70


def test_a_program_ends_with_the_call_that_says_so() -> None:
    """It goes when its last active call has left, not before."""
    t = table()
    t.arrive("a", "A", now=0)
    t.arrive("b", "A", now=0, ends_program=True)
    t.complete("b", spent(1), now=1)
    assert "A" in t
    t.complete("a", spent(1), now=2)
    assert "A" not in t
    with pytest.raises(UnknownProgram):
        t.end("A")


def test_an_unlabelled_calls_program_goes_with_the_call() -> None:
    """A transient program leaves nothing behind, finished or aborted."""
    t = table()
    t.arrive("a", "a", now=0, transient=True)
    t.complete("a", spent(1), now=1)
    t.arrive("b", "b", now=0, transient=True)
    t.abort("b", now=1)
    assert len(t) == 0


def test_an_idle_program_lapses_after_its_lease_and_a_busy_one_never() -> None:
    """The lease counts from the last call's end; a call in the system stops it."""
    t = table(lease_s=10)
    t.arrive("a", "A", now=0)
    t.arrive("b", "B", now=0)
    t.complete("a", spent(1), now=5)
    assert t.expire(now=14) == []
    assert t.expire(now=15) == ["A"]
    assert t.expire(now=1e9) == []
    assert "B" in t


def test_over_the_count_the_longest_idle_program_is_dropped() -> None:
    """A flood of ids keeps the table at its bound, and calls in flight keep their programs."""
    t = table(max_programs=3)
    t.arrive("busy", "BUSY", now=0)
    for i in range(10):
        t.arrive(f"c{i}", f"P{i}", now=i)
        t.complete(f"c{i}", spent(1), now=i)
    assert [p.id for p in t] == ["BUSY", "P8", "P9"]
    assert t.statistics().evicted == 8


def test_an_aborted_call_is_charged_for_what_it_used() -> None:
    """Aborting does not buy free service; a call aborted in the queue used none."""
    t = table()
    t.arrive("a", "A", now=0)
    t.abort("a", now=1, statistics=spent(30, 4))
    assert t.arrive("b", "A", now=2).priority_ms == 30
    t.abort("b", now=3)
    assert t.program("A").service_ms == 30
    assert t.program("A").calls_aborted == 2


def test_a_call_id_cannot_arrive_twice_or_leave_twice() -> None:
    """Both raise UnknownCall, and the table is unchanged."""
    t = table()
    t.arrive("a", "A", now=0)
    with pytest.raises(UnknownCall):
        t.arrive("a", "B", now=0)
    t.complete("a", spent(1), now=1)
    with pytest.raises(UnknownCall):
        t.complete("a", spent(1), now=1)
    t.check()


def test_what_is_kept_of_threads_is_bounded() -> None:
    """A program may use a fresh thread for each call; the oldest names are forgotten."""
    t = table()
    for i in range(1000):
        t.arrive(f"c{i}", "A", now=i, thread=str(i))
        t.complete(f"c{i}", spent(1), now=i)
    assert len(t.program("A").threads) == 256
    assert "999" in t.program("A").threads


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from(["arrive", "complete", "abort", "end", "wait"])
        ),
        max_size=80,
    )
)
def test_calls_and_programs_always_agree(operations: list[tuple[int, str]]) -> None:
    """Under any sequence of events every active call has its program and idle ones stay bounded."""
    t = table(lease_s=7, max_programs=3)
    active: list[str] = []
    for now, (which, what) in enumerate(operations):
        if what == "arrive":
            t.arrive(f"c{now}", f"P{which}", now=now)
            active.append(f"c{now}")
        elif what == "end" and f"P{which}" in t:
            t.end(f"P{which}")
        elif what == "wait":
            t.expire(now=now)
        elif active and what in ("complete", "abort"):
            call = active.pop(which % len(active))
            if what == "complete":
                t.complete(call, spent(1), now=now)
            else:
                t.abort(call, now=now)
        t.check()
        assert t.statistics().active_calls == len(active)


def test_the_same_id_under_two_tenants_is_two_programs() -> None:
    """Neither is charged for, found under, or ended with the other."""
    t = table("plas")
    t.arrive("a", "P", now=0, tenant="one")
    t.complete("a", spent(9), now=1)
    assert t.arrive("b", "P", now=2, tenant="two").priority_ms == 0
    assert t.arrive("c", "P", now=2, tenant="one").priority_ms == 9
    assert [p.tenant for p in t] == ["one", "two"]
    assert list(t.programs_of("one")) == ["P"]
    assert list(t.programs_of("three")) == []
    with pytest.raises(UnknownProgram):
        t.program("P")
    t.abort("c", now=3)
    t.end("P", tenant="one")
    assert [p.tenant for p in t] == ["two"]
    t.check()


def test_a_child_session_is_a_thread_of_the_root_program() -> None:
    """Charged to the root, and its end is not the root's."""
    t = table("plas")
    t.arrive("a", "root", now=0)
    t.complete("a", spent(5), now=1)
    stamp = t.arrive("b", "child", now=2, parent="root", thread="t", ends_program=True)
    assert (stamp.program, stamp.thread, stamp.priority_ms) == ("root", "child.t", 5)
    t.complete("b", spent(4), now=3)
    assert t.arrive("c", "child", now=4).priority_ms == 9
    t.complete("c", spent(1), now=5)
    assert [p.id for p in t] == ["root"]
    assert t.program("root").threads == {"": 1, "child.t": 1, "child": 1}
    assert t.root_of("grandchild", parent="child") == "root"
    t.end("root")
    assert t.arrive("d", "child", now=6).program == "child"
    t.check()


def test_users_and_sources_are_kept_for_showing() -> None:
    """The user its latest call named, and what first named the program."""
    t = table()
    t.arrive("a", "P", now=0, user="alice", source="session-id")
    t.arrive("b", "P", now=0, source="x-session-id")
    assert (t.program("P").user, t.program("P").source) == ("alice", "session-id")
    t.arrive("c", "P", now=0, user="bob")
    assert t.program("P").user == "bob"


def test_schedulers_see_one_name_for_each_program() -> None:
    """Programs of two tenants must not fall together in a decision log."""
    t = table()
    assert t.arrive("a", "P", now=0).program == "P"
    assert t.arrive("b", "P", now=0, tenant="one").program == "one/P"


def waited(*waits: float) -> CallStatistics:
    return CallStatistics(0, 1.0, sum(waits), 0, 0, 0, waits)


@given(st.lists(st.lists(st.floats(0, 1e6), min_size=5, max_size=5), min_size=1, max_size=12))
def test_a_programs_waits_add_up_by_reason(calls: list[list[float]]) -> None:
    """To the sum of its calls' waits, exactly, and those of aborted calls are in it."""
    t = table()
    for number, waits in enumerate(calls):
        t.arrive(f"c{number}", "A", now=number)
        if number % 3:
            t.complete(f"c{number}", waited(*waits), now=number)
        else:
            t.abort(f"c{number}", statistics=waited(*waits), now=number)
    program = t.program("A")
    assert sum(program.settled_waits) == program.total_wait_ms
    for number in range(5):
        assert program.waits[number] == pytest.approx(sum(waits[number] for waits in calls))


def test_the_last_calls_of_a_program_are_kept() -> None:
    """A few, oldest first, with what became of them; one that left without a word is not."""
    t = table()
    for number in range(LAST_CALLS_KEPT + 3):
        t.arrive(f"c{number}", "A", now=number, thread="t")
        t.complete(f"c{number}", waited(0.0, 0.0, number, 0.0, 0.0), now=number + 0.5)
    t.arrive("aborted", "A", now=90)
    t.abort("aborted", statistics=spent(1), now=91)
    t.arrive("silent", "A", now=92)
    t.abort("silent", now=93)
    kept = t.program("A").last_calls
    assert [call.id for call in kept] == ["c4", "c5", "c6", "aborted"]
    assert [call.aborted for call in kept] == [False, False, False, True]
    assert (kept[0].thread, kept[0].left_at, kept[0].statistics.wait_ms) == ("t", 4.5, 4)


# -- kinds, and what is learned of them -----------------------------------------------------------

SYSTEM = list(range(500))


def learning(*, lease_s: float = 60, max_programs: int = 100) -> ProcessTable:
    return ProcessTable(
        policy_named("gittins"),
        lease_s=lease_s,
        max_programs=max_programs,
        kinds=Kinds(enough_programs=2),
        forecast=Forecast(Levels.geometric(12, 200.0, 2.0)),
    )


def run(t: ProcessTable, program: str, service_ms: float, *, end: bool = True) -> None:
    """A program of one call that begins with the system prompt."""
    t.arrive(f"{program}.0", program, now=0, prompt=SYSTEM, ends_program=end)
    t.complete(f"{program}.0", spent(service_ms), now=1, output_tokens=10)


def test_a_program_is_of_the_kind_that_begins_as_it_does_and_keeps_it() -> None:
    t = learning()
    t.arrive("a1", "A", now=0, prompt=[*SYSTEM, 1])
    assert t.program("A").kind is None
    t.arrive("b1", "B", now=0, prompt=[*SYSTEM, 2])
    kind = t.program("B").kind
    assert kind is not None
    t.arrive("a2", "A", now=0, prompt=[9, 9, 9])  # the first prompt counts
    assert t.program("A").kind == kind
    assert t.program("A").heads == ()


def test_without_kinds_prompts_are_not_looked_at() -> None:
    t = table("atlas")
    for call in ("a", "b", "c", "d", "e", "f"):
        stamp = t.arrive(call, call, now=0, prompt=SYSTEM)
        assert (stamp.itinerary, stamp.order) == ((), 0)
    assert t.program("a").kind is None


def test_calls_are_stamped_by_what_ended_programs_of_their_kind_had() -> None:
    t = learning()
    for number in range(20):
        assert t.arrive("probe", "probe", now=0, prompt=SYSTEM).itinerary == () or number >= 9
        t.abort("probe", now=0)
        run(t, f"P{number}", 60_000.0)
    ((level, _), *_) = t.arrive("new", "new", now=0, prompt=SYSTEM).itinerary
    assert level >= 6


def test_programs_under_way_tell_of_their_kind_before_any_has_ended() -> None:
    """By attained service, a kind of equally long programs would end none while new ones come."""
    t = learning()
    for number in range(12):
        run(t, f"P{number}", 20_000.0, end=False)
        t.arrive(f"P{number}.1", f"P{number}", now=2)
    young = t.arrive("new", "new", now=2, prompt=SYSTEM)
    old = t.arrive("P3.2", "P3", now=2)
    assert young.itinerary[0][0] >= old.itinerary[0][0] > 0
    assert old.order < young.order


def test_a_program_that_lapsed_has_ended_too() -> None:
    t = learning(lease_s=10)
    for number in range(20):
        run(t, f"P{number}", 60_000.0, end=False)
    assert t.arrive("new", "new", now=2, prompt=SYSTEM).itinerary == ()
    t.expire(now=12)
    assert t.arrive("newer", "newer", now=12, prompt=SYSTEM).itinerary != ()


def test_within_a_level_programs_go_in_the_order_they_opened() -> None:
    """Those with an itinerary; the others take turns behind all that have opened by then."""
    t = learning()
    for number in range(12):
        run(t, f"P{number}", 5000.0)
    first = t.arrive("a1", "A", now=0, prompt=SYSTEM)
    stranger = t.arrive("s1", "S", now=0, prompt=[7] * 100)
    second = t.arrive("b1", "B", now=0, prompt=SYSTEM)
    again = t.arrive("a2", "A", now=0)
    stranger_again = t.arrive("s2", "S", now=0)
    assert first.order == again.order < second.order
    assert first.order < stranger.order < stranger_again.order == second.order


def test_what_a_client_expects_is_kept_until_it_says_otherwise() -> None:
    t = learning()
    t.arrive("a1", "A", now=0, hints=Hints(calls=3))
    t.arrive("a2", "A", now=0)
    assert t.program("A").hints == Hints(calls=3)
    t.arrive("a3", "A", now=0, hints=Hints(tokens=90))
    assert t.program("A").hints == Hints(tokens=90)


def test_a_hint_moves_a_call_in_its_kinds_own_measure() -> None:
    """Programs of one call of 5 s each: ten calls are 50 s, at most one level on."""
    t = learning()
    for number in range(20):
        run(t, f"P{number}", 5000.0)
    plain, long = (
        t.arrive(f"{hints}", f"{hints}", now=0, prompt=SYSTEM, hints=hints).itinerary[0][0]
        for hints in (None, Hints(calls=10))
    )
    assert long == plain + 1


def test_what_a_program_had_elsewhere_is_in_its_length_and_not_in_the_cost_of_its_calls() -> None:
    """Programs that came with 50 s and made one call of 5 s: a call costs 5 s all the same."""
    t = learning()
    for number in range(20):
        t.arrive(f"{number}", f"P{number}", now=0, prompt=SYSTEM, attained_ms=50_000.0)
        t.complete(f"{number}", spent(5000.0), now=1, output_tokens=10)
        t.end(f"P{number}")
    t.arrive("new", "new", now=2, prompt=SYSTEM)
    history = t.program("new").history
    assert history is not None
    assert history.expected_ms(Hints(calls=3)) == pytest.approx(15_000.0)
    fifty_s = history.ranks_ms()[history.moved(None, 50_000.0) or 0]
    assert fifty_s < history.ranks_ms()[0]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["arrive", "complete", "abort", "end", "expire"]), st.integers(0, 5)
        ),
        max_size=80,
    )
)
def test_learning_keeps_the_table_consistent(events: list[tuple[str, int]]) -> None:
    t = learning(lease_s=3, max_programs=4)
    open_calls: list[str] = []
    for now, (event, which) in enumerate(events):
        if event == "arrive":
            prompt = SYSTEM if which % 2 else [which] * 40
            t.arrive(f"c{now}", f"P{which}", now=now, prompt=prompt)
            open_calls.append(f"c{now}")
        elif event == "complete" and open_calls:
            t.complete(open_calls.pop(which % len(open_calls)), spent(which * 100.0), now=now)
        elif event == "abort" and open_calls:
            t.abort(open_calls.pop(which % len(open_calls)), now=now)
        elif event == "end" and f"P{which}" in t:
            t.end(f"P{which}")
        else:
            t.expire(now=now)
        t.check()


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30))
def test_calls_that_nobody_waits_for_are_taken_out(calls: list[tuple[int, bool]]) -> None:
    """Once, each counted as aborted; the others stay as they are."""
    t = learning()
    for number, (program, _) in enumerate(calls):
        t.arrive(str(number), f"P{program}", now=0, transient=program == 0)
    live = {str(number) for number, (_, waited_for) in enumerate(calls) if waited_for}
    stray = t.reconcile(live, now=1)
    t.check()
    assert len(stray) + len(live) == len(calls)
    assert {call.id for call in t.active_calls()} == live
    assert t.reconcile(live, now=2) == []
    assert t.statistics().calls_stray == t.statistics().calls_aborted == len(stray)
