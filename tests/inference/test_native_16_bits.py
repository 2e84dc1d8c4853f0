"""Native kernels compute maps of 16 bits in float16 where the processor does, and in float32 where they must."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import transxnet
from helpers.networks import assert_same, images, nano
from transxnet.kernels.cpu import build, numbers
from transxnet.kernels.cpu.blocks import NativeBlocks
from transxnet.kernels.cpu.patch_embed import NativeConv2d

DIGITS = {torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""How far from float32 outputs may be, as a share of the largest: each block rounds to 11 or 8 binary digits."""

needs_float16 = pytest.mark.skipif(not build.has_float16(), reason="this processor does not compute in float16")


@pytest.fixture(params=[pytest.param("float16", marks=needs_float16), "float32"])
def computed_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Processors with and without float16."""
    if request.param == "float32":
        monkeypatch.setattr(numbers, "has_float16", lambda: False)
    return request.param


def run(fused: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode():
        found: Tensor = fused.to(dtype)(x.to(dtype))
        assert found.dtype == dtype
        return found.float()


@pytest.mark.parametrize("dtype", DIGITS, ids=str)
@pytest.mark.parametrize("shape", [(7, 3, 33, 90), (2, 3, 300, 40)])
def test_it_is_near(computed_in: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    model = nano()
    assert_same(run(transxnet.fuse(model, native=True), images(*shape), dtype), model(images(*shape)), DIGITS[dtype])


@needs_float16
@settings(max_examples=8, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 7]), height=st.integers(32, 130), width=st.integers(32, 130),
    groups=st.integers(1, 4), kernel_size=st.sampled_from([3, 5, 7]), factors=st.booleans(),
    channels=st.sampled_from([(16, 32, 64, 128), (20, 36, 52, 68), (40, 56, 72, 104)]),
)  # fmt: skip
def test_any_network_is_near_in_float16(
    batch: int, height: int, width: int, groups: int, kernel_size: int, factors: bool, channels: Any
) -> None:
    """Widths that fill registers or do not, an odd number of summands, and position biases in factors."""
    heads = (1, 1, 1, 2)
    model = nano(attention_groups=groups, kernel_sizes=kernel_size, channels=channels, heads=heads)
    x = images(batch, 3, height, width)
    fused = transxnet.fuse(model, native=True).to(torch.float16)
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        expected = model.forward_features(x)
        if factors:
            patch.setattr(transxnet.layers.position_bias, "LARGEST_MAP", 0)
        assert_same(fused.forward_features(x.half()).float(), expected, DIGITS[torch.float16])
    assert all(module.suits_float16() for module in fused.modules() if isinstance(module, NativeBlocks))


@pytest.mark.parametrize("dtype", DIGITS, ids=str)
def test_what_float16_does_not_hold_is_computed_in_float32(dtype: torch.dtype) -> None:
    """Values beyond 65504 inside a block, found when they occur; and constants that would vanish."""
    large, small = nano(), nano()
    with torch.no_grad():
        for model, factor in ((large, 1e2), (small, 1e-7)):
            for block in cast(Any, model.stages[1]).blocks:
                expand, _, before = block.ffn.expand
                expand.weight.mul_(factor)
                before.running_mean.zero_()
                for scale in list(block.ffn.multi_scale.scales)[1:]:
                    scale.weight.mul_(5e2)
                block.ffn.norm.running_mean.zero_()
                if model is small:  # they are made as large again as the others are
                    before.running_var.mul_(1e-4)
                    block.ffn.norm.running_var.mul_(1e-4)
                else:
                    block.ffn.norm.running_var.mul_(1e10)
    x = images(2, 3, 64, 64)
    for model in (large, small):
        fused = transxnet.fuse(model, native=True)
        assert_same(run(fused, x, dtype), model(x), DIGITS[dtype])
        suits = [module.suits_float16() for module in fused.modules() if isinstance(module, NativeBlocks)]
        assert suits == [True, model is large, True, True]


@needs_float16
def test_patches_are_convolved_in_float16() -> None:
    """Also where kernels leave the map, and where a row has an odd number of channels."""
    for channels, size, stride, padding, shape in ((3, 7, 4, 3, (33, 50)), (5, 3, 2, 1, (7, 9)), (48, 3, 2, 1, (1, 2))):
        conv = torch.nn.Conv2d(channels, 50, size, stride, padding)
        x = images(3, channels, *shape)
        with torch.inference_mode():
            expected = conv(x)
            for dtype in DIGITS:
                found = NativeConv2d(conv)(x.to(dtype))
                assert found.dtype == dtype
                assert_same(found.float(), expected, 1e-2)
