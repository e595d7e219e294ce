"""Sampling penalties that know what a request has generated, whatever it has been through.

SGLang builds a batch's penalisers empty when requests are admitted, and in each decode step feeds
them one token a request, the last one that has been processed. That goes wrong twice:

- A request that comes back (preempted, parked, retracted, paused) brings output with it, which the
  new penalisers have never seen.
- With overlapped steps the token of the step in flight is not there yet, so the penalisers are one
  token behind: before the second token is sampled they get the prompt's last one. After a step that
  the request had no part in, another request's prefill, nothing of it is in flight: a token is
  left out, and the next is counted twice. So an answer depends on who else is served.

Here each row of a penaliser holds, at every step, the same run of tokens as if its request had been
alone on the server from the start: all that was sampled before this step, or with overlap the same
number of tokens from one place earlier. That place is known from the row's length, so neither what
has been processed nor what is in flight matters.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.sampling.penaltylib import (
    BatchedFrequencyPenalizer,
    BatchedMinNewTokensPenalizer,
    BatchedPenalizerOrchestrator,
    BatchedPresencePenalizer,
    BatchedRepetitionPenalizer,
)
from sglang.srt.utils.common import is_pin_memory_available


class OutputPenalties(BatchedPenalizerOrchestrator):  # type: ignore[misc]
    """SGLang's penalisers of a batch, filled from what its requests have generated."""

    def __init__(self, vocab_size: int, batch: ScheduleBatch, penalizers: Any) -> None:
        super().__init__(vocab_size, batch, penalizers)
        if not self.is_required:
            return
        for row, req in enumerate(batch.reqs):
            # Only as far as this step computes: of a long request, the chunks before the last
            # sample nothing that is kept.
            tokens = _between(
                req, len(req.origin_input_ids) - self._behind, req.extend_end - self._behind
            )
            if tokens:
                self._fill(row, self._on_device(tokens))

    @property
    def _behind(self) -> int:
        """How many tokens the penalisers lag behind the sampled ones."""
        return int(self.batch.enable_overlap)

    def cumulate_output_tokens(self, output_ids: torch.Tensor) -> None:
        """Before a decode step: one more token for each request.

        *output_ids* [requests] are the last processed tokens; used where they are the right ones.
        """
        batch = self.batch
        places = [length - self._behind for length in _lengths(batch)]
        requests = list(zip(batch.reqs, places, strict=False))  # beams have further rows
        if any(place != req.seqlen - 1 for req, place in requests):
            tokens = [_at(req, min(place, req.seqlen - 1)) for req, place in requests]
            output_ids = self._on_device(tokens)
        super().cumulate_output_tokens(output_ids)

    def _fill(self, row: int, tokens: torch.Tensor) -> None:
        """Feed *tokens* [n], in one go, to a row that has seen none."""
        for penalizer in self.penalizers.values():
            if penalizer.is_prepared():
                _fill(penalizer, row, tokens)

    def _on_device(self, tokens: list[int]) -> torch.Tensor:
        """On the batch's device without waiting for the step that it is computing."""
        pin = is_pin_memory_available(self.device)
        tensor = torch.tensor(tokens, dtype=torch.int64, pin_memory=pin)
        return tensor.to(self.device, non_blocking=True)


def _fill(penalizer: Any, row: int, tokens: torch.Tensor) -> None:
    """What *penalizer* would hold in *row* after *tokens* [n], one after another, to the last bit.

    Its own method takes one token for every row at once; this is the same operation on one row.
    """
    match penalizer:
        case BatchedFrequencyPenalizer():
            penalty = penalizer.frequency_penalties[row].expand(len(tokens))
            penalizer.cumulated_frequency_penalties[row].scatter_add_(0, tokens, penalty)
        case BatchedPresencePenalizer():
            penalty = penalizer.presence_penalties[row].expand(len(tokens))
            penalizer.cumulated_presence_penalties[row].scatter_(0, tokens, penalty)
        case BatchedRepetitionPenalizer():
            penalty = penalizer.repetition_penalties[row].expand(len(tokens))
            penalizer.cumulated_repetition_penalties[row].scatter_(0, tokens, penalty)
        case BatchedMinNewTokensPenalizer():
            penalizer.len_output_tokens[row] += len(tokens)
        case _:
            raise NotImplementedError(f"no way to restore a {type(penalizer).__name__}")


def _lengths(batch: ScheduleBatch) -> list[int]:
    """Tokens of each row whose KV is there, those of an encoder included."""
    lengths: list[int] = batch.seq_lens_cpu.tolist()
    if batch.model_config.is_encoder_decoder:
        return [a + b for a, b in zip(lengths, batch.encoder_lens_cpu, strict=True)]
    return lengths


def _at(req: Req, place: int) -> int:
    """The token at *place* of prompt and output together."""
    prompt = len(req.origin_input_ids)
    return int(req.origin_input_ids[place] if place < prompt else req.output_ids[place - prompt])


def _between(req: Req, start: int, end: int) -> list[int]:
    """The tokens in [start, end) of prompt and output together."""
    prompt = len(req.origin_input_ids)
    return list(
        chain(
            req.origin_input_ids[max(start, 0) : min(end, prompt)],
            req.output_ids[max(start - prompt, 0) : max(end - prompt, 0)],
        )
    )
