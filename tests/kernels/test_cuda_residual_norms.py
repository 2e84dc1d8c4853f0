"""Group normalisation by the kernels for CUDA devices, which Triton's interpreter runs, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.networks import assert_same
from transxnet import kernels
from transxnet.kernels import operators
from transxnet.layers import group_norm

TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def random(*shape: int, dtype: torch.dtype = torch.float32, mean: float = 0.0, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed)) + mean
    return (x.to(dtype).contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x).requires_grad_()


def with_gradients(y: Tensor, gradient: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    return y, *torch.autograd.grad(y, given, gradient)


@pytest.mark.parametrize(
    ("shape", "dtype", "mean"),
    [
        ((2, 6, 5, 4), torch.float32, 0.0),
        ((1, 70, 9, 11), torch.float32, 0.0),  # several blocks of channels, several parts
        ((3, 1, 7, 3), torch.float32, 0.0),
        ((4, 16, 1, 1), torch.float32, 0.0),
        ((2, 5, 23, 25), torch.float32, 1e4),
        ((2, 24, 7, 7), torch.bfloat16, 3.0),
        ((1, 96, 3, 3), torch.float16, 0.0),
    ],
)
def test_group_normalisation(shape: Any, dtype: torch.dtype, mean: float) -> None:
    """Of a whole map, of a share of a map's channels and of a map with the channels first."""
    batch, channels, height, width = shape
    weight, bias = random(channels), random(channels, seed=1)
    gradient = random(batch, channels, width, height, dtype=dtype).detach().transpose(2, 3)
    whole = random(batch, 2 * channels, height, width, dtype=dtype, mean=mean)[:, channels:]
    for x in (random(*shape, dtype=dtype, mean=mean), whole, whole.contiguous()):
        given = (x.detach().requires_grad_(), weight, bias)
        exact = [one.detach().double().requires_grad_() for one in given]
        with kernels.use("triton"):
            found = with_gradients(kernels.group_norm(*given, 1e-5), gradient, *given)
        expected = with_gradients(F.group_norm(exact[0], 1, *exact[1:], 1e-5), gradient.double(), *exact)
        assert found[0].dtype == found[1].dtype == dtype
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        assert_same(found[:2], expected[:2], TOLERANCES[dtype])
        assert_same(found[2:], expected[2:], 2e-6)


def test_group_normalisation_is_what_pytorch_expects() -> None:
    x, weight, bias = random(1, 3, 2, 2), random(3), random(3)
    statistics = torch.ones(1, 2, dtype=torch.float64)
    with kernels.use("triton"):
        torch.library.opcheck(torch.ops.transxnet.group_norm.default, (x, weight, bias, 1e-5))
        for of_input in (True, False):
            given = (x.detach(), x.detach(), weight.detach(), statistics, of_input)
            torch.library.opcheck(torch.ops.transxnet.group_norm_backward.default, given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_group_normalisation_without_a_kernel(dtype: torch.dtype) -> None:
    x, weight, bias = (one.detach().to(dtype).requires_grad_() for one in (random(2, 6, 3, 2), random(6), random(6)))
    y, _ = operators.group_norm(x, weight, bias, 1e-5)
    found = with_gradients(y, y.detach() + 1, x, weight, bias)
    expected = with_gradients(F.group_norm(x, 1, weight, bias, 1e-5), y.detach() + 1, x, weight, bias)
    assert_same(found, expected, 2e-6 if dtype == torch.float32 else 1e-12)


def test_the_layer_is_pytorchs_on_cpus() -> None:
    layer, x = group_norm(6), random(2, 6, 3, 2)
    original = nn.GroupNorm(1, 6)
    original.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), original(x))
    assert repr(layer) == repr(original)


def test_the_layer_returns_16_bits_under_autocast() -> None:
    layer, x = group_norm(6), random(2, 6, 3, 2, dtype=torch.bfloat16)
    with kernels.use("triton"), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
