"""The KV pool as a radix tree of contexts, at the grain of branches.

What a branch has in memory is always its leading part, and all that is above it, as in a radix
tree; so "how much of this prompt is cached" is one walk upwards.
"""

from __future__ import annotations

from autellix_sgl.sim.branch import Branch
from autellix_sgl.sim.eviction import EvictionOrder, LeastRecent
from autellix_sgl.workloads import ProgramTrace


class PrefixCache:
    """Branches of all contexts, in a pool of *capacity* tokens; *order* says what is evicted first.

    ``used`` counts what is in memory, ``locked`` the part that running calls stand on. The replica
    sets ``clock_ms``, its scheduler's clock, which branches are stamped with.
    """

    def __init__(
        self, capacity: int, *, shared: bool = True, order: EvictionOrder | None = None
    ) -> None:
        self.capacity = capacity
        self.shared = shared
        self.used = 0
        self.locked = 0
        self._systems: dict[str, Branch] = {}
        self._contexts: dict[str, dict[int, Branch]] = {}
        self._order: EvictionOrder = LeastRecent() if order is None else order
        self.clock_ms = 0.0
        self._uses = 0
        self._made = 0

    @property
    def available(self) -> int:
        """Tokens that are free or can be evicted."""
        return self.capacity - self.locked

    # -- where a context lives ------------------------------------------------------------------

    def branch_of(self, program: ProgramTrace, index: int) -> Branch:
        """The branch that holds the end of the call's context; made on first sight."""
        if not self.shared:
            return self._new(None, 0, 0)
        contexts = self._contexts.setdefault(program.id, {})
        missing: list[int] = []
        at: int | None = index
        while at is not None and at not in contexts:
            missing.append(at)
            at = program.calls[at].extends
        for number in reversed(missing):
            contexts[number] = self._grow(program, number, contexts)
        return contexts[index]

    def forget(self, program: ProgramTrace) -> None:
        """The program is over: nobody will extend its contexts. What is in memory stays there."""
        self._contexts.pop(program.id, None)

    def _grow(self, program: ProgramTrace, index: int, contexts: dict[int, Branch]) -> Branch:
        call = program.calls[index]
        host: Branch | None
        if call.extends is None:
            host = self._system(call.system) if call.system else None
        else:
            host = contexts[call.extends]
            if host.tip == call.shared_tokens:  # goes on where the chain ends
                host.tip = call.context_tokens
                return host
            while host is not None and host.start >= call.shared_tokens:
                host = host.parent
        return self._new(host, call.shared_tokens, call.context_tokens, program.id, call.thread)

    def _new(
        self, parent: Branch | None, start: int, tip: int, program: str = "", thread: str = ""
    ) -> Branch:
        self._made += 1
        return Branch(self._made, parent, start, tip, program, thread)

    def _system(self, name: str) -> Branch:
        if name not in self._systems:
            self._systems[name] = self._new(None, 0, 0)
        return self._systems[name]

    # -- memory ---------------------------------------------------------------------------------

    def matched(self, branch: Branch, length: int) -> int:
        """How many of a context's first *length* tokens are in memory."""
        node: Branch | None = branch
        while node is not None:
            if node.held:
                return min(length, node.start + node.held)
            length = min(length, node.start)
            node = node.parent
        return 0

    def unlocked(self, branch: Branch, length: int) -> int:
        """How many of a context's first *length* tokens are in memory, and nobody runs on them."""
        tokens = self.matched(branch, length)
        node: Branch | None = branch
        while node is not None:
            if node.locks:
                return tokens - min(tokens, node.start + node.held)
            node = node.parent
        return tokens

    def written(self, branch: Branch, length: int) -> int:
        """How many of a context's first *length* tokens have ever been in memory."""
        node: Branch | None = branch
        while node is not None:
            if node.written:
                return min(length, node.start + node.written)
            length = min(length, node.start)
            node = node.parent
        return 0

    def acquire(self, branch: Branch, length: int, *, again: bool = False) -> None:
        """Lock the context and take memory for its first *length* tokens.

        *again* says that it is for a call that has been in memory before.
        """
        self._lock(branch)
        node: Branch | None = branch
        while node is not None and node.held < length - node.start:
            self._resize(node, length - node.start)
            length, node = node.start, node.parent
        self.shrink()

    def grow(self, tokens: int) -> None:
        """Running calls have written *tokens* more; whose they are is told at release."""
        self.used += tokens
        self.locked += tokens
        if self.used > self.capacity:
            self.shrink()

    def release(self, branch: Branch, length: int, grown: int) -> None:
        """A call leaves: its context is *length* tokens, *grown* of them through :meth:`grow`."""
        held = max(0, length - branch.start)
        self.used -= grown
        self.locked -= grown
        self._resize(branch, held if self.shared else 0)
        self._unlock(branch)

    def shrink(self) -> None:
        """Evict unlocked leaves in the order's order until the pool is not over-full."""
        while self.used > self.capacity:
            branch = self._order.first()
            if branch is None:
                return
            self._resize(branch, max(0, branch.held - (self.used - self.capacity)))
            self._offer(branch)

    def check(self) -> None:
        """Raise AssertionError if more is locked than used, or used than there is."""
        assert 0 <= self.locked <= self.used, f"{self.locked} locked of {self.used} used tokens"
        assert self.used <= self.capacity, f"{self.used} used of {self.capacity} tokens"

    # -- inside ---------------------------------------------------------------------------------

    def _resize(self, branch: Branch, held: int) -> None:
        change = held - branch.held
        if branch.parent is not None and bool(held) != bool(branch.held):
            branch.parent.children += 1 if held else -1
            if not held:
                self._offer(branch.parent)
        branch.held = held
        branch.written = max(branch.written, held)
        self.used += change
        if branch.locks:
            self.locked += change

    def _lock(self, branch: Branch) -> None:
        node: Branch | None = branch
        while node is not None:
            node.locks += 1
            if node.locks > 1:
                return
            self.locked += node.held
            node = node.parent

    def _unlock(self, branch: Branch) -> None:
        self._uses += 1
        node: Branch | None = branch
        while node is not None:
            node.used_at = self._uses
            node.used_ms = self.clock_ms
            node.locks -= 1
            if node.locks:
                return
            self.locked -= node.held
            self._offer(node)
            node = node.parent

    def _offer(self, branch: Branch) -> None:
        """Let a branch be evicted, if nothing stands on it."""
        if branch.evictable:
            self._order.offer(branch)
