"""Tiny models of the families of models that SGLang knows, and who serves each without a GPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KERNELS = "the kernels"
TORCH_NATIVE = "torch_native"
NOBODY = "nobody"

# A field that only some families have is ignored by the others' configurations.
BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "vocab_size": 1024,
}
FLAGS = (
    *("--load-format", "dummy", "--dtype", "float32", "--max-total-tokens", "512"),
    *("--max-running-requests", "4", "--context-length", "256", "--skip-tokenizer-init"),
    "--trust-remote-code",
)

# Model types that transformers does not know bring their configuration as code.
CONFIGURATION = """\
from transformers import PretrainedConfig


class TinyConfig(PretrainedConfig):
    def __init__(self, **fields):
        type(self).model_type = fields.get("model_type", "tiny")
        super().__init__(**fields)
"""


@dataclass(frozen=True, slots=True)
class Family:
    """A model, and who is to serve it.

    *why* is in the line of the log, or in the error, that says why it is not the kernels.
    """

    name: str
    config: dict[str, Any]
    flags: tuple[str, ...] = ()
    served: str = KERNELS
    why: str = ""
    torch_native_fails: bool = False

    def write(self, folder: Path) -> Path:
        """Write the model's configuration to *folder*, which then is a model with dummy weights."""
        (folder / "config.json").write_text(json.dumps(self.config), encoding="utf-8")
        (folder / "configuration_tiny.py").write_text(CONFIGURATION, encoding="utf-8")
        return folder


def of(name: str, architecture: str, model_type: str, *flags: str, **config: Any) -> Family:
    """A family by its fields, those of `Family` among those of its configuration."""
    served = {key: config.pop(key) for key in ("served", "why", "torch_native_fails")
              if key in config}  # fmt: skip
    if config.pop("remote", False):
        config["auto_map"] = {"AutoConfig": "configuration_tiny.TinyConfig"}
    names = {"architectures": [architecture], "model_type": model_type}
    return Family(name, {**BASE, **names, **config}, flags, **served)


# fmt: off
WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
HEADS = {"num_key_value_heads": 4}
HEAD = {"head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED_EXPERTS = {
    "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": True,
}
SPARSE = {**EXPERTS, "decoder_sparse_step": 1, "norm_topk_prob": True, "mlp_only_layers": []}
LATENT = {
    "q_lora_rank": 32, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16,
    "v_head_dim": 16, **HEADS,
}
GEMMA = {
    **HEAD, **WINDOW, "query_pre_attn_scalar": 16, "rope_local_base_freq": 10000.0,
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
}
GRANITE = {
    "embedding_multiplier": 2.0, "logits_scaling": 4.0, "residual_multiplier": 0.5,
    "attention_multiplier": 0.1,
}
GPT2 = {
    "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 128, "n_positions": 512,
    "activation_function": "gelu_new", "rotary_dim": 8,
}
MINICPM = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.5] * 8}
LLAMA3 = {**YARN, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3]}
IMAGES = {
    "image_token_id": 1000, "video_token_id": 1001, "vision_start_token_id": 1002,
    "vision_end_token_id": 1003,
}
VISION = {
    "depth": 1, "hidden_size": 64, "out_hidden_size": 64, "intermediate_size": 64,
    "num_heads": 4, "patch_size": 14, "image_size": 28, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "in_channels": 3, "deepstack_visual_indexes": [0],
    "num_position_embeddings": 16, "fullatt_block_indexes": [0], "window_size": 28,
}
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 64,
    "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 28, "patch_size": 14,
}

# fmt: on

