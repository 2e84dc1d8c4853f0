"""Group normalisation by the kernels for CUDA devices, which Triton's interpreter runs, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.cuda_device import DEVICE
from helpers.networks import assert_same
from transxnet import kernels
from transxnet.kernels import operators
from transxnet.layers import group_norm

TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def random(*shape: int, dtype: torch.dtype = torch.float32, mean: float = 0.0, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed)) + mean
    x = x.to(DEVICE, dtype)
    return (x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x).detach()


def with_gradients(compute: Any, gradient: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    leaves = [one.clone().requires_grad_() for one in given]
    y = compute(*leaves)
    return y, *torch.autograd.grad(y, leaves, gradient)


def exact(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.group_norm(x, 1, weight, bias, 1e-5)


def computed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return kernels.group_norm(x, weight, bias, 1e-5)


@pytest.mark.parametrize(
    ("shape", "programs", "dtype", "mean"),
    [
        ((2, 70, 16, 11), 12, torch.float32, 1e4),  # 3 blocks of channels; 2 parts, of 2 tiles and of 1
        ((1, 70, 16, 11), 512, torch.float32, 0.0),
        ((3, 1, 7, 5), 512, torch.float32, 0.0),
        ((3, 16, 1, 1), 512, torch.float16, 0.0),
        ((2, 24, 9, 8), 1, torch.bfloat16, 3.0),
    ],
)
def test_group_normalisation(
    shape: Any, programs: int, dtype: torch.dtype, mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However images are split between programs."""
    monkeypatch.setattr("transxnet.kernels.cuda.rows.PROGRAMS", programs)
    given = (random(*shape, dtype=dtype, mean=mean), random(shape[1]), random(shape[1], seed=1))
    gradient = random(*shape, dtype=dtype, seed=2)
    with kernels.use("triton"):
        found = with_gradients(computed, gradient, *given)
    expected = with_gradients(exact, gradient.double(), *(one.double() for one in given))
    assert found[0].dtype == found[1].dtype == dtype
    assert_same(found[:2], expected[:2], TOLERANCES[dtype])
    assert_same(found[2:], expected[2:], 2e-6)


def test_parameters_of_16_bits() -> None:
    """As in a network converted to bfloat16."""
    dtype = torch.bfloat16
    given = (random(2, 6, 5, 4, dtype=dtype), random(6, dtype=dtype), random(6, dtype=dtype, seed=1))
    gradient = random(2, 6, 5, 4, dtype=dtype, seed=2)
    with kernels.use("triton"):
        found = with_gradients(computed, gradient, *given)
    assert {one.dtype for one in found} == {dtype}
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert_same(found, with_gradients(exact, gradient.double(), *(one.double() for one in given)), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_group_normalisation_without_a_kernel(dtype: torch.dtype) -> None:
    given = (random(2, 6, 3, 2, dtype=dtype), random(6, dtype=dtype), random(6, dtype=dtype, seed=1))
    gradient = random(2, 6, 3, 2, dtype=dtype, seed=2)
    found = with_gradients(lambda *each: operators.group_norm(*each, 1e-5)[0], gradient, *given)
    assert_same(found, with_gradients(exact, gradient, *given), 2e-6 if dtype == torch.float32 else 1e-12)


def test_the_layer_is_pytorchs_on_cpus() -> None:
    layer, x = group_norm(6), random(2, 6, 3, 2).cpu()
    original = nn.GroupNorm(1, 6)
    original.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), original(x))
    assert repr(layer) == repr(original)


def test_the_layer_returns_16_bits_under_autocast() -> None:
    layer, x = group_norm(6).to(DEVICE), random(2, 6, 3, 2, dtype=torch.bfloat16)
    with kernels.use("triton"), torch.autocast(DEVICE, torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
