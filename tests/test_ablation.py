"""The alternatives of Tables V to IX against independent versions, and every row as a network."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.pvt_v2 import Attention as TimmSRA
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

import transxnet
from support import images, lively
from test_commands import paint, run
from transxnet import ConfigError, TransXNetConfig
from transxnet.ablation import ROWS, Row
from transxnet.ablation.acmix import ACmix
from transxnet.ablation.d_dwconv import DynamicDWConv
from transxnet.ablation.dyconv import DyConv
from transxnet.ablation.ffn import PointwiseFFN, VanillaFFN
from transxnet.ablation.mixing_block import MixingBlock
from transxnet.ablation.patches import PatchStem, non_overlapping_spatial_reduction
from transxnet.ablation.rows import BASES
from transxnet.ablation.sep_conv import SepConv
from transxnet.ablation.sra import SRA
from transxnet.ablation.swin import ShiftedWindowAttention
from transxnet.ablation.window_attention import WindowAttention
from transxnet.layers import MSFFN
from transxnet.layers.osra import overlapping_spatial_reduction

EVERY_ROW = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
close = torch.testing.assert_close


def small(row: Row, **settings: Any) -> transxnet.TransXNet:
    """The row on the nano network."""
    torch.manual_seed(0)
    return transxnet.create_model(row.network("nano"), **{"num_classes": 5, **settings})


def lively_part(part: Any) -> Any:
    """In evaluation mode, with weights that all show in the output."""
    return lively(part).eval()


# Parts


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
    """From a table (169, heads) to (heads, 49, 49): a pair's place depends on the two offsets."""
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

    def places(layer: nn.Module, image: Tensor) -> Tensor:  # a layer for vectors, at every place
        return layer(image.permute(1, 2, 0)).permute(2, 0, 1)  # type: ignore[no-any-return]

    with torch.inference_mode():
        for image, output in zip(x, part(x), strict=True):
            padded = padded_to_sevens(image)
            convolved = part.depthwise(places(part.to_convolution, padded)[None])
            channel_gate = torch.sigmoid(part.channel_interaction(convolved.mean((2, 3), keepdim=True)))[0, :, 0, 0]
            distant = attended(places(part.qkv, places(part.to_attention, padded)), 2, bias, channel_gate)
            place_gate = torch.sigmoid(part.spatial_interaction(distant[None]))
            near = part.convolution_norm(part.halve(convolved) * place_gate)[0]
            expected = places(part.proj, torch.cat([places(part.attention_norm, distant), near]))
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


def test_acmix_starts_as_shifts_and_halves_even_in_a_network() -> None:
    for module in small(ROWS["table5/acmix"]).modules():
        if isinstance(module, ACmix):
            x = torch.zeros(1, module.dep_conv.in_channels, 3, 3)
            x[:, :, 1, 1] = torch.arange(module.dep_conv.in_channels) % 9 + 1.0  # the i-th of a group, for shift i
            shifted = module.dep_conv(x)[0, 0]  # what goes up comes from below
            assert torch.equal(shifted.flatten().flip(0), torch.arange(1.0, 10))
            assert (module.rate1.item(), module.rate2.item()) == (0.5, 0.5)


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


def touched(part: nn.Module, place: tuple[int, int], size: tuple[int, int]) -> set[tuple[int, int]]:
    """Places of the output that a place of the input reaches."""
    x = images(1, 3, *size).requires_grad_()
    changed = x.detach().clone()
    changed[:, :, place[0], place[1]] += 1
    with torch.inference_mode():
        moved = (part(x) - part(changed)).abs().amax((0, 1)) > 1e-6
    return {(int(y), int(x)) for y, x in moved.nonzero()}


@pytest.mark.parametrize(("place", "patch"), [((0, 0), (0, 0)), ((4, 3), (1, 0)), ((8, 9), (2, 2)), ((7, 7), (1, 1))])
def test_patches_side_by_side_share_no_place_and_leave_none_out(place: tuple[int, int], patch: tuple[int, int]) -> None:
    size = (9, 10)  # not a multiple of 4
    for part in (PatchStem(3, 3, 4), non_overlapping_spatial_reduction(3, 4)):
        assert touched(lively_part(part), place, size) == {patch}
    assert patch in touched(lively_part(overlapping_spatial_reduction(3, 4)), place, size)
    assert len(touched(lively_part(overlapping_spatial_reduction(3, 4)), (7, 7), size)) > 1


# Rows


def test_every_row_is_registered_on_both_bases() -> None:
    assert len(ROWS) == 24
    assert set(timm.list_models("transxnet_*_table*")) == {row.network(base) for row in ROWS.values() for base in BASES}


@pytest.mark.parametrize("base", BASES)
@EVERY_ROW
def test_a_rows_configuration_survives_json(row: Row, base: str) -> None:
    config = row.config(base)
    assert TransXNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_papers_own_network_is_a_row_of_every_table_from_6() -> None:
    own = [name for name, row in ROWS.items() if row.config() == transxnet.VARIANTS["transxnet_tiny"]]
    assert own == ["table6/idconv", "table7/1_3_5_7", "table8/0.5", "table9/dpe_osr_ste"]
    assert len({row.config("nano") for row in ROWS.values()}) == len(ROWS) - 3


@pytest.mark.parametrize("size", [(224, 224), (160, 288), (33, 47)])
@EVERY_ROW
def test_a_row_answers_at_any_size(row: Row, size: tuple[int, int]) -> None:
    model = small(row).eval()
    with torch.inference_mode():
        logits = model(images(1, 3, *size))
    assert logits.shape == (1, 5)
    assert logits.isfinite().all()


