"""The alternatives of Tables V to IX against independent versions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from timm.models.pvt_v2 import Attention as TimmSRA
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.networks import images, lively
from transxnet.ablation.acmix import ACmix
from transxnet.ablation.d_dwconv import DynamicDWConv
from transxnet.ablation.dyconv import DyConv
from transxnet.ablation.ffn import PointwiseFFN, VanillaFFN
from transxnet.ablation.mixing_block import MixingBlock
from transxnet.ablation.sep_conv import SepConv
from transxnet.ablation.sra import SRA
from transxnet.ablation.swin import ShiftedWindowAttention
from transxnet.ablation.window_attention import WindowAttention
from transxnet.layers import MSFFN, PatchStem
from transxnet.layers.osra import non_overlapping_spatial_reduction, overlapping_spatial_reduction

close = torch.testing.assert_close


def lively_part(part: Any) -> Any:
    """In evaluation mode, with weights that all show in the output."""
    return lively(part).eval()


@pytest.mark.parametrize(("size", "shifted"), [((14, 14), True), ((21, 14), True), ((7, 14), True), ((9, 16), False)])
def test_shifted_windows_are_timms(size: tuple[int, int], shifted: bool) -> None:
    ours = lively_part(ShiftedWindowAttention(12, 3, shifted=shifted))
    theirs = SwinTransformerBlock(12, size, num_heads=3, window_size=7, shift_size=3 if shifted else 0).eval()
    theirs.attn.qkv.load_state_dict(ours.qkv.state_dict())
    theirs.attn.proj.load_state_dict(ours.proj.state_dict())
    theirs.attn.relative_position_bias_table = ours.position_bias.relative_position_bias_table
    x = images(2, 12, *size)
    with torch.inference_mode():
        close(ours(x), theirs._attn(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_sra_is_timms(reduction: int) -> None:
    ours = lively_part(SRA(12, 3, reduction))
    theirs = TimmSRA(12, num_heads=3, sr_ratio=reduction).eval()
    theirs.load_state_dict(ours.state_dict())
    x = images(2, 12, 8, 12)
    with torch.inference_mode():
        expected = theirs(x.flatten(2).transpose(1, 2), (8, 12)).transpose(1, 2).reshape(x.shape)
        close(ours(x), expected, rtol=1e-4, atol=1e-5)


def windows_of(height: int, width: int, size: int = 7) -> list[tuple[slice, slice]]:
    return [
        (slice(y, y + size), slice(x, x + size)) for y in range(0, height, size) for x in range(0, width, size)
    ]  # fmt: skip


def attended(qkv: Tensor, heads: int, bias: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
    """Windows one by one, heads one by one. Shapes: (3C, H, W) to (C, H, W), H and W multiples of 7."""
    q, k, v = qkv.chunk(3)
    if gate is not None:
        v = v * gate[:, None, None]
    result = torch.empty_like(q)
    per_head = q.shape[0] // heads
    for window in windows_of(*q.shape[1:]):
        for head in range(heads):
            channels = slice(head * per_head, (head + 1) * per_head)
            a, b, c = (x[(channels, *window)].flatten(1) for x in (q, k, v))  # (d, 49)
            scores = a.T @ b / math.sqrt(per_head)
            if bias is not None:
                scores = scores + bias[head]
            result[(channels, *window)] = (scores.softmax(1) @ c.T).T.reshape(per_head, 7, 7)
    return result


def table_bias(table: Tensor) -> Tensor:
    """From a table (169, heads) to (heads, 49, 49): a pair's index depends on the two offsets."""
    bias = torch.empty(table.shape[1], 49, 49)
    for query in range(49):
        for key in range(49):
            row, column = query // 7 - key // 7 + 6, query % 7 - key % 7 + 6
            bias[:, query, key] = table[13 * row + column]
    return bias


def padded_to_sevens(x: Tensor) -> Tensor:
    return F.pad(x, (0, -x.shape[-1] % 7, 0, -x.shape[-2] % 7))


@pytest.mark.parametrize("size", [(7, 14), (9, 16), (3, 2)])
def test_window_attention_window_by_window(size: tuple[int, int]) -> None:
    part, x = lively_part(WindowAttention(12, 3)), images(2, 12, *size)
    with torch.inference_mode():
        for image, output in zip(x, part(x), strict=True):
            expected = attended(part.qkv(padded_to_sevens(image)), 3)
            close(output, expected[:, : size[0], : size[1]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(14, 7), (9, 16)])
def test_mixing_block_step_by_step(size: tuple[int, int]) -> None:
    part, x = lively_part(MixingBlock(16, 2)), images(2, 16, *size)
    bias = table_bias(part.position_bias.relative_position_bias_table.detach())

    def at_positions(layer: nn.Module, image: Tensor) -> Tensor:  # a layer for vectors
        return layer(image.permute(1, 2, 0)).permute(2, 0, 1)  # type: ignore[no-any-return]

    with torch.inference_mode():
        for image, output in zip(x, part(x), strict=True):
            padded = padded_to_sevens(image)
            convolved = part.depthwise(at_positions(part.to_convolution, padded)[None])
            channel_gate = torch.sigmoid(part.channel_interaction(convolved.mean((2, 3), keepdim=True)))[0, :, 0, 0]
            distant = attended(at_positions(part.qkv, at_positions(part.to_attention, padded)), 2, bias, channel_gate)
            position_gate = torch.sigmoid(part.spatial_interaction(distant[None]))
            near = part.convolution_norm(part.halve(convolved) * position_gate)[0]
            expected = at_positions(part.proj, torch.cat([at_positions(part.attention_norm, distant), near]))
            close(output, expected[:, : size[0], : size[1]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(14, 7), (9, 16)])
