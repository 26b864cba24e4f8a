"""JAX's splash attention (Pallas, TPU) for batches and meshes.

On other devices it runs in Pallas's interpreter, which is slow and meant for tests.

Shape legend: B batch; N query tokens; S key tokens; H query heads; K key/value heads; C head size.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import SegmentIds
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from segr1_jax.policy.batch_rows import BATCH

# The kernel takes only whole blocks, of tokens and of lanes of a head.
BLOCK = 128
# The segment of padding. No real query has it: -1 marks padded patches (Attention.images).
PADDING = -2
HEADS = "tensor"


def splash_attention(
    q_BNHC: Float[Array, "B N H C"],
    k_BSKC: Float[Array, "B S K C"],
    v_BSKC: Float[Array, "B S K C"],
    mask_NS: Bool[np.ndarray, "N S"],
    q_segments_BN: Int[Array, "B N"],
    kv_segments_BS: Int[Array, "B S"],
) -> Float[Array, "B N H C"]:
    """Attend from each query to the keys of its segment that `mask_NS` allows.

    The compiler cannot split a Pallas kernel. Under a mesh that `use_abstract_mesh` set, shard_map
    splits rows over data and fsdp, and heads over tensor.
    """
    N, C = q_BNHC.shape[1], q_BNHC.shape[3]
    q, k, v = (_whole_blocks(x, axes=(1, 3)) for x in (q_BNHC * C**-0.5, k_BSKC, v_BSKC))
    q_segments, kv_segments = (
        _whole_blocks(x, axes=(1,), fill=PADDING) for x in (q_segments_BN, kv_segments_BS)
    )
    kernel = functools.partial(_per_device, mask=_padded_mask(mask_NS))
    if not jax.sharding.get_abstract_mesh().empty:
        rows, heads = BATCH, PartitionSpec(*BATCH, None, HEADS)
        kernel = jax.shard_map(
            kernel, in_specs=(heads, heads, heads, rows, rows), out_specs=heads, check_vma=False
        )
    return kernel(q, k, v, q_segments, kv_segments)[:, :N, :, :C]


def _per_device(*arguments, mask: np.ndarray):
    on_tpu, interpreted = (
        functools.partial(_attend, mask=mask, interpret=interpret) for interpret in (False, True)
    )
    return jax.lax.platform_dependent(*arguments, tpu=on_tpu, default=interpreted)


def _attend(q, k, v, q_segments, kv_segments, *, mask: np.ndarray, interpret: bool):
    heads = q.shape[2]
    attention = splash.make_splash_mha_single_device(
        np.broadcast_to(mask, (heads, *mask.shape)), interpret=interpret
    )

    def one_row(q, k, v, *segments):
        return attention(q, k, v, segment_ids=SegmentIds(*segments))

    heads_first = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    return jnp.swapaxes(jax.vmap(one_row)(*heads_first, q_segments, kv_segments), 1, 2)


def _padded_mask(mask_NS: np.ndarray) -> np.ndarray:
    # A padded query sees every key, because a row without keys would divide by zero. A padded key
    # is in the segment PADDING, which no real query has.
    N, S = mask_NS.shape
    return np.pad(mask_NS, ((0, -N % BLOCK), (0, -S % BLOCK)), constant_values=True)


def _whole_blocks(x, *, axes: tuple[int, ...], fill=0):
    return jnp.pad(
        x,
        [(0, -size % BLOCK if axis in axes else 0) for axis, size in enumerate(x.shape)],
        constant_values=fill,
    )
