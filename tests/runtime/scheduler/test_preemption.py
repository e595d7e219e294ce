"""What leaves the batch, how, and what it keeps."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import autellix_sgl.runtime  # noqa: F401 (prepares the process for sglang)
from autellix_sgl.runtime.scheduler import preemption
from autellix_sgl.runtime.scheduler.preemption import can_be_preempted, keep_positions, release

# isort: split
from sglang.srt.layers import sampler
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.sampling.sampling_params import SamplingParams

ORDINARY: dict[str, Any] = {
    "to_finish": None,
    "input_embeds": None,
    "positional_embed_overrides": None,
    "beam_group": None,
    "skip_radix_cache_insert": False,
    "session": None,
    "return_logprob": False,
    "logprob_start_len": -1,
    "origin_input_ids": [1, 2, 3],
    "return_hidden_states": False,
    "return_routed_experts": False,
    "return_indexer_topk": False,
    "return_sampling_mask": False,
    "custom_logit_processor": None,
    "is_prefill_only": False,
}


def request_with(**fields: Any) -> Any:
    return SimpleNamespace(finished=lambda: False, **{**ORDINARY, **fields})


def test_an_ordinary_request_can_be_preempted() -> None:
    """And so can one that returns the log-probabilities of what it generates."""
    assert can_be_preempted(request_with())
    assert can_be_preempted(request_with(return_logprob=True))
    assert can_be_preempted(request_with(return_logprob=True, logprob_start_len=3))
    assert can_be_preempted(request_with(session=SimpleNamespace(streaming=False)))


@pytest.mark.parametrize(
    "fields",
    [
        {"to_finish": "abort"},
        {"input_embeds": [[0.0]]},
        {"positional_embed_overrides": "embeds"},
        {"beam_group": "group"},
        {"skip_radix_cache_insert": True},
        {"session": SimpleNamespace(streaming=True)},
        {"return_logprob": True, "logprob_start_len": 0},
        {"return_hidden_states": "last"},
        {"return_routed_experts": True},
        {"return_indexer_topk": True},
        {"return_sampling_mask": True},
        {"custom_logit_processor": "{}"},
        {"is_prefill_only": True},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_what_cannot_be_resumed_is_left_alone(fields: dict[str, Any]) -> None:
    """Because its KV has no key, or a second prefill would compute something twice."""
    assert not can_be_preempted(request_with(**fields))


# What SGLang's reset takes from a request: where its KV is, and what of its prompt has been
# computed. All of it is found or computed anew when the request is admitted again.
TAKEN = {
    "retraction_count",
    "prefix_len",
    "routed_experts",
    "indexer_topk",
    "last_node",
    "kv_rotation_base",
    "num_matched_prefix_tokens",
    "lock",
    "swa_branching_seqlen",
    "extend_end",
    "dllm_initialized",
    "is_retracted",
    "retracted_stain",
    "input_token_logprobs",
    "temp_input_top_logprobs_val",
    "temp_input_top_logprobs_idx",
    "temp_input_token_ids_logprobs_val",
    "temp_input_token_ids_logprobs_idx",
    "inflight_middle_chunks",
    "mamba_branching_seqlen",
    "already_computed",
    "extend_batch_idx",
    "decode_batch_idx",
}


def a_request() -> Any:
    return Req("r", "", array("q", [1, 2, 3]), SamplingParams(), return_logprob=True)


def test_a_request_keeps_all_that_its_answer_depends_on() -> None:
    """Output, grammar, logprobs, text, reasoning so far, stream offsets, cache key: all of it."""
    request = a_request()
    kept_as_they_are = {"retraction_count", "kv", "input_embeds"}
    marks = {name: object() for name in vars(request) if name not in kept_as_they_are}
    for name, mark in marks.items():
        setattr(request, name, mark)
    request.reset_for_retract()
    changed = {name for name, mark in marks.items() if vars(request)[name] is not mark}
    assert changed | {"retraction_count"} == TAKEN


def test_reasoning_is_counted_across_a_preemption() -> None:
    """The end of the thinking is recognised even if the preemption comes in its middle."""
    request = a_request()
    request.update_reasoning_tokens(7, (8, 9))
    request.update_reasoning_tokens(8, (8, 9))
    request.reset_for_retract()
    request.update_reasoning_tokens(9, (8, 9))
    request.update_reasoning_tokens(5, (8, 9))
    assert request.reasoning_tokens == 3


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_recurrent_state_is_not_left_in_the_tree(
    recurrent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention's KV is; a model with recurrent layers computes its output again."""
    released: list[bool] = []
    monkeypatch.setattr(
        preemption, "release_kv_cache", lambda req, tree, *, checkpoint: released.append(checkpoint)
    )
    request = a_request()
    tree: Any = SimpleNamespace(supports_mamba=lambda: recurrent)
    release(request, tree)
    assert released == [not recurrent]
    assert request.is_retracted


