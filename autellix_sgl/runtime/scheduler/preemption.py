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

# On a multimodal request: its positions [3, tokens] before they were extended for the output.
POSITIONS_ATTRIBUTE = "autellix_positions"


def can_be_preempted(request: Req) -> bool:
    """Whether the request can leave the batch and resume with the same result.

    Left alone: one that has finished or is being aborted; one whose KV the tree cannot key
    (embeddings as input, a streaming session's own row, radix insertion off); one that returns
    something computed per prompt token or per step, which a second prefill would compute twice; and
    one with a custom logit processor: a new batch makes a new one, and what it counts or looks at
    is its own affair (SGLang's thinking budgets look at the output, with overlap one token late).

    docs/design.md lists what survives, and how; a test compares both with SGLang's fields.
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
        or request.custom_logit_processor is not None
        or request.is_prefill_only
    )


def steps_left(request: Req) -> int:
    """The most decode steps the request can still take."""
    return int(request.sampling_params.max_new_tokens) - len(request.output_ids)


def release(request: Req, tree_cache: BasePrefixCache, *, keep: bool = True) -> None:
    """Give the request's row back; with *keep* what it computed becomes evictable tree nodes.

    Upstream's own retraction drops what was generated (``checkpoint=False``); keeping it is what
    makes a preemption cost one short re-prefill. The request is marked retracted, so a result in
    flight under overlap is skipped and its token is sampled again.

    With recurrent layers (Mamba, GDN) nothing is kept but what the tree has already. The tree would
    take the request's state as that of a finished one, which it is not, and the slot would leak:
    upstream asserts against it. Such a request comes back to the state that its prompt has left in
    the tree, and computes its output again in one prefill.
    """
    with _without_backup(tree_cache):
        release_kv_cache(request, tree_cache, checkpoint=keep and not tree_cache.supports_mamba())
    request.reset_for_retract()


def keep_positions(request: Req) -> None:
    """Before admission looks at it: undo what its last look did to a request that comes back.

    Upstream appends positions for the output to a multimodal request's own whenever it looks at one
    that was retracted, admitted or not, so each look would make them longer.
    """
    inputs = request.multimodal_inputs
    if not request.is_retracted or inputs is None or inputs.mrope_positions is None:
        return
    kept = getattr(request, POSITIONS_ATTRIBUTE, None)
    if kept is None:
        setattr(request, POSITIONS_ATTRIBUTE, inputs.mrope_positions)
    else:
        inputs.mrope_positions = kept


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
