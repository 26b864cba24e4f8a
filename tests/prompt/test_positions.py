import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from segr1_jax.prompt.positions import mrope_positions

PAD, TEXT = 7, 1


@pytest.fixture(scope="module")
def oracle():
    text = {
        "hidden_size": 8,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "num_hidden_layers": 1,
        "intermediate_size": 8,
        "vocab_size": 16,
    }
    vision = {
        "hidden_size": 8,
        "num_heads": 1,
        "depth": 1,
        "intermediate_size": 8,
        "out_hidden_size": 8,
    }
    return Qwen2_5_VLModel(
        Qwen2_5_VLConfig(
            text_config=text, vision_config=vision, image_token_id=PAD, video_token_id=8
        )
    )


@pytest.mark.parametrize(
    ("texts", "grids"),
    [
        ((5, 4), [(6, 6)]),
        ((5, 4), [(3, 9)]),
        ((0, 1), [(4, 2)]),
        ((3, 2, 6), [(2, 5), (7, 3)]),
        ((4, 0), [(1, 1)]),
        ((9,), []),
    ],
)
def test_positions_equal_the_reference(oracle, texts, grids):
    tokens = [TEXT] * texts[0]
    for (rows, columns), length in zip(grids, texts[1:], strict=True):
        tokens += [PAD] * (rows * columns) + [TEXT] * length
    ids = np.array(tokens, np.int32)
    positions, following = mrope_positions(ids, grids, PAD)

    image_token = torch.tensor(ids == PAD).int()[None]
    grid_thw = torch.tensor([[1, 2 * r, 2 * c] for r, c in grids]).reshape(-1, 3)
    expected, delta = oracle.get_rope_index(
        torch.tensor(ids)[None].long(), image_token, image_grid_thw=grid_thw
    )
    np.testing.assert_array_equal(positions, expected[:, 0].numpy())
    assert following == int(delta) + len(ids)


def test_runs_and_grids_must_agree():
    with pytest.raises(ValueError, match="do not fit"):
        mrope_positions(np.array([TEXT, PAD, PAD, TEXT]), [(1, 3)], PAD)
