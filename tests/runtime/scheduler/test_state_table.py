"""Every kind of state that SGLang keeps for a request has been decided on, and is in the table."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import autellix_sgl.runtime  # noqa: F401 (prepares the process for sglang)

# isort: split
from sglang.srt.managers.io_struct import TokenizedGenerateReqInput
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
from sglang.srt.sampling.sampling_params import SamplingParams

ROOT = Path(__file__).parents[3]
HEADING = "## What a preemption must not change"

# What a new field asks somebody to decide. Survives: it stays with the request, which is the same
# object before and after, or is derived from what stays.
REQUEST_FIELDS = {
    "survives": {
        "rid",
        "input_text",
        "input_ids",
        "mm_inputs",
        "sampling_params",
        "return_logprob",
        "top_logprobs_num",
        "token_ids_logprob",
        "stream",
        "session_id",
        "session_params",
        "lora_id",
        "lora_name",
        "routing_key",
        "require_reasoning",
        "extra_key",
        "cache_salt",
        "kv_hints",
        "routed_dp_rank",
        "time_stats",
    },
    "not preempted": {
        "input_embeds",
        "logprob_start_len",  # inside the prompt
        "return_flat_raw_top_logprobs",  # of the prompt
        "return_sampling_mask",
        "sampling_logprobs_mode",  # of the sampling mask
        "return_hidden_states",
        "return_routed_experts",
        "routed_experts_start_len",
        "return_indexer_topk",
        "custom_logit_processor",
        "positional_embed_overrides",
        "multi_item_delimiter_indices",  # prefill only
        "token_indices_to_pool",  # prefill only
        "token_type_ids",  # prefill only
    },
    "refused at start": {
        "http_worker_ipc",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "bootstrap_pair_key",
        "decode_tp_size",
        "disagg_prefill_dp_rank",
        "priority",
        "need_wait_for_mm_inputs",
        "num_items_assigned",
        "encoder_urls",
        "pp_prefetch_ticketed",
    },
    "not looked at by a scheduler": {"no_logs", "return_bytes", "return_entropy"},
}

SAMPLING_FIELDS = {
    "survives": {
        "max_new_tokens",
        "stop",
        "stop_token_ids",
        "stop_regex",
        "stop_strs",
        "stop_regex_strs",
        "stop_str_max_len",
        "stop_regex_max_len",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "sampling_seed",
        "watermark",  # SGLang hashes the output of a retracted request again
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "min_new_tokens",
        "n",
        "json_schema",
        "regex",
        "ebnf",
        "ebnf_full_assistant",
        "structural_tag",
        "ignore_eos",
        "logit_bias",
        "stream_interval",
        "is_normalized",
    },
    "not preempted": {"beam_width", "custom_params"},  # of a custom logit processor
    "of the detokenizer": {
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "no_stop_trim",
    },
}

# What a batch holds by row, so what a request loses with its row.
BATCH_FIELDS = {
    "made anew from the sampling parameters": {
        "temperatures",
        "top_ps",
        "top_ks",
        "min_ps",
        "is_all_greedy",
        "is_any_greedy",
        "need_top_p_sampling",
        "need_top_k_sampling",
        "need_min_p_sampling",
        "npu_top_k_top_p_eligible",
        "logit_bias",
        "sampling_seed",
        "max_top_k",
        "watermark_keys",
        "watermark_context_windows",
        "watermark_enabled",
        "watermark_candidates_host",
        "has_watermark_candidates",
    },
    "filled from the output": {
        "penalizer_orchestrator",
        "acc_additive_penalties",
        "acc_scaling_penalties",
    },
    "of the request": {"grammars", "grammar_mask", "rids_int", "bootstrap_room_ids_int"},
    "not preempted": {
        "has_custom_logit_processor",
        "custom_params",
        "custom_logit_processor",
        "return_sampling_masks",
        "return_sampling_support_logprobs",
        "sampling_mask_batch_indices",
        "sampling_mask_top_ks",
        "sampling_support_logprobs_capture_indices",
    },
    "not of a request": {"vocab_size", "device"},
}

FIELDS = [
    (REQUEST_FIELDS, TokenizedGenerateReqInput.__struct_fields__),
    (SAMPLING_FIELDS, SamplingParams.__struct_fields__),
    (BATCH_FIELDS, [field.name for field in dataclasses.fields(SamplingBatchInfo)]),
]


@pytest.mark.parametrize(
    ("decided", "fields"), FIELDS, ids=["request", "sampling parameters", "batch"]
)
def test_every_field_has_been_decided_on(decided: dict[str, set[str]], fields: list[str]) -> None:
    """A field that a new SGLang brings fails here until somebody has said what becomes of it."""
    listed = [name for names in decided.values() for name in names]
    assert sorted(listed) == sorted(fields)


def test_every_returned_extra_has_been_decided_on() -> None:
    """What a request can be asked to return beside its answer is among the decided fields."""
    parameters = Req.__init__.__code__.co_varnames[: Req.__init__.__code__.co_argcount]
    decided = {name for names in REQUEST_FIELDS.values() for name in names}
    # Pooled states are those of embedding requests, which are prefill only.
    assert {p for p in parameters if p.startswith("return_")} <= {
        *decided,
        "return_pooled_hidden_states",
    }


def rows() -> list[list[str]]:
    """The cells of the table in docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    section = text.split(HEADING)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_every_row_of_the_table_names_tests_that_exist(row: list[str]) -> None:
    """State, what becomes of it, and at least one test of that name."""
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.M)
    }
    _, _, shown_by = row
    named = re.findall(r"`(test_\w+)`", shown_by)
    assert named
    assert set(named) <= tests
