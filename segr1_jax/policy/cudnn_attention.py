"""cuDNN's fused attention as Kernels (policy/fused_attention.py).

`jax.nn.dot_product_attention` is not sufficient here: it casts its log-sum-exp to bfloat16, and its
backward pass cannot take the output and log-sum-exp of a larger softmax. This module calls its
primitives directly (jax/_src/cudnn/fused_attention_stablehlo.py, jax 0.10 to 0.12). This also skips
the check for a local GPU, which is absent when a plan is made for other devices.

Shape legend: B batch; N query tokens; S key tokens; H query heads; K key/value heads; C head size.
"""

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jaxtyping import Array, Float

from segr1_jax.policy.fused_attention import Kernels, Visible

MASKED = -(2.0**15)  # of cuDNN's bias in bfloat16; exp of it is 0
NEWER_PARAMETERS = {"score_mod": None} if jax.__version_info__ >= (0, 12) else {}


def forward(
    q: Float[Array, "B _ _ C"],
    k: Float[Array, "B _ _ C"],
    v: Float[Array, "B _ _ C"],
    visible: Visible,
    causal: bool,
    *,
    heads_first: bool = False,
) -> tuple[Float[Array, "B _ _ C"], Float[Array, "B _ _"]]:
    """Return attention and log-sum-exp [B, H, N].

    The arrays are [B, N, H, C] and [B, S, K, C], or with `heads_first` [B, H, N, C] and
    [B, K, S, C].
    """
    operands = q, k, v, *_operands(q, visible)
    out, lse = cudnn._dot_product_attention_fwd_p_wrapper.bind(
        *operands, **_parameters(q, visible, causal, heads_first), is_training=True
    )
    return out, lse


def backward(
    q: Float[Array, "B N H C"],
    k: Float[Array, "B S K C"],
    v: Float[Array, "B S K C"],
    visible: Visible,
    causal: bool,
    lse: Float[Array, "B H N"],
    out: Float[Array, "B N H C"],
    cotangent: Float[Array, "B N H C"],
) -> tuple[Float[Array, "B N H C"], Float[Array, "B S K C"], Float[Array, "B S K C"]]:
    """Return the cotangents of q, k and v; `lse` and `out` may be of more keys than these."""
    operands = q, k, v, *_operands(q, visible), lse, out, cotangent
    return tuple(
        cudnn._dot_product_attention_bwd_p_wrapper.bind(
            *operands, **_parameters(q, visible, causal, heads_first=False)
        )
    )


CUDNN = Kernels(forward, backward)


def _operands(q: Array, visible: Visible) -> tuple[Array, ...]:
    """Return bias, lengths, offsets and page tables; what is not used is empty."""
    unused = jnp.zeros(0, q.dtype)
    bias = unused if visible.mask is None else jnp.where(visible.mask, 0, MASKED).astype(q.dtype)
    lengths = (visible.query_length, visible.key_length)
    return bias, *(unused if x is None else x for x in lengths), *[unused] * 4


def _parameters(q: Array, visible: Visible, causal: bool, heads_first: bool) -> dict:
    pads = visible.key_length is not None
    masks = {
        (False, False): cudnn.MaskType.NO_MASK,
        (False, True): cudnn.MaskType.CAUSAL,
        (True, False): cudnn.MaskType.PADDING,
        (True, True): cudnn.MaskType.PADDING_CAUSAL,
    }
    layout = cudnn.AttentionLayout.BNTH if heads_first else cudnn.AttentionLayout.BTNH
    return {
        "scale": q.shape[-1] ** -0.5,
        "seed": 0,
        "dropout_rate": 0.0,
        "variadic_args": (visible.mask is not None, False),
        "mask_type": masks[pads, causal],
        "layout": layout.value,
        "sliding_window_length": None,
    } | NEWER_PARAMETERS