@EVERY_ROW
def test_a_step_lowers_the_loss_and_reaches_every_parameter(row: Row) -> None:
    model, batch, labels = small(row).train(), images(6, 3, 64, 64), torch.arange(6) % 5

    def loss_of() -> Tensor:
        return F.cross_entropy(model(batch), labels)

    before = loss_of()
    before.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert loss_of() < before


@EVERY_ROW
def test_recomputation_changes_nothing(row: Row) -> None:
    plain = lively(small(row)).train()
    recomputed = copy.deepcopy(plain)
    recomputed.set_grad_checkpointing()
    for model in (plain, recomputed):
        model(images(2, 3, 40, 40)).square().mean().backward()
    for (name, parameter), again in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert parameter.grad is not None and again.grad is not None
        close(parameter.grad, again.grad, rtol=1e-4, atol=1e-6, msg=name)
    statistics = zip(plain.buffers(), recomputed.buffers(), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in statistics)


@EVERY_ROW
def test_a_row_takes_other_channels_classes_and_sizes(row: Row) -> None:
    model = small(row, in_chans=1).eval()
    model.reset_classifier(7)
    with torch.inference_mode():
        before = model(images(2, 1, 64, 96))
        assert before.shape == (2, 7)
        model.set_input_size((64, 96))
        assert torch.equal(model(images(2, 1, 64, 96)), before)
    assert model.config.img_size == (64, 96)


@pytest.mark.parametrize("name", ["table5/swin", "table5/d_mixer", "table6/dyconv", "table7/none", "table9/nsr"])
def test_a_rows_network_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model, batch = lively(small(ROWS[name], img_size=64)).eval(), images(2, 3, 64, 64)
    loaded = transxnet.load_model(transxnet.save_model(model, tmp_path / "row.safetensors")).eval()
    assert loaded.config == model.config
    with torch.inference_mode():
        assert torch.equal(loaded(batch), model(batch))


@pytest.mark.parametrize("name", ["table5/acmix", "table6/window_attention", "table9/nsr_dpe"])
def test_a_row_serves_dense_prediction(name: str, tmp_path: Path) -> None:
    network = ROWS[name].network("nano")
    weights = transxnet.save_model(small(ROWS[name]), tmp_path / "row.safetensors")
    segmenter = transxnet.create_segmenter(backbone=network, num_classes=4, backbone_checkpoint=weights)
    scores = segmenter(images(2, 3, 64, 96))
    assert scores.shape == (2, 4, 64, 96)
    scores.square().mean().backward()
    features = timm.create_model(network, features_only=True)
    assert [tuple(each.shape[2:]) for each in features(images(1, 3, 33, 47))] == [(9, 12), (5, 6), (3, 3), (2, 2)]


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith(("table5", "table6"))])
def test_rows_can_be_traced(name: str) -> None:
    network = ROWS[name].network("nano")
    model = timm.create_model(network, features_only=True, feature_cls="fx").eval()
    shapes = [tuple(features.shape[1:]) for features in model(images(1, 3, 32, 32))]
    assert shapes == [(24, 8, 8), (48, 4, 4), (96, 2, 2), (160, 1, 1)]


def test_a_row_is_trained_from_the_command_line(tmp_path: Path) -> None:
    paint(tmp_path / "photos", 6)
    settings = ("--recipe", "digits", "--model", "transxnet_nano_table5_mixing_block", "--epochs", 1, "--batch-size", 4)
    assert run("train", *settings, "--data", tmp_path / "photos", "--out", tmp_path / "run") == 0
    assert transxnet.load_model(tmp_path / "run").config.token_mixer == "mixing_block"


# Mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_mixer": "d_mixr"}, 'token_mixer is "d_mixer", "sep_conv", "sra", "swin", "mixing_block" or "acmix"'),
        ({"local_operator": "conv"}, "local_operator is"),
        ({"ffn": "mlp"}, 'ffn is "ms_ffn", "pointwise" or "vanilla"'),
        ({"spatial_reduction": 2}, 'spatial_reduction is "osr" or "nsr", not 2'),
        ({"ffn_scales": ()}, "ffn='pointwise' has none"),
        ({"ffn_scales": (1, 4)}, "ffn_scales must be odd whole numbers"),
        ({"token_mixer": "sra", "heads": (1, 5, 4, 5)}, "stage 1: 5 heads cannot divide 48 channels"),
        ({"token_mixer": "mixing_block", "heads": (8, 2, 4, 5)}, "stage 0: the mixing block needs"),
        ({"local_operator": "d_dwconv", "attention_shares": (0.75, 0.5, 0.5, 0.5)}, "D-DWConv needs at least 8"),
        ({"local_operator": "window_attention", "heads": (1, 2, 4, 5), "attention_shares": (0.5, 0.5, 0.5, 0.25)},
         None),
        ({"local_operator": "window_attention", "heads": (9, 2, 4, 5), "attention_shares": (0.75, 0.5, 0.5, 0.5)},
         "stage 0: 9 heads cannot divide the 6 channels of window attention"),
        ({"layer_scale_init": "none"}, "layer_scale_init must be a number or None"),
    ],
)  # fmt: skip
def test_an_alternative_that_cannot_be_is_named(settings: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert transxnet.create_model("transxnet_nano", **settings).config.local_operator == "window_attention"
        return
    with pytest.raises(ConfigError, match=message):
        transxnet.create_model("transxnet_nano", **settings)


def test_a_base_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="bases are tiny and nano, not 'base'"):
        ROWS["table6/dwconv"].config("base")
    with pytest.raises(ConfigError, match="did you mean transxnet_nano_table6_dwconv"):
        transxnet.create_model("transxnet_nano_table6_dwcnv")
