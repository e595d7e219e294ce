"""Models that ask more of an attention backend than Llama does, on real servers without a GPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autellix_sgl.runtime.launch.platform import uses_cpu_engine
from bench.servers import READY
from tests.engine.harness import Server, generation, running_server
from tests.engine.tiny_model import CONFIG, build_tiny_model

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not uses_cpu_engine(), reason="the backend is for machines without a GPU"),
]

TOKENS = 24
PROMPT = "A queue is fair when nobody who waits is forgotten, and short work goes first. " * 3
MODELS: dict[str, dict[str, Any]] = {
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 64,
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_local_base_freq": 10000.0,
    },
    "qwen3-moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "mlp_only_layers": [],
    },
}


def with_random_weights(folder: Path, config: dict[str, Any]) -> Path:
    """A model as it is published: configuration, tokenizer, and weights in safetensors."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    build_tiny_model(folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}), encoding="utf-8")
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # the usual start is so small that attention hardly matters
    model.save_pretrained(folder)
    return folder


def flags(model: Path) -> list[str]:
    limits = ["--context-length", "1024", "--max-total-tokens", "4096"]
    return ["--model-path", str(model), "--dtype", "float32", *limits]


def said(server: Server) -> list[str]:
    """Greedy text after prompts below and above the window, together and after a cached prefix."""
    answers = server.generate(
        {"text": [PROMPT, PROMPT[:20]], "sampling_params": generation(TOKENS)}
    )
    cached = server.generate({"text": PROMPT + "So", "sampling_params": generation(TOKENS)})
    assert cached["meta_info"]["cached_tokens"] > 0
    return [answer["text"] for answer in (*answers, cached)]


def text_of(folder: Path, model: Path, more: Sequence[str] = ()) -> tuple[list[str], str]:
    # Gemma 3 compiles its rope at the first call, which on two cores takes most of a minute.
    env = {"TORCHDYNAMO_DISABLE": "1"}
    with running_server(folder, [*flags(model), *more], env=env) as server:
        return said(server), server.log.read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize("name", MODELS)
def test_same_text_as_torch_native(name: str, tmp_path: Path) -> None:
    """A server serves the model on the kernels and says what torch_native says."""
    model = with_random_weights(tmp_path, MODELS[name])
    ours, log = text_of(tmp_path, model)
    assert "Rehearsal: the CPU kernels differ" in log
    assert "Using torch_native instead" not in log
    stock, _ = text_of(tmp_path, model, ["--attention-backend", "torch_native"])
    assert ours == stock
    assert len(set(ours)) == len(ours)


def test_a_model_the_kernels_cannot_serve(tmp_path: Path) -> None:
    """It is served by torch_native, and one line before the server is ready says why."""
    build_tiny_model(tmp_path)
    config = json.dumps({**CONFIG, "head_dim": 72})
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    texts, log = text_of(tmp_path, tmp_path, ["--load-format", "dummy"])
    assert len(texts) == 3
    before, _ = log.split(READY, 1)
    lines = [line for line in before.splitlines() if "Using torch_native instead" in line]
    assert len(lines) == 1
    assert "head size 72" in lines[0]
