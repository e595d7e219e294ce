"""Sessions that other sessions started: which program do a child's calls belong to?

An agent that delegates gives the helper a session of its own and says who its parent is. The
helper's calls are part of the parent's run, so they are counted for the root of that line.
"""

from __future__ import annotations

from collections import OrderedDict

Key = tuple[str, str]
"""A tenant and an id that is unique within it."""


class Lineage:
    """Child sessions and their roots, of which the *limit* latest are known.

    A root is never a child itself: when a session that has children becomes one, they move on to
    its root with it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._roots: OrderedDict[Key, str] = OrderedDict()
        self._children: dict[Key, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._roots)

    def find(self, tenant: str, session: str, parent: str | None = None) -> str:
        """What `root_of` would answer, for a look that changes nothing."""
        known = parent or session
        root = self._roots.get((tenant, known), known)
        return root if root != session else self._roots.get((tenant, session), session)

    def root_of(self, tenant: str, session: str, parent: str | None = None) -> str:
        """The root that *session* belongs to, itself if nothing else is known.

        With *parent* it is a child from now on. A line that would close to a ring ends here.
        """
        root = self.find(tenant, session, parent)
        if parent is not None and root != session:
            self._adopt(tenant, session, root)
        return root

    def forget(self, tenant: str, root: str) -> None:
        """The root is gone, and what is known of its children with it."""
        for child in self._children.pop((tenant, root), ()):
            del self._roots[tenant, child]

    def check(self) -> None:
        """Raise AssertionError if the two directions disagree or a root is a child."""
        pairs = {
            (tenant, child, root)
            for (tenant, root), children in self._children.items()
            for child in children
        }
        known = {(tenant, child, root) for (tenant, child), root in self._roots.items()}
        assert pairs == known, f"{pairs} != {known}"
        for (tenant, child), root in self._roots.items():
            assert (tenant, root) not in self._roots, f"{child}: its root {root} is a child"
        assert len(self._roots) <= self._limit

    def _adopt(self, tenant: str, child: str, root: str) -> None:
        if self._roots.get((tenant, child)) == root:
            self._roots.move_to_end((tenant, child))
            return
        self._release(tenant, child)
        for grandchild in self._children.pop((tenant, child), {}):
            self._link(tenant, grandchild, root)
        self._link(tenant, child, root)
        while len(self._roots) > self._limit:
            self._release(*next(iter(self._roots)))

    def _link(self, tenant: str, child: str, root: str) -> None:
        self._roots[tenant, child] = root
        self._children.setdefault((tenant, root), {})[child] = None

    def _release(self, tenant: str, child: str) -> None:
        root = self._roots.pop((tenant, child), None)
        if root is None:
            return
        siblings = self._children[tenant, root]
        del siblings[child]
        if not siblings:
            del self._children[tenant, root]
