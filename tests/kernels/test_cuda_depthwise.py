"""Depthwise convolutions for CUDA devices, by Triton's interpreter where there is no such device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.cuda_device import DEVICE
from helpers.networks import assert_same
from transxnet import kernels

pytest.importorskip("triton")

QUICK = ("test_schema", "test_autograd_registration", "test_faketensor")
SLOW = ("test_aot_dispatch_dynamic",)
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


SMALL: dict[str, tuple[Any, torch.dtype]] = {
    "per image": (((2, 9, 3, 5), [9], [3], True, False, True), torch.bfloat16),
    "shared": (((1, 5, 1, 2), [5], [7], False, True, True), torch.float32),
    "scales": (((1, 6, 1, 2), [2] * 3, [1, 3, 5], True, True, False), torch.float32),
    "unequal scales": (((1, 3, 2, 9), [2, 1], [1, 3], False, False, False), torch.float16),
}
"""As ``CASES``, each with the map's type; the interpreter is slow."""


@pytest.mark.parametrize("case", SMALL)
def test_the_kernels_compute_what_pytorch_does_in_float64(case: str) -> None:
    """Forward and backward, of a slice of channels and in half precision too; weights stay float32."""
    compare(*SMALL[case])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_kernels_of_larger_maps(case: str, dtype: torch.dtype) -> None:
    compare(CASES[case], dtype)


def compare(case: Any, dtype: torch.dtype) -> None:
    shape, channels, sizes, own, identity, has_bias = case
    images = shape[0] if own else 1
    x = sliced(*shape, dtype=dtype).requires_grad_()
    numbers = sum(count * size * size for count, size in zip(channels, sizes, strict=True))
    weight = random(images, numbers).requires_grad_()
    bias = random(images, shape[1]).requires_grad_() if has_bias else None
    check(dtype, x, weight, bias, channels, sizes, identity)


@pytest.mark.parametrize("layout", ["positions last", "channels last"])
def test_kernels_of_any_layout_are_read_as_they_are(layout: str) -> None:
    """As IDConv mixes them: with the bias after the kernel's positions."""
    mixed = random(2, 4, 10)
    if layout == "channels last":
        mixed = mixed.transpose(1, 2).contiguous().transpose(1, 2)
    weight, bias = mixed[:, :, :-1].unflatten(2, (3, 3)).requires_grad_(), mixed[:, :, -1].requires_grad_()
    check(torch.float32, sliced(2, 4, 2, 3, dtype=torch.float32).requires_grad_(), weight, bias, [4], [3], False)


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


@pytest.mark.parametrize("utilities", [QUICK, pytest.param(QUICK + SLOW, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_the_operator_is_what_pytorch_expects(utilities: tuple[str, ...]) -> None:
    """With kernels as IDConv gives them, too."""
    x = random(2, 3, 1, 2).contiguous(memory_format=torch.channels_last).requires_grad_()
    own = random(2, 9, 3).transpose(1, 2).unflatten(2, (3, 3)).requires_grad_()
    for given in (
        (x, random(1, 2 * 9 + 1).requires_grad_(), random(1, 3).requires_grad_(), [2, 1], [3, 1], True),
        (x, own, random(2, 3).requires_grad_(), [3], [3], False),
    ):
        for policy in ("triton", "auto"):
            with kernels.use(policy):
                torch.library.opcheck(torch.ops.transxnet.depthwise_conv2d.default, given, test_utils=utilities)
