"""Peak FLOP/s of the available devices."""

import jax

from segr1_jax.config.hardware import DEVICES

# Names of TPUs in JAX, and in the table of hardware.
KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
}


def peak_of(kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device of this JAX device kind; None where the table has none.

    Example:
        >>> peak_of("NVIDIA H100 80GB HBM3")
        989400000000000.0
    """
    words = kind.lower().split()
    name = KINDS.get(kind) or next(
        (
            name
            for name in DEVICES
            if words[:1] == ["nvidia"] and any(w.startswith(name) for w in words)
        ),
        None,
    )
    return DEVICES[name].flops if name else None


def peak_at_hand(given: float | None) -> tuple[float | None, str]:
    """Return FLOP/s of all devices (or None) and their source; `given` is for one device."""
    count, kind = len(jax.devices()), jax.devices()[0].device_kind
    if given:
        return given * count, f"{given:.4g} FLOP/s per device, as given"
    if known := peak_of(kind):
        return known * count, f"{known:.4g} FLOP/s per {kind} (data sheet)"
    return None, f"left out: no peak is known for {kind!r}; give one with --peak-flops"
