"""A small architecture for the tests of plan, as config.json holds one.

No two of its matrices hold as many numbers by chance.
"""

CONFIG = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "image_token_id": 500,
    "video_token_id": 501,
    "vision_start_token_id": 502,
    "vision_end_token_id": 503,
    "vision_config": {
        "depth": 2,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    },
}

OVERRIDES = [
    "batch=8",
    "eval_batch=8",
    "steps=4",
    "prompt.frame=112",
    "prompt.max_tokens=40",
    "rollout.max_tokens=12",
    "rollout.group=2",
    "policy.head_chunk=4",
    "mesh.data=2",
    "mesh.fsdp=2",
    "mesh.tensor=2",
]
