"""What a batch computes, in the core's terms."""

from __future__ import annotations

from sglang.srt.managers.schedule_batch import ScheduleBatch

from autellix_sgl.core import StepWork


def work_of(batch: ScheduleBatch) -> StepWork:
    """What a batch is about to compute."""
    if batch.forward_mode.is_extend():
        decoding = batch.decoding_reqs or []
        is_decoding = {id(req) for req in decoding}
        prefills = tuple(
            (req.rid, req.extend_len) for req in batch.reqs if id(req) not in is_decoding
        )
    else:
        decoding = batch.reqs
        prefills = ()
    return StepWork(
        prefills=prefills,
        decodes=tuple(req.rid for req in decoding),
        context_tokens=sum(req.seqlen for req in decoding),
    )
