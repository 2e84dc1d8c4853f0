"""Depthwise convolutions for CUDA devices, by Triton's interpreter where there is no such device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import transxnet
from helpers.networks import assert_same, first_stages, images, nano
from transxnet import kernels

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def sliced(*shape: int, dtype: torch.dtype) -> Tensor:
    """The last channels of a wider map with the channels last."""
    batch, channels, height, width = shape
    wide = random(batch, channels + 8, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return wide[:, 8:]


def doubled(value: Any) -> Any:
    return value.detach().double().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


# shape of the map, channels of the shares, kernel sizes, whether each image has its own kernels, identity, bias
CASES = {
    "per image": ((2, 24, 9, 11), [24], [7], True, False, True),
    "odd channels": ((3, 5, 4, 5), [5], [3], True, True, True),
    "one pixel": ((2, 5, 1, 1), [5], [7], True, False, False),
    "shared": ((2, 40, 8, 7), [40], [5], False, True, True),
    "scales": ((2, 4 * 8, 9, 8), [8] * 4, [1, 3, 5, 7], False, True, True),
    "unequal scales": ((1, 14, 3, 35), [8, 6], [3, 7], False, False, False),
    "shares of any width": ((1, 12, 3, 4), [2, 4, 6], [1, 3, 5], True, True, True),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_kernels_compute_what_pytorch_does_in_float64(case: str, dtype: torch.dtype) -> None:
    """Forward and backward, of a slice of channels and in half precision too; weights stay float32."""
    shape, channels, sizes, own, identity, has_bias = CASES[case]
    images = shape[0] if own else 1
    x = sliced(*shape, dtype=dtype).requires_grad_()
    numbers = sum(count * size * size for count, size in zip(channels, sizes, strict=True))
    weight = random(images, numbers).requires_grad_()
    bias = random(images, shape[1]).requires_grad_() if has_bias else None
    check(dtype, x, weight, bias, channels, sizes, identity)


@pytest.mark.parametrize("layout", ["positions last", "channels last"])
def test_kernels_of_any_layout_are_read_as_they_are(layout: str) -> None:
    """As IDConv mixes them: with the bias after the kernel's positions."""
    mixed = random(2, 24, 26).transpose(1, 2).contiguous().transpose(1, 2) if layout == "channels last" else None
    mixed = random(2, 24, 26) if mixed is None else mixed
    weight, bias = mixed[:, :, :-1].unflatten(2, (5, 5)).requires_grad_(), mixed[:, :, -1].requires_grad_()
    check(torch.float32, sliced(2, 24, 6, 5, dtype=torch.float32).requires_grad_(), weight, bias, [24], [5], False)


def check(dtype: torch.dtype, *given: Any) -> None:
    """Compare the operator's result and gradients with those of its form in PyTorch's operations in float64."""
    operator = torch.ops.transxnet.depthwise_conv2d
    doubles = [doubled(one) for one in given]
    expected = operator(*doubles)
    gradient = torch.randn_like(expected).contiguous()
    leaves, others = ([one for one in some if isinstance(one, Tensor)] for some in (given, doubles))
    with kernels.use("triton"):
        found = operator(*given)
        gradients = torch.autograd.grad(found, leaves, gradient.to(dtype))
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert_same(found, expected, TOLERANCE[dtype])
    assert_same(gradients, torch.autograd.grad(expected, others, gradient.to(dtype).double()), TOLERANCE[dtype])


def test_the_operator_is_what_pytorch_expects() -> None:
    """With kernels as IDConv gives them, too."""
    x = random(2, 6, 5, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    own = random(2, 9, 6).transpose(1, 2).unflatten(2, (3, 3)).requires_grad_()
    for given in (
        (x, random(1, 4 * 9 + 2).requires_grad_(), random(1, 6).requires_grad_(), [4, 2], [3, 1], True),
        (x, own, random(2, 6).requires_grad_(), [6], [3], False),
    ):
        with kernels.use("triton"):
            torch.library.opcheck(torch.ops.transxnet.depthwise_conv2d.default, given)
        torch.library.opcheck(torch.ops.transxnet.depthwise_conv2d.default, given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_fused_network_computes_the_same(dtype: torch.dtype) -> None:
    """Fused on a CPU with its defaults, or in the form for GPUs."""
    model = nano(**first_stages(1))
    x = images(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    expected = model.forward_features(x)
    fused = transxnet.fuse(model, depthwise="split").to(DEVICE, dtype)
    with torch.inference_mode(), kernels.use("triton"):
        found = fused.forward_features(x.to(DEVICE, dtype))
    assert_same(found, expected, 2e-5 if dtype == torch.float32 else 3e-2)