def test_acmix_step_by_step(size: tuple[int, int]) -> None:
    heads, per_head = 3, 4
    part, x = lively_part(ACmix(heads * per_head, heads)), images(2, heads * per_head, *size)
    bias = table_bias(part.position_bias.relative_position_bias_table.detach())
    with torch.inference_mode():
        for image, output in zip(x, part(x), strict=True):
            qkv = padded_to_sevens(part.qkv(image.permute(1, 2, 0)).permute(2, 0, 1))
            distant = part.proj(attended(qkv, heads, bias).permute(1, 2, 0)).permute(2, 0, 1)
            near = torch.zeros_like(distant)
            for channel in range(per_head):
                projections = qkv[channel::per_head]  # q, k and v of every head
                shifts = torch.einsum("ip,phw->ihw", part.fc.weight[:, :, 0, 0], projections)
                shifts = shifts + part.fc.bias[:, None, None]
                for head in range(heads):
                    out = channel * heads + head
                    near[out] = F.conv2d(shifts[None], part.dep_conv.weight[out][None], padding=1)[0, 0]
            expected = part.rate1 * distant + part.rate2 * near
            close(output, expected[:, : size[0], : size[1]], rtol=1e-4, atol=1e-5)


def test_dyconv_with_one_kernel_is_a_convolution() -> None:
    part, x = lively_part(DyConv(8, kernels=1)), images(3, 8, 9, 6)
    with torch.inference_mode():
        close(part(x), F.conv2d(x, part.weight[0][:, None], part.bias[0], padding=3, groups=8), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernels", [2, 4])
def test_dyconv_image_by_image(kernels: int) -> None:
    part, x = lively_part(DyConv(8, kernels=kernels)), images(3, 8, 9, 6)
    with torch.inference_mode():
        for image, output in zip(x, part(x), strict=True):
            shares = part.attention(image[None]).flatten().softmax(0)
            kernel = sum(share * weight for share, weight in zip(shares, part.weight, strict=True))
            bias = sum(share * each for share, each in zip(shares, part.bias, strict=True))
            expected = F.conv2d(image[None], kernel[:, None], bias, padding=3, groups=8)[0]
            close(output, expected, rtol=1e-5, atol=1e-5)


def test_d_dwconv_image_by_image() -> None:
    part, x = lively_part(DynamicDWConv(16)), images(3, 16, 9, 6)
    with torch.inference_mode():
        outputs = part(x)
        assert not torch.allclose(part.kernel(x[:1]), part.kernel(x[1:2]), rtol=1e-2)
        for image, output in zip(x, outputs, strict=True):
            kernel = part.kernel(image[None]).reshape(16, 1, 7, 7)
            close(output, F.conv2d(image[None], kernel, part.bias, padding=3, groups=16)[0], rtol=1e-5, atol=1e-5)


def test_sep_conv_and_the_vanilla_ffn_are_their_formulas() -> None:
    x = images(2, 8, 9, 6)
    conv, ffn = lively_part(SepConv(8)), lively_part(VanillaFFN(8, 4))
    with torch.inference_mode():
        near = F.conv2d(x, conv.depthwise.weight, conv.depthwise.bias, padding=3, groups=8)
        mixed = torch.einsum("oc,bchw->bohw", conv.pointwise.weight[:, :, 0, 0], near)
        close(conv(x), mixed + conv.pointwise.bias[:, None, None], rtol=1e-5, atol=1e-5)
        hidden = F.gelu(torch.einsum("oc,bchw->bohw", ffn.fc1.weight, x) + ffn.fc1.bias[:, None, None])
        expected = torch.einsum("oc,bchw->bohw", ffn.fc2.weight, hidden) + ffn.fc2.bias[:, None, None]
        close(ffn(x), expected, rtol=1e-5, atol=1e-5)


def test_the_pointwise_ffn_is_ms_ffn_without_its_middle() -> None:
    ours, full = lively_part(PointwiseFFN(8, 4)), lively_part(MSFFN(8, 4))
    full.load_state_dict(ours.state_dict(), strict=False)
    full.norm = full.act = nn.Identity()
    full.multi_scale.forward = torch.zeros_like
    x = images(2, 8, 9, 6)
    with torch.inference_mode():
        close(ours(x), full(x))


def touched(part: nn.Module, position: tuple[int, int], size: tuple[int, int]) -> set[tuple[int, int]]:
    """Positions of the output that a position of the input reaches."""
    x = images(1, 3, *size).requires_grad_()
    changed = x.detach().clone()
    changed[:, :, position[0], position[1]] += 1
    with torch.inference_mode():
        moved = (part(x) - part(changed)).abs().amax((0, 1)) > 1e-6
    return {(int(y), int(x)) for y, x in moved.nonzero()}


@pytest.mark.parametrize(
    ("position", "patch"), [((0, 0), (0, 0)), ((4, 3), (1, 0)), ((8, 9), (2, 2)), ((7, 7), (1, 1))]
)
def test_patches_side_by_side_cover_each_position_once(position: tuple[int, int], patch: tuple[int, int]) -> None:
    size = (9, 10)  # not a multiple of 4
    for part in (PatchStem(3, 3, 4), non_overlapping_spatial_reduction(3, 4)):
        assert touched(lively_part(part), position, size) == {patch}
    assert patch in touched(lively_part(overlapping_spatial_reduction(3, 4)), position, size)
    assert len(touched(lively_part(overlapping_spatial_reduction(3, 4)), (7, 7), size)) > 1
