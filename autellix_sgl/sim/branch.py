"""A branch: a run of tokens that grows at its end.

A system prompt is one, and so is a chain of calls each of which repeats all of the one before. A
context that leaves a chain earlier begins a branch of its own, hung where it leaves.

    system  [==========]
    chain             [====|====|====        ]   held in memory: the leading part
    sibling                [==|==]               hangs inside the chain
"""

from __future__ import annotations


class Branch:
    """``start``: tokens above it; ``tip``: where its calls end; ``held``: own tokens in memory;
    ``written``: the most there ever were, which is what a host tier keeps.

    ``program`` and ``thread`` say whose calls write it, both empty for a system prompt.
    ``locks`` counts the running calls on it and its locked children, ``children`` the branches in
    memory that hang on it; either keeps all of it from eviction. ``used_at`` counts uses,
    ``used_ms`` is the scheduler's clock at the last one. ``number`` breaks ties.
    """

    __slots__ = (
        "children",
        "held",
        "locks",
        "number",
        "parent",
        "program",
        "start",
        "thread",
        "tip",
        "used_at",
        "used_ms",
        "written",
    )

    def __init__(
        self,
        number: int,
        parent: Branch | None,
        start: int,
        tip: int,
        program: str = "",
        thread: str = "",
    ) -> None:
        self.number = number
        self.program = program
        self.thread = thread
        self.parent = parent
        self.start = start
        self.tip = tip
        self.held = 0
        self.written = 0
        self.locks = 0
        self.children = 0
        self.used_at = 0
        self.used_ms = 0.0

    @property
    def root(self) -> int:
        """The number of the branch that its context begins on."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node.number

    @property
    def evictable(self) -> bool:
        """Whether it is in memory and nothing stands on it."""
        return bool(self.held and not self.locks and not self.children)
