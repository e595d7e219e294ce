"""How much KV programs stand on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core.calls.model import Call, CallStamp
from autellix_sgl.core.memory.working_sets import MAX_IDLE_PROGRAMS, WorkingSets

QUIET_MS = 1000.0


class Book:
    """Working sets, driven by whole calls."""

    def __init__(self) -> None:
        self.sets = WorkingSets(QUIET_MS)
        self.made = 0

    def start(
        self, program: str, prompt: int, cached: int, *, thread: str = "", root: int = 0, now=0.0
    ) -> Call:
        self.made += 1
        call = Call(f"c{self.made}", CallStamp(program, thread), 0, 0.0, self.made, None)
        self.sets.arrived(call, prompt, root, now)
        self.sets.admitted(call, prompt, cached)
        return call

    def run(self, program: str, prompt: int, cached: int, context: int, **more) -> None:
        self.sets.left(self.start(program, prompt, cached, **more), context, more.get("now", 0.0))
        self.sets.check()

    def tokens(self, program: str) -> int:
        return self.sets[program].tokens


def test_a_chain_of_calls_stands_on_its_latest_context_without_the_shared_part() -> None:
    book = Book()
    book.run("p", prompt=150, cached=100, context=170)
    assert book.tokens("p") == 70
    book.run("p", prompt=200, cached=170, context=230)
    assert book.tokens("p") == 130


def test_what_was_evicted_meanwhile_does_not_change_what_the_program_stands_on() -> None:
    book = Book()
    book.run("p", prompt=150, cached=100, context=170)
    book.run("p", prompt=200, cached=0, context=230)
    assert book.tokens("p") == 130


def test_a_shared_prompt_is_counted_once_for_all_inside() -> None:
    """Two programs with one system prompt of 100 tokens, and one with another of 50."""
    book = Book()
    for program, root, shared in (("p", 1, 100), ("q", 1, 100), ("r", 2, 50)):
        book.run(program, prompt=shared + 10, cached=shared, context=shared + 20, root=root)
        book.sets.let_in(book.sets[program])
    assert book.sets.inside_tokens == 3 * 20 + 100 + 50
    book.sets.put_out(book.sets["p"])
    assert book.sets.inside_tokens == 2 * 20 + 100 + 50
    book.sets.put_out(book.sets["q"])
    assert book.sets.inside_tokens == 20 + 50


def test_a_new_program_is_expected_to_share_what_others_of_its_root_do() -> None:
    book = Book()
    book.run("p", prompt=110, cached=100, context=120, root=1)
    call = Call("x", CallStamp("q"), 0, 0.0, 99, 0.0)
    book.sets.arrived(call, 130, 1, 0.0)
    assert book.tokens("q") == 30


def test_threads_add_up_and_a_fork_shares_its_origin() -> None:
    book = Book()
    book.run("p", prompt=100, cached=0, context=120)
    book.run("p", prompt=130, cached=120, context=140, thread="fork")
    assert book.tokens("p") == 120 + 20


def test_a_helper_that_has_been_quiet_is_counted_no_more() -> None:
    book = Book()
    book.run("p", prompt=100, cached=0, context=120)
    book.run("p", prompt=50, cached=0, context=60, thread="helper")
    assert book.tokens("p") == 180
    book.run("p", prompt=130, cached=120, context=140, now=QUIET_MS + 1)
    assert book.tokens("p") == 140


def test_a_program_that_ends_is_forgotten_with_its_last_call() -> None:
    book = Book()
    call = book.start("p", 10, 0)
    book.sets.let_in(book.sets["p"])
    assert book.sets.ended("p") is not None
    assert book.sets.get("p") is not None
    book.sets.left(call, 20, 0.0)
    assert book.sets.get("p") is None
    assert book.sets.inside_tokens == 0
    assert book.sets.ended("p") is None
    book.sets.check()


def test_the_program_of_a_request_that_named_none_is_known_as_such() -> None:
    sets = WorkingSets(QUIET_MS)
    for program, anonymous in (("c", True), ("tenant/c", True), ("p", False)):
        sets.arrived(Call("c", CallStamp(program), 0, 0.0, 0, 0.0), 1, 0, 0.0)
        assert sets[program].anonymous == anonymous


def test_idle_programs_are_bounded() -> None:
    book = Book()
    for number in range(MAX_IDLE_PROGRAMS + 10):
        call = book.start(f"p{number}", 1, 0)
        book.sets.left(call, 1, 0.0)
    assert len(book.sets) == MAX_IDLE_PROGRAMS
    assert book.sets.get("p0") is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["start", "finish", "end", "let in", "put out"]),
        st.integers(0, 4),
        st.integers(0, 400),
        st.integers(0, 400),
    ),
    max_size=120,
)


@given(STEPS)
def test_the_sums_hold_whatever_happens(steps: list[tuple[str, int, int, int]]) -> None:
    book = Book()
    running: list[Call] = []
    for now, (step, which, tokens, other) in enumerate(steps):
        known = book.sets.get(f"p{which}")
        if step == "start":
            thread, cached = f"t{tokens % 3}", min(tokens, other)
            running.append(
                book.start(
                    f"p{which}", tokens, cached, thread=thread, root=other % 3, now=100.0 * now
                )
            )
        elif step == "finish" and running:
            book.sets.left(running.pop(which % len(running)), tokens, 100.0 * now)
        elif step == "end":
            book.sets.ended(f"p{which}")
        elif known is not None and step == "put out":
            book.sets.put_out(known)
        elif known is not None and step == "let in" and known.program not in book.sets.inside:
            book.sets.let_in(known)
        book.sets.check()
    for call in running:
        book.sets.ended(call.stamp.program)
        book.sets.left(call, 1, 0.0)
    assert all(known.idle for known in book.sets.inside.values())
