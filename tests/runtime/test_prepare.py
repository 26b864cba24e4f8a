"""Flags that a run sets for XLA."""

import os

from segr1_jax.runtime.processes import prepare_runtime


def flags_of(monkeypatch, given: str) -> dict[str, str]:
    """XLA takes the last of two values."""
    monkeypatch.setenv("XLA_FLAGS", given)
    prepare_runtime(deterministic=True)
    return dict(flag.split("=") for flag in os.environ["XLA_FLAGS"].split())


def test_deterministic_leaves_products_to_cublas(monkeypatch):
    assert flags_of(monkeypatch, "--xla_mine=1") == {
        "--xla_gpu_deterministic_ops": "true",
        "--xla_gpu_enable_triton_gemm": "false",
        "--xla_mine": "1",
    }


def test_the_user_may_choose_other_kernels_but_not_other_results(monkeypatch):
    given = "--xla_gpu_enable_triton_gemm=true --xla_gpu_deterministic_ops=false"
    assert flags_of(monkeypatch, given) == {
        "--xla_gpu_deterministic_ops": "true",
        "--xla_gpu_enable_triton_gemm": "true",
    }


def test_without_it_nothing_is_set(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_mine=1")
    prepare_runtime(deterministic=False)
    assert os.environ["XLA_FLAGS"] == "--xla_mine=1"
