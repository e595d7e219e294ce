"""A model small enough that scheduling, not computing, is what a test waits for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from autellix_sgl import default_model

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "vocab_size": 49152,
}


def build_tiny_model(folder: Path) -> Path:
    """Write the configuration and the tokenizer to *folder*; start with ``--load-format dummy``."""
    source = default_model.ensure()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (source / name).exists():
            shutil.copy(source / name, folder / name)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder
