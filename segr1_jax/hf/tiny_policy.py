"""A tiny Qwen2.5-VL policy directory in the published layout, for running everything on a CPU.

The architecture has all parts of the 3B model (window and full vision attention, merger, M-RoPE,
grouped-query attention, tied head). Only the sizes differ: about 2 million parameters and, at 168
pixels, 3 x 3 vision windows and 36 image tokens.
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import save

from segr1_jax.common.files import new_directory
from segr1_jax.errors import UserError
from segr1_jax.hf.tiny_tokenizer import SPECIAL_TOKENS, tiny_tokenizer
from segr1_jax.prompt.tokenizer import END_OF_TURN, PAD

HIDDEN, MLP, LAYERS, HEADS, KV_HEADS = 160, 384, 4, 4, 2
HEAD_DIM = HIDDEN // HEADS
MROPE_SECTION = (4, 8, 8)  # sums to half a head
# The lowest frequencies encode the column. With the usual 1e4 and more, their angles would hardly
# differ over 6 columns of image tokens.
ROPE_THETA = 10.0
VISION_HIDDEN, VISION_MLP, VISION_DEPTH, VISION_HEADS = 96, 256, 4, 4
FULL_ATTENTION = (1, 3)
PATCH, TEMPORAL_PATCH, MERGE, WINDOW = 14, 2, 2, 56
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
EMBEDDING_STD = 0.04  # half of 1/sqrt(HIDDEN): near-uniform first logits from the tied head

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_policy(path: str | Path, *, seed: int = 0, frame: int = 168) -> Path:
    """Write a randomly initialized policy for images of `frame` x `frame` pixels.

    The same arguments give the same bytes, and transformers loads the directory without changes. It
    is renamed into place when it is complete. Raises UserError if `path` exists or `frame` is not a
    multiple of 28 pixels.
    """
    path = Path(path)
    if frame < PATCH * MERGE or frame % (PATCH * MERGE):
        raise UserError(
            "frame",
            expected=f"a multiple of {PATCH * MERGE} pixels",
            got=str(frame),
            remedy="round it",
        )
    tokenizer = tiny_tokenizer(frame)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    with new_directory(path) as partial:
        tokenizer.save(str(partial / "tokenizer.json"))
        (partial / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        for name, record in _json_files(ids, tokenizer.get_vocab_size(), frame).items():
            (partial / name).write_text(json.dumps(record, indent=2) + "\n")
        weights = tiny_weights(tokenizer.get_vocab_size(), seed)
        content = save(weights, metadata={"format": "pt"})
        (partial / "model.safetensors").write_bytes(content)
    return path


def tiny_weights(vocabulary: int, seed: int) -> dict[str, Float[np.ndarray, "..."]]:
    """Return random float32 weights by published name (`model.*`, `visual.*`; the head is tied).

    Matrices have standard deviation 1/sqrt(inputs). Those that write into a residual stream are
    smaller by a factor of sqrt(2 * layers).
    """
    rng = np.random.Generator(np.random.Philox(seed))
    weights: dict[str, np.ndarray] = {}

    def linear(name: str, outputs: int, *inputs: int, gain: float = 1.0, bias: bool = True) -> None:
        deviation = gain / np.sqrt(np.prod(inputs))
        values = rng.standard_normal((outputs, *inputs)) * deviation
        weights[f"{name}.weight"] = values.astype(np.float32)
        if bias:
            weights[f"{name}.bias"] = np.zeros(outputs, np.float32)

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = np.ones(width, np.float32)

    linear("visual.patch_embed.proj", VISION_HIDDEN, 3, TEMPORAL_PATCH, PATCH, PATCH, bias=False)
    residual = (2 * VISION_DEPTH) ** -0.5
    for block in (f"visual.blocks.{i}" for i in range(VISION_DEPTH)):
        norm(f"{block}.norm1", VISION_HIDDEN)
        norm(f"{block}.norm2", VISION_HIDDEN)
        linear(f"{block}.attn.qkv", 3 * VISION_HIDDEN, VISION_HIDDEN)
        linear(f"{block}.attn.proj", VISION_HIDDEN, VISION_HIDDEN, gain=residual)
        linear(f"{block}.mlp.gate_proj", VISION_MLP, VISION_HIDDEN)
        linear(f"{block}.mlp.up_proj", VISION_MLP, VISION_HIDDEN)
        linear(f"{block}.mlp.down_proj", VISION_HIDDEN, VISION_MLP, gain=residual)
    unit = VISION_HIDDEN * MERGE**2
    norm("visual.merger.ln_q", VISION_HIDDEN)
    linear("visual.merger.mlp.0", unit, unit)
    linear("visual.merger.mlp.2", HIDDEN, unit)

    linear("model.embed_tokens", vocabulary, HIDDEN, gain=EMBEDDING_STD * HIDDEN**0.5, bias=False)
    residual = (2 * LAYERS) ** -0.5
    for layer in (f"model.layers.{i}" for i in range(LAYERS)):
        norm(f"{layer}.input_layernorm", HIDDEN)
        norm(f"{layer}.post_attention_layernorm", HIDDEN)
        linear(f"{layer}.self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN)
        linear(f"{layer}.self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN)
        linear(f"{layer}.self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN)
        linear(f"{layer}.self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM, gain=residual, bias=False)
        linear(f"{layer}.mlp.gate_proj", MLP, HIDDEN, bias=False)
        linear(f"{layer}.mlp.up_proj", MLP, HIDDEN, bias=False)
        linear(f"{layer}.mlp.down_proj", HIDDEN, MLP, gain=residual, bias=False)
    norm("model.norm", HIDDEN)
    return weights


def _json_files(ids: dict[str, int], vocabulary: int, frame: int) -> dict[str, dict]:
    """Return the content of each JSON file by name."""
    end, pad = ids[END_OF_TURN], ids[PAD]
    return {
        "config.json": _config(ids, vocabulary),
        "preprocessor_config.json": _processor_config(frame),
        "tokenizer_config.json": _tokenizer_config(),
        "special_tokens_map.json": {"eos_token": END_OF_TURN, "pad_token": PAD},
        "generation_config.json": {
            "bos_token_id": pad,
            "eos_token_id": end,
            "pad_token_id": pad,
            "do_sample": False,
        },
    }


def _config(ids: dict[str, int], vocabulary: int) -> dict:
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": ids[PAD],
        "eos_token_id": ids[END_OF_TURN],
        "pad_token_id": ids[PAD],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": MLP,
        "max_position_embeddings": 4096,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-6,
        "rope_theta": ROPE_THETA,
        "rope_scaling": {"type": "mrope", "mrope_section": list(MROPE_SECTION)},
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": _vision_config(),
        "vocab_size": vocabulary,
    }


def _vision_config() -> dict:
    return {
        "depth": VISION_DEPTH,
        "hidden_act": "silu",
        "hidden_size": VISION_HIDDEN,
        "intermediate_size": VISION_MLP,
        "num_heads": VISION_HEADS,
        "in_chans": 3,
        "out_hidden_size": HIDDEN,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "spatial_patch_size": PATCH,
        "temporal_patch_size": TEMPORAL_PATCH,
        "tokens_per_second": 2,
        "window_size": WINDOW,
        "fullatt_block_indexes": list(FULL_ATTENTION),
    }


def _processor_config(frame: int) -> dict:
    return {
        "min_pixels": frame**2,
        "max_pixels": frame**2,
        "patch_size": PATCH,
        "temporal_patch_size": TEMPORAL_PATCH,
        "merge_size": MERGE,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }


def _tokenizer_config() -> dict:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Qwen2_5_VLProcessor",
        "eos_token": END_OF_TURN,
        "pad_token": PAD,
        "bos_token": None,
        "unk_token": None,
        "additional_special_tokens": [
            token for token in SPECIAL_TOKENS if token not in (PAD, END_OF_TURN)
        ],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
