"""Kernels of fused networks for CUDA devices, by Triton's interpreter where there is no such device."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.cuda_device import DEVICE
from helpers.networks import assert_same
from transxnet import kernels
from transxnet.layers.affine import Affine
from transxnet.layers.folding import Folding
from transxnet.layers.fused_depthwise import MultiScale
from transxnet.layers.idconv import IDConv
from transxnet.layers.ms_ffn import MSFFN
from transxnet.layers.ste import STE

pytest.importorskip("triton")


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def last(*shape: int) -> Tensor:
    """The last channels of a wider map with the channels last."""
    batch, channels, height, width = shape
    return random(batch, channels + 4, height, width).contiguous(memory_format=torch.channels_last)[:, 4:]


def shift_sums(channels: int, sizes: list[int]) -> Tensor:
    """Sums over the first rows and columns of kernels, as an operator takes them."""
    kernels = [F.pad(random(channels, size, size).cumsum(1).cumsum(2), (1, 0, 1, 0)) for size in sizes]
    return torch.cat([one.flatten(1).T for one in kernels])


OPERATORS: dict[str, tuple[str, Any]] = {
    "scales": (
        "multi_scale_conv2d",
        (last(2, 7, 3, 5), shift_sums(4, [1, 3]), random(10, 4), random(7), [4, 3], [1, 3]),
    ),
    "one scale": ("multi_scale_conv2d", (last(1, 5, 3, 2), shift_sums(5, [3]), random(9, 5), random(5), [5], [3])),
    "a tile within the map": (
        "multi_scale_conv2d",
        (last(1, 5, 23, 21), shift_sums(5, [5]), random(25, 5), random(5), [5], [5]),
    ),
    "reduction by 8": ("filtered_conv2d", (last(1, 4, 3, 9), random(4, 1, 11, 11), *[random(4)] * 3, 8)),
    "reduction by 2": ("filtered_conv2d", (last(1, 5, 3, 4), random(5, 1, 5, 5), *[random(5)] * 3, 2)),
    "GELU alone": ("filtered_conv2d", (last(2, 5, 3, 4), random(5, 1, 3, 3), random(5), None, None, 1)),
    "bins": ("pooled_positions", (last(2, 4, 5, 9), 3)),
    "bins of a map of some size": ("pooled_positions", (last(1, 3, 16, 17), 3)),
    "bins of a map smaller than they": ("pooled_positions", (last(1, 3, 1, 2), 3)),
    "bins of a large map": ("pooled_positions", (last(1, 2, 65, 64), 1)),
    "two groups": ("mixed_kernels", (random(2, 10, 6), random(2, 6, 10))),
    "three groups": ("mixed_kernels", (random(2, 10, 18), random(3, 10, 6).transpose(1, 2))),
}


@pytest.mark.parametrize("case", OPERATORS)
def test_kernels_compute_what_pytorch_does_in_float64(case: str) -> None:
    """Their shapes are known, too."""
    name, given = OPERATORS[case]
    operator = getattr(torch.ops.transxnet, name)
    expected = operator(*(one.double() if isinstance(one, Tensor) else one for one in given))
    with kernels.use("triton"):
        assert_same(operator(*given), expected, 2e-6)
        torch.library.opcheck(operator.default, given, test_utils=("test_schema", "test_faketensor"))


def folded(layer: Any) -> Any:
    """A layer's form for inference."""
    folding = Folding(["split"], "linear", "grouped", dynamic_size=False, channels_last=True)
    folding.next_stage()
    return layer.eval().requires_grad_(False).folded(folding).to(DEVICE)


@pytest.mark.parametrize(
    "layer",
    [MSFFN(4, 2, (1, 3)), STE(4), IDConv(4, 3), IDConv(4, 3, groups=3)],
    ids=["MS-FFN", "STE", "IDConv", "three groups"],
)
def test_fused_layers_compute_the_same_by_the_kernels(layer: nn.Module) -> None:
    """In float32 and bfloat16."""
    for name, buffer in layer.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    x = last(2, 4, 3, 5)
    expected = layer.eval()(x.cpu()).detach()
    fused = folded(layer)
    with kernels.use("triton"):
        assert_same(fused(x), expected.to(DEVICE), 1e-5)
        half = copy.deepcopy(fused).to(torch.bfloat16)(x.bfloat16())
    assert_same(half, expected.to(DEVICE), 4e-2)


def test_scales_that_run_for_a_gradient_are_pytorchs() -> None:
    """The kernels of fused networks have no gradient; a fused network has one of its images."""
    fused, x = folded(MSFFN(4, 2, (1, 3))), last(1, 4, 3, 5).requires_grad_()
    with kernels.use("triton"):
        of_kernels = torch.autograd.grad(fused(x).sum(), x)
    assert_same(of_kernels, torch.autograd.grad(fused(x).sum(), x), 1e-5)


def test_the_kernels_constants_follow_weights_that_are_loaded() -> None:
    """A CUDA device has them packed, in float32 whatever the network is converted to."""
    scales = MultiScale(Affine(random(4), random(4), random(1)), nn.Conv2d(4, 4, 3, padding=1, groups=4).to(DEVICE))
    scales._keep(scales._pack(), torch.device(DEVICE))
    weights = {name: value * 2 for name, value in scales.state_dict().items()}
    before: Any = {name: getattr(scales, name).clone() for name in ("packed_edges", "packed_weight", "packed_bias")}
    scales.load_state_dict(weights)
    for name, value in before.items():
        assert_same(getattr(scales, name), value * (2 if name == "packed_bias" else 4))  # products of two
    assert not any("packed" in name for name in weights)