SERVED = (
    of("Llama", "LlamaForCausalLM", "llama"),
    of("Llama, YaRN", "LlamaForCausalLM", "llama", rope_scaling=YARN),
    of("Llama 3", "LlamaForCausalLM", "llama", rope_scaling=LLAMA3),
    of("Llama in bfloat16", "LlamaForCausalLM", "llama", "--dtype", "bfloat16"),
    of("Llama, pages of 16", "LlamaForCausalLM", "llama", "--page-size", "16"),
    of("any model by --model-impl transformers", "LlamaForCausalLM", "llama",
       "--model-impl", "transformers"),
    of("Llama embeddings", "LlamaEmbeddingModel", "llama", "--is-embedding"),
    of("Mistral", "MistralForCausalLM", "mistral", **HEAD, sliding_window=8),
    of("Ministral 3", "Ministral3ForCausalLM", "ministral3", **HEAD, rope_parameters={
        **YARN, "rope_theta": 1e6, "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1}),
    of("Mixtral", "MixtralForCausalLM", "mixtral", **LOCAL_EXPERTS, sliding_window=None),
    of("Qwen", "QWenLMHeadModel", "qwen", remote=True, **HEADS, kv_channels=16, seq_length=512,
       no_bias=True, rotary_emb_base=10000),
    of("Qwen 2", "Qwen2ForCausalLM", "qwen2", tie_word_embeddings=True),
    of("Qwen 2 reward", "Qwen2ForRewardModel", "qwen2", "--is-embedding"),
    of("Qwen 3", "Qwen3ForCausalLM", "qwen3", **HEAD),
    of("Qwen3-MoE", "Qwen3MoeForCausalLM", "qwen3_moe", **HEAD, **SPARSE),
    of("Qwen2.5-VL", "Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", rope_scaling={
        **MROPE, "type": "mrope"}, vision_config=VISION, **IMAGES),
    of("Qwen3-VL", "Qwen3VLForConditionalGeneration", "qwen3_vl", text_config={
        **BASE, **HEAD, "model_type": "qwen3_vl_text",
        "rope_scaling": {**MROPE, "mrope_interleaved": True}}, vision_config=VISION, **IMAGES),
    of("Gemma", "GemmaForCausalLM", "gemma", **GEMMA),
    of("Gemma 2", "Gemma2ForCausalLM", "gemma2", **GEMMA, attn_logit_softcapping=50.0,
       final_logit_softcapping=30.0),
    of("Gemma 3", "Gemma3ForCausalLM", "gemma3_text", **GEMMA),
    of("Gemma 3, window pool, pages of 16", "Gemma3ForCausalLM", "gemma3_text",
       "--page-size", "16", **GEMMA, is_hybrid_swa=True),
    of("Gemma 3 with images", "Gemma3ForConditionalGeneration", "gemma3", text_config={
        **BASE, **GEMMA, "model_type": "gemma3_text"}, vision_config=SIGLIP,
       mm_tokens_per_image=4, image_token_index=1000, boi_token_index=1001, eoi_token_index=1002),
    of("Phi", "PhiForCausalLM", "phi", **HEADS, partial_rotary_factor=0.5, qk_layernorm=False,
       hidden_act="gelu_new"),
    of("Phi 3", "Phi3ForCausalLM", "phi3", sliding_window=8, original_max_position_embeddings=512),
    of("Phi 3, LongRoPE", "Phi3ForCausalLM", "phi3", rope_scaling=LONGROPE,
       original_max_position_embeddings=128),
    of("Phi-3.5-MoE", "PhiMoEForCausalLM", "phimoe", **LOCAL_EXPERTS, router_jitter_noise=0.0,
       input_jitter_noise=0.0, lm_head_bias=True, attention_bias=True, sliding_window=8),
    of("OLMo", "OlmoForCausalLM", "olmo", **HEADS, clip_qkv=None),
    of("OLMo 2", "Olmo2ForCausalLM", "olmo2"),
    of("OLMo 3", "Olmo3ForCausalLM", "olmo3", **WINDOW),
    of("OLMo 3, window pool", "Olmo3ForCausalLM", "olmo3", **WINDOW, is_hybrid_swa=True),
    of("OLMoE", "OlmoeForCausalLM", "olmoe", **HEADS, **EXPERTS, norm_topk_prob=False),
    of("Granite", "GraniteForCausalLM", "granite", **GRANITE),
    of("GraniteMoE", "GraniteMoeForCausalLM", "granitemoe", **GRANITE, **LOCAL_EXPERTS),
    of("Granite 4 without Mamba layers", "GraniteMoeHybridForCausalLM", "granitemoehybrid",
       **GRANITE, **LOCAL_EXPERTS, shared_intermediate_size=64, layer_types=["attention"] * 2,
       position_embedding_type="rope", mamba_n_heads=8, mamba_d_head=16),
    of("ChatGLM", "ChatGLMModel", "chatglm", num_layers=2, padded_vocab_size=1024,
       ffn_hidden_size=128, kv_channels=16, multi_query_attention=True, multi_query_group_num=2,
       add_qkv_bias=True, add_bias_linear=False, rmsnorm=True, layernorm_epsilon=1e-5,
       post_layer_norm=True, seq_length=512, apply_residual_connection_post_layernorm=False,
       fp32_residual_connection=False, original_rope=True),
    of("GLM-4", "Glm4ForCausalLM", "glm4", **HEAD, partial_rotary_factor=0.5, attention_bias=True),
    of("GLM-4.5", "Glm4MoeForCausalLM", "glm4_moe", **HEAD, **ROUTED_EXPERTS, use_qk_norm=True,
       partial_rotary_factor=0.5, attention_bias=True, num_nextn_predict_layers=0),
    of("GLM-4V", "Glm4vForConditionalGeneration", "glm4v", text_config={
        **BASE, "model_type": "glm4v_text", "rope_scaling": MROPE, "partial_rotary_factor": 0.5,
        "attention_bias": True}, vision_config=VISION, **IMAGES),
    of("StarCoder 2", "Starcoder2ForCausalLM", "starcoder2", sliding_window=8, use_bias=True,
       norm_epsilon=1e-5, hidden_act="gelu_pytorch_tanh", mlp_type="default"),
    of("GPT-2", "GPT2LMHeadModel", "gpt2", **HEADS, **{**GPT2, "tie_word_embeddings": True}),
    of("GPT-J", "GPTJForCausalLM", "gptj", **HEADS, **GPT2),
    of("GPT-NeoX", "GPTNeoXForCausalLM", "gpt_neox", **HEADS, rotary_pct=0.5),
    of("StarCoder", "GPTBigCodeForCausalLM", "gpt_bigcode", **GPT2, multi_query=True),
    of("OPT", "OPTForCausalLM", "opt", **HEADS, ffn_dim=128, word_embed_proj_dim=64,
       activation_function="relu"),
    of("Command R", "CohereForCausalLM", "cohere", logit_scale=0.25, use_qk_norm=True,
       tie_word_embeddings=True),
    of("Command R7B", "Cohere2ForCausalLM", "cohere2", **HEAD, **WINDOW, logit_scale=0.25,
       tie_word_embeddings=True),
    of("InternLM 2", "InternLM2ForCausalLM", "internlm2", remote=True, bias=False),
    of("InternLM 3", "InternLM3ForCausalLM", "internlm3", remote=True, **HEAD, bias=False,
       qkv_bias=False),
    of("StableLM", "StableLmForCausalLM", "stablelm", partial_rotary_factor=0.25,
       use_qkv_bias=True, qk_layernorm=False, use_parallel_residual=False),
    of("MiniCPM", "MiniCPMForCausalLM", "minicpm", remote=True, **MINICPM),
    of("MiMo", "MiMoForCausalLM", "mimo", remote=True, num_nextn_predict_layers=0),
    of("EXAONE", "ExaoneForCausalLM", "exaone", num_layers=2, activation_function="silu"),
    of("ERNIE 4.5", "Ernie4_5_ForCausalLM", "ernie4_5", **HEAD, use_bias=False),
    of("ERNIE 4.5 MoE", "Ernie4_5_MoeForCausalLM", "ernie4_5_moe", **HEAD, use_bias=False,
       moe_num_experts=4, moe_k=2, moe_intermediate_size=32, moe_num_shared_experts=1,
       moe_layer_start_index=1, moe_layer_end_index=1, moe_layer_interval=1),
    of("Arcee", "ArceeForCausalLM", "arcee", **HEAD, hidden_act="relu2"),
    of("Apertus", "ApertusForCausalLM", "apertus", hidden_act="xielu"),
    of("Orion", "OrionForCausalLM", "orion", remote=True),
    of("XVERSE", "XverseForCausalLM", "xverse", remote=True),
    of("Persimmon", "PersimmonForCausalLM", "persimmon", **HEADS, qk_layernorm=True,
       partial_rotary_factor=0.5, hidden_act="relu2"),
    of("Laguna", "LagunaForCausalLM", "laguna", remote=True, **HEAD, **WINDOW, **EXPERTS,
       shared_expert_intermediate_size=32, mlp_layer_types=["dense", "sparse"], gating=True),
    of("Mellum 2", "MellumForCausalLM", "mellum", remote=True, **HEAD, **WINDOW, **EXPERTS,
       norm_topk_prob=True),
    of("HunYuan", "HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", **HEAD, use_qk_norm=True,
       attention_bias=False, rope_scaling={"type": "dynamic", "factor": 1.0, "alpha": 1000.0},
       torch_native_fails=True),
)  # fmt: skip

FALLS_BACK = (
    of("DeepSeek-V2 and V3", "DeepseekV2ForCausalLM", "deepseek_v2", **LATENT, **ROUTED_EXPERTS,
       rope_scaling={**YARN, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
                     "mscale_all_dim": 1.0}, topk_method="greedy", scoring_func="softmax",
       served=TORCH_NATIVE, why="multi-head latent attention"),
    of("a model in float16", "LlamaForCausalLM", "llama", "--dtype", "float16",
       served=TORCH_NATIVE, why="the model is torch.float16"),
    of("heads of a size that is no multiple of 16", "LlamaForCausalLM", "llama", head_dim=72,
       served=TORCH_NATIVE, why="head size 72"),
    of("heads of more than 256", "LlamaForCausalLM", "llama", head_dim=512,
       served=TORCH_NATIVE, why="head size 512"),
    of("SDAR", "SDARForCausalLM", "sdar", remote=True, **HEAD,
       served=TORCH_NATIVE, why="attention that is not causal"),
)  # fmt: skip

TRITON = "active drivers"
CUDA = "not compiled with CUDA"
EXPERTS_KERNEL = "inplace_fused_experts"
UPSTREAM_CANNOT = (
    of("gpt-oss", "GptOssForCausalLM", "gpt_oss", **HEAD, **WINDOW, **LOCAL_EXPERTS,
       served=NOBODY, why="requires one of"),
    of("Gemma 4", "Gemma4ForCausalLM", "gemma4_text", **GEMMA, served=NOBODY,
       why="is a per-layer attribute"),
    of("EXAONE 4", "Exaone4ForCausalLM", "exaone4", **HEAD, **WINDOW, sliding_window_pattern=2,
       served=NOBODY, why="is required for"),
    of("Gemma 3n", "Gemma3nForCausalLM", "gemma3n_text", **GEMMA, served=NOBODY,
       why="unsupported operand"),
    of("GLM", "GlmForCausalLM", "glm", **HEAD, partial_rotary_factor=0.5, served=NOBODY,
       why="Unsupported TP style"),
    of("Qwen2-MoE", "Qwen2MoeForCausalLM", "qwen2_moe", **{**SPARSE, "norm_topk_prob": False},
       shared_expert_intermediate_size=32, served=NOBODY, why=TRITON),
    of("Grok", "Grok1ForCausalLM", "grok-1", remote=True, **LOCAL_EXPERTS,
       attn_output_multiplier=0.1, output_multiplier_scale=0.5, embedding_multiplier_scale=8.0,
       served=NOBODY, why="is not a registered model"),
    of("DeepSeek-MoE", "DeepseekForCausalLM", "deepseek", remote=True,
       **{**ROUTED_EXPERTS, "norm_topk_prob": False}, served=NOBODY, why=EXPERTS_KERNEL),
    of("MiniCPM3", "MiniCPM3ForCausalLM", "minicpm3", remote=True, **MINICPM, **LATENT,
       rope_scaling={**LONGROPE, "original_max_position_embeddings": 128},
       served=NOBODY, why="'NoneType' object has no attribute 'dtype'"),
    of("Baichuan", "BaichuanForCausalLM", "baichuan", remote=True, **HEADS, model_max_length=512,
       served=NOBODY, why=CUDA),
    of("DBRX", "DbrxForCausalLM", "dbrx", d_model=64, n_heads=4, n_layers=2, max_seq_len=512,
       attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
       ffn_config={"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
       served=NOBODY, why=CUDA),
    of("Llama 4", "Llama4ForCausalLM", "llama4_text", "--dtype", "bfloat16", **HEAD,
       num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=1,
       intermediate_size_mlp=64, attention_chunk_size=16, no_rope_layers=[1, 0], served=NOBODY,
       why="NotImplementedError"),
    of("Qwen3-Next", "Qwen3NextForCausalLM", "qwen3_next", **HEAD, **SPARSE,
       shared_expert_intermediate_size=32, full_attention_interval=2, served=NOBODY,
       why="extra_buffer requires platform support"),
    of("Falcon-H1", "FalconH1ForCausalLM", "falcon_h1", **HEAD, mamba_d_ssm=64, mamba_n_heads=4,
       mamba_d_head=16, mamba_n_groups=1, mamba_d_state=16, served=NOBODY,
       why="extra_buffer requires platform support"),
)  # fmt: skip

FAMILIES = (*SERVED, *FALLS_BACK, *UPSTREAM_CANNOT)
