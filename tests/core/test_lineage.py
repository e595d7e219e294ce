"""Sessions started by other sessions, and the root they belong to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autellix_sgl.core.programs.lineage import Lineage


def test_a_childs_child_belongs_to_the_root() -> None:
    """Also when it is asked about later, without its parent."""
    lineage = Lineage(10)
    assert lineage.root_of("", "child", "root") == "root"
    assert lineage.root_of("", "grandchild", "child") == "root"
    assert lineage.root_of("", "grandchild") == "root"
    assert lineage.root_of("", "root") == "root"


def test_a_root_that_turns_out_to_be_a_child_takes_its_children_along() -> None:
    """Parents may be named in any order."""
    lineage = Lineage(10)
    lineage.root_of("", "grandchild", "child")
    lineage.root_of("", "child", "root")
    assert lineage.root_of("", "grandchild") == "root"
    lineage.check()


def test_a_ring_of_parents_is_no_ring_here() -> None:
    """Who would become its own ancestor stays what it was."""
    lineage = Lineage(10)
    assert lineage.root_of("", "a", "a") == "a"
    assert lineage.root_of("", "b", "a") == "a"
    assert lineage.root_of("", "a", "b") == "a"
    lineage.check()


def test_the_same_ids_under_two_tenants_are_strangers() -> None:
    """A parent is looked for among the tenant's own."""
    lineage = Lineage(10)
    lineage.root_of("one", "child", "root")
    assert lineage.root_of("two", "child") == "child"
    lineage.forget("two", "root")
    assert lineage.root_of("one", "child") == "root"


def test_when_the_root_is_gone_its_children_stand_alone() -> None:
    """And an unknown root has none to forget."""
    lineage = Lineage(10)
    lineage.root_of("", "child", "root")
    lineage.forget("", "root")
    lineage.forget("", "never")
    assert lineage.root_of("", "child") == "child"
    assert len(lineage) == 0


NAMES = st.sampled_from("abcdefgh")
STEPS = st.lists(st.tuples(st.sampled_from(["", "t"]), NAMES, st.none() | NAMES, st.booleans()))


@given(STEPS)
def test_it_is_consistent_and_bounded_whatever_is_claimed(
    steps: list[tuple[str, str, str | None, bool]],
) -> None:
    """Any claims in any order; a look answers as the claim would, and changes nothing."""
    lineage = Lineage(4)
    for tenant, session, parent, forgets in steps:
        if forgets:
            lineage.forget(tenant, session)
        else:
            expected = lineage.find(tenant, session, parent)
            assert lineage.root_of(tenant, session, parent) == expected
        lineage.check()