class Pictured(Req):  # type: ignore[misc]
    """A request with a picture: a position in each of three dimensions for each token."""

    def __init__(self, prompt: int) -> None:
        super().__init__("r", "", array("q", range(prompt)), SamplingParams())
        self.multimodal_inputs = SimpleNamespace(mrope_positions=torch.arange(prompt).expand(3, -1))

    @property
    def positions(self) -> torch.Tensor:
        positions: torch.Tensor = self.multimodal_inputs.mrope_positions
        return positions


def look_at(request: Pictured) -> None:
    """As admission does."""
    keep_positions(request)
    request.init_next_round_input(None)


def test_positions_do_not_grow_with_each_look() -> None:
    """However often admission looks at a waiting request, and however often it comes back."""
    request = Pictured(5)
    look_at(request)
    assert request.positions.shape == (3, 5)
    for generated in (4, 9):
        request.output_ids = array("q", range(generated))
        request.reset_for_retract()
        for _ in range(3):
            look_at(request)
            assert torch.equal(request.positions, torch.arange(5 + generated).expand(3, -1))
        request.is_retracted = False  # it is admitted


def test_sglang_itself_lets_positions_grow() -> None:
    """Why this is needed."""
    request = Pictured(5)
    request.output_ids = array("q", range(4))
    request.reset_for_retract()
    request.init_next_round_input(None)
    request.init_next_round_input(None)
    assert request.positions.shape == (3, 5 + 4 + 4)


def test_sampling_with_a_seed_is_a_function_of_the_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever row of whatever batch: seed, position and logits say what is drawn.

    The hash itself has no form for the CPU here; any function of the same numbers stands for it.
    """

    def hashed(seed: torch.Tensor, positions: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        rows = seed.to(torch.int64) * 40503 + positions * 65599
        return (rows[:, None] * 2654435761 + columns * 97654321 + 12345) % (2**32 - 1)

    monkeypatch.setattr(sampler, "murmur_hash32", hashed)
    draw = sampler.multinomial_with_seed._torchdynamo_orig_callable
    logprobs = torch.log_softmax(torch.linspace(0, 1, 64), dim=0).expand(6, -1)
    seeds = torch.tensor([7, 7, 7, 8, 7, 8])
    positions = torch.tensor([10, 11, 10, 11, 12, 11])
    drawn = draw(logprobs, seeds, positions).flatten().tolist()
    for row in range(6):
        one = slice(row, row + 1)
        assert draw(logprobs[one], seeds[one], positions[one]).flatten().tolist() == [drawn[row]]
    assert drawn[0] == drawn[2]
    assert drawn[3] == drawn[5]
    assert len(set(drawn)) > 1


def position_sampled_at(length: int, mode: ForwardMode) -> list[int]:
    """Where SGLang takes the next token of a request with *length* tokens to be."""
    seen: list[torch.Tensor] = []

    def sample(*args: Any) -> torch.Tensor:
        seen.append(args[-1])
        return torch.zeros(1, dtype=torch.int64)

    runner = SimpleNamespace(
        sampling_observer=None,
        watermark_state=None,
        _preprocess_logits=lambda *_: None,
        sampler=sample,
        ngram_embedding_manager=SimpleNamespace(update_after_decode=lambda **_: None),
    )
    step = SimpleNamespace(
        sampling_info=None,
        return_logprob=False,
        top_logprobs_nums=None,
        token_ids_logprobs=None,
        forward_mode=mode,
        positions=torch.tensor([length - 1]),
        seq_lens=torch.tensor([length]),
        seq_lens_cpu=torch.tensor([length]),
        req_pool_indices=torch.tensor([0]),
        batch_size=1,
    )
    ModelRunner.sample(runner, SimpleNamespace(), step)
    return list(seen[0].tolist())


@pytest.mark.parametrize("mode", [ForwardMode.EXTEND, ForwardMode.MIXED, ForwardMode.DECODE])
def test_a_token_has_one_position_however_it_is_computed(mode: ForwardMode) -> None:
    """The prefill of a request that comes back samples where the decode step would have."""
    assert position_sampled_at(17, mode) == [16]
