"""SGLang's radix cache, whose nodes know which program used them last, and so what they are worth.

SGLang takes its tree cache from a registry (``--radix-cache-backend``), a tree's core from another,
and from the core a strategy that gives each leaf a priority when memory is needed, the smallest
first. This is one entry in each of the first two and such a strategy; what is inserted, matched and
freed, and how, is SGLang's. Its core in Rust takes no strategy from outside, so the core is the one
in Python. With a host tier the same order says what leaves host memory.

The contexts of a program that has ended are the first to go, and are not freed before somebody
needs the room: they may begin with a system prompt that the next program finds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.mem_cache.base_prefix_cache import TreeLock
from sglang.srt.mem_cache.evict_policy import EvictionStrategy
from sglang.srt.mem_cache.registry import (
    TreeCacheBuildContext,
    create_unified_radix_cache,
    get_radix_cache_factory,
    register_radix_cache_backend,
)
from sglang.srt.mem_cache.unified_cache.tree_core_registry import register_tree_core_backend
from sglang.srt.mem_cache.unified_cache.unified_tree_core import UnifiedTreeCore, UnifiedTreeNode
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

from autellix_sgl.config import PROGRAM_CACHE
from autellix_sgl.core import CallScheduler, CallStamp
from autellix_sgl.core.memory.program_memory import LIVE
from autellix_sgl.errors import ConfigError

# On SGLang's tree node: who used it last.
USE_ATTRIBUTE = "autellix_use"

# A node that nobody is known to have used.
UNKNOWN_WORTH = (LIVE, float("-inf"))


class NodeUse(NamedTuple):
    """The last use of a node, on the modelled clock. ``program`` None: several have used it."""

    program: str | None
    thread: str
    used_ms: float


class LeastWorth(EvictionStrategy):  # type: ignore[misc]
    """What the core scheduler says of the program that a leaf belongs to."""

    def __init__(self) -> None:
        self.calls: CallScheduler | None = None

    def get_priority(self, node: UnifiedTreeNode) -> tuple[int, float, float]:
        use: NodeUse | None = getattr(node, USE_ATTRIBUTE, None)
        if use is None or self.calls is None:
            worth = UNKNOWN_WORTH
        else:
            worth = self.calls.worth(use.program, use.thread, use.used_ms)
        return (*worth, node.last_access_time)


class ProgramTreeCore(UnifiedTreeCore):  # type: ignore[misc]
    """SGLang's tree, with our order of eviction."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.eviction_strategy = LeastWorth()

    def _split_node(self, key: Any, child: UnifiedTreeNode, split_len: int) -> Any:
        upper, action = super()._split_node(key, child, split_len)
        setattr(upper, USE_ATTRIBUTE, getattr(child, USE_ATTRIBUTE, None))
        return upper, action

    def used(self, leaf: int, use: NodeUse) -> None:
        """The context that ends in the node *leaf* was used."""
        node = self.node_by_id(leaf)
        while node is not self.root_node:
            before: NodeUse | None = getattr(node, USE_ATTRIBUTE, None)
            shared = before is not None and before.program != use.program
            setattr(node, USE_ATTRIBUTE, use._replace(program=None) if shared else use)
            node = node.parent


class ProgramRadixCache(UnifiedRadixCache):  # type: ignore[misc]
    """SGLang's cache, which notes whose context it is that a request puts into it."""

    _calls: CallScheduler | None = None

    def attach(self, calls: CallScheduler, stamp_of: Callable[[Req], CallStamp]) -> None:
        """From now on *calls* says what contexts are worth."""
        self._calls = calls
        self._stamp_of = stamp_of
        self.tree_core.eviction_strategy.calls = calls

    def checkpoint_into_tree(self, req: Req, *, up_to: int, **kwargs: Any) -> None:
        super().checkpoint_into_tree(req, up_to=up_to, **kwargs)
        # The request's lock has moved to the node that what it has ends in.
        lock: TreeLock | None = req.lock
        if lock is not None and self._calls is not None:
            stamp = self._stamp_of(req)
            use = NodeUse(stamp.program, stamp.thread, self._calls.clock_ms)
            self.tree_core.used(lock.node, use)


def register() -> None:
    """Make the cache known to this process's SGLang."""
    if get_radix_cache_factory(PROGRAM_CACHE) is None:
        register_radix_cache_backend(PROGRAM_CACHE, _make)
        register_tree_core_backend(PROGRAM_CACHE, ProgramTreeCore)


def _make(context: TreeCacheBuildContext) -> UnifiedRadixCache:
    if context.is_hybrid_swa and context.full_tokens_per_layer == 0:
        raise ConfigError(
            "--program-eviction value does not go with a model that has sliding-window layers "
            "only: SGLang keeps their KV in a cache of another kind"
        )
    context.params.tree_core_backend = PROGRAM_CACHE
    return create_unified_radix_cache(context, cache_class=ProgramRadixCache)
