"""Taking a request out of the batch while its KV stays in the radix cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.mem_cache.base_prefix_cache import BasePrefixCache
from sglang.srt.mem_cache.common import release_kv_cache

# A preemption costs one short re-prefill, and under overlap the token in flight, which is sampled
# again. A call that can end within this many steps frees its slot as soon.
PREEMPTION_COST_STEPS = 2


def can_be_preempted(request: Req) -> bool:
    """Whether the request can leave the batch and resume with the same result.

    Left alone: one that has finished or is being aborted; one whose KV the tree cannot key
    (embeddings as input, a streaming session's own row, radix insertion off); and one that returns
    something computed per prompt token or per step, which a second prefill would compute twice.
    """
    session = getattr(request, "session", None)
    prompt_logprobs = request.return_logprob and (
        0 <= request.logprob_start_len < len(request.origin_input_ids)
    )
    return not (
        request.finished()
        or request.to_finish is not None
        or request.input_embeds is not None
        or request.positional_embed_overrides is not None
        or request.beam_group is not None
        or request.skip_radix_cache_insert
        or (session is not None and session.streaming)
        or prompt_logprobs
        or request.return_hidden_states
        or request.return_routed_experts
        or request.return_indexer_topk
        or request.return_sampling_mask
        or request.is_prefill_only
    )


def steps_left(request: Req) -> int:
    """The most decode steps the request can still take."""
    return int(request.sampling_params.max_new_tokens) - len(request.output_ids)


def release(request: Req, tree_cache: BasePrefixCache, *, keep: bool = True) -> None:
    """Give the request's row back; with *keep* what it computed becomes evictable tree nodes.

    Upstream's own retraction drops what was generated (``checkpoint=False``); keeping it is what
    makes a preemption cost one short re-prefill. A tree that holds recurrent state (Mamba) takes
    over only that of finished requests, so there the request comes back to what its last prefill
    has left in the tree. The request is marked retracted, so a result in flight under overlap is
    skipped and its token is sampled again.
    """
    with _without_backup(tree_cache):
        release_kv_cache(request, tree_cache, checkpoint=keep and not tree_cache.supports_mamba())
    request.reset_for_retract()


def preempt(batch: ScheduleBatch, victims: list[Req], *, keep: bool = True) -> None:
    """Take *victims* out of the decoding batch, with *keep* KV into the tree."""
    gone = {id(request) for request in victims}
    for request in victims:
        release(request, batch.tree_cache, keep=keep)
    batch.filter_batch(keep_indices=[i for i, r in enumerate(batch.reqs) if id(r) not in gone])
    batch.batch_is_full = False


@contextmanager
def _without_backup(tree_cache: BasePrefixCache) -> Iterator[None]:
    """Insertions meanwhile start no copy to a host tier.

    A copy locks the path to the root until it is done, at the earliest a step later, and a victim's
    context that nobody can evict makes no room. It is copied when it is hit again.
    """
    threshold = getattr(tree_cache, "write_through_threshold", None)
    if threshold is None:
        yield
        return
    tree_cache.write_through_threshold = sys.maxsize
    try:
        yield
    finally:
        tree_cache.write_through_threshold = threshold
