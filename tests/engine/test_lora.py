"""LoRA adapters beside program scheduling: preempted calls resume with their own adapter."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.harness import generation, running_server, tiny_flags
from tests.engine.tiny_model import CONFIG, build_tiny_model

pytestmark = pytest.mark.engine

RANK = 8
HIDDEN = 128
Q_OUT, V_OUT = 128, 64


def write_adapter(folder: Path, seed: int) -> Path:
    """A random adapter of the query and value projections, strong enough to change the output."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(int(str(CONFIG["num_hidden_layers"]))):
        for name, out in (("q_proj", Q_OUT), ("v_proj", V_OUT)):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, HIDDEN, generator=generator)
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(out, RANK, generator=generator)
    folder.mkdir()
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "tiny",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def tiny_model_with_weights(folder: Path) -> Path:
    """The tiny model on disk: SGLang loads no adapter beside dummy weights."""
    import autellix_sgl.runtime  # noqa: F401 (prepares the process: transformers needs torchvision)
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir()
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(folder)
    return build_tiny_model(folder)


def test_each_call_keeps_its_adapter_through_preemption(tmp_path: Path) -> None:
    """More calls than slots and adapters than fit a batch: the outputs are those of calls alone."""
    adapters = {f"a{i}": write_adapter(tmp_path / f"a{i}", i) for i in range(3)}
    flags = [
        *tiny_flags(tiny_model_with_weights(tmp_path / "model"), slots=2),
        "--load-format",
        "auto",
        "--enable-lora",
        "--max-loras-per-batch",
        "2",
        "--lora-paths",
        *(f"{name}={path}" for name, path in adapters.items()),
        "--program-first-quantum-ms",
        "4",
        "--program-starvation-ratio",
        "0",
    ]

    def body(name: str | None, number: int) -> dict[str, Any]:
        return {
            "input_ids": [300 + i for i in range(24)],
            "sampling_params": generation(24),
            "lora_path": name,
            "program": {"id": f"{name}-{number}"},
        }

    names = [None, *adapters]
    with running_server(tmp_path, flags) as server:
        alone = {name: server.generate(body(name, -1))["output_ids"] for name in names}
        assert len({tuple(tokens) for tokens in alone.values()}) == len(names)
        with ThreadPoolExecutor(16) as pool:
            asked = [names[i % len(names)] for i in range(16)]
            outputs = list(pool.map(lambda x: server.generate(body(x[1], x[0])), enumerate(asked)))
        state = server.wait_until_idle()
    print(f"{state['counters']['preemptions']:.0f} preemptions")
    for name, output in zip(asked, outputs, strict=True):
        assert output["output_ids"] == alone[name]
    assert state["counters"]["preemptions"] > 0
