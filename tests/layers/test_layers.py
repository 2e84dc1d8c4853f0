"""The parts of the network: dynamic convolution, normalisation, feed-forward network, position bias."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import transxnet
from helpers.networks import images, lively, nano
from transxnet.layers import MSFFN, BatchNorm2d, IDConv, PositionBias

RESIZES = ("flattened", "geometric")


@pytest.mark.parametrize(
    ("kernel_size", "groups", "size"), [(7, 2, (14, 14)), (5, 4, (9, 6)), (7, 3, (3, 2)), (3, 1, (1, 1))]
)
def test_idconv_is_a_depthwise_convolution_of_each_image(kernel_size: int, groups: int, size: tuple[int, int]) -> None:
    idconv = lively(IDConv(8, kernel_size, groups)).eval()
    batch = images(3, 8, *size)
    with torch.inference_mode():
        outputs = idconv(batch)
        for image, output in zip(torch.split(batch, 1), torch.split(outputs, 1), strict=True):
            at_positions = idconv.attention(F.adaptive_avg_pool2d(image, kernel_size))
            at_positions = at_positions.reshape(groups, 8, kernel_size, kernel_size).softmax(0)
            overall = idconv.attention(F.adaptive_avg_pool2d(image, 1)).reshape(groups, 8).softmax(0)
            kernel = (at_positions * idconv.weight).sum(0).unsqueeze(1)
            bias = (overall * idconv.bias).sum(0)
            expected = F.conv2d(image, kernel, bias, padding=kernel_size // 2, groups=8)
            torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_idconv_counts_two_batches_in_each_training_step() -> None:
    idconv = IDConv(8).train()
    idconv(images(2, 8, 10, 10))
    counts = [buffer for name, buffer in idconv.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts == [torch.tensor(2)]


def test_a_single_value_is_normalised_by_the_running_statistics_and_not_counted() -> None:
    norm = lively(BatchNorm2d(6))
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    value = images(1, 6, 1, 1)
    trained = norm.train()(value)
    assert torch.equal(trained, norm.eval()(value))
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())


@pytest.mark.parametrize("shape", [(2, 6, 1, 1), (1, 6, 1, 2)])
def test_more_values_are_normalised_as_by_pytorch(shape: tuple[int, ...]) -> None:
    ours, theirs = lively(BatchNorm2d(6)).train(), lively(torch.nn.BatchNorm2d(6)).train()
    assert torch.equal(ours(images(*shape)), theirs(images(*shape)))
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))


@pytest.mark.parametrize("size", [224, 32])
def test_a_batch_of_one_image_trains(size: int) -> None:
    model = nano(img_size=size).train()
    loss = model(images(1, 3, size, size)).square().mean()
    loss.backward()
    assert loss.isfinite()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []


def test_ms_ffn_gives_the_remainder_to_the_first_scale() -> None:
    ffn = lively(MSFFN(5, expansion=2)).eval()  # 10 hidden channels: 4, 2, 2, 2
    hidden = images(2, 10, 6, 7)
    with torch.inference_mode():
        parts = torch.split(ffn.multi_scale(hidden), [4, 2, 2, 2], dim=1)
        for given, part, scale, kernel in zip(
            torch.split(hidden, [4, 2, 2, 2], dim=1), parts, ffn.multi_scale.scales, (1, 3, 5, 7), strict=True
        ):
            channels = given.shape[1]
            weight, bias = (scale.get_parameter(name) for name in ("weight", "bias"))
            assert weight.shape == (channels, 1, kernel, kernel)
            expected = F.conv2d(given, weight, bias, padding=kernel // 2, groups=channels)
            torch.testing.assert_close(part, expected)


def test_a_fresh_network_starts_as_the_released_recipe_says() -> None:
    torch.manual_seed(0)
    model = transxnet.create_model("transxnet_nano")
    drawn, constant = [], {}
    for name, parameter in model.named_parameters():
        if (parameter.ndim == 4 and "position_bias" not in name) or name.endswith(("fc.weight", "local_operator.bias")):
            drawn.append((name, parameter))
        else:
            constant[name] = set(parameter.detach().flatten().tolist())
    assert [name for name, weight in drawn if weight.numel() > 1000 and not 0.018 < weight.std() < 0.022] == []
    for name, values in constant.items():
        scale = ".scale1.weight" in name or ".scale2.weight" in name
        weight = torch.tensor(1e-5).item() if scale else float(name.endswith("weight"))
        assert values == {weight}, name


def bias_table(grid: tuple[int, int], reduction: int, resize: Any, heads: int = 2) -> PositionBias:
    return lively(PositionBias(heads, grid, reduction, resize))


def test_flattened_bias_is_resized_as_one_image() -> None:
    bias = bias_table((8, 6), 2, "flattened")
    expected = F.interpolate(bias.table, size=(7 * 5, 4 * 3), mode="bicubic", align_corners=False)
    assert torch.equal(bias(torch.empty(1, 1, 7, 5)), expected)


def test_bias_sizes_go_by_the_ceiling_from_stage_to_stage() -> None:
    sizes = []
    model = nano()
    for module in model.modules():
        if isinstance(module, PositionBias):
            module.register_forward_hook(lambda *called: sizes.append(tuple(called[-1].shape[2:])))
    with torch.inference_mode():
        model(images(1, 3, 250, 199))
    assert sizes == [(3150, 56), (800, 56), (208, 56), (56, 56)]


@pytest.mark.parametrize("resize", RESIZES)
def test_a_bias_is_itself_at_its_own_size(resize: str) -> None:
    bias = bias_table((8, 6), 4, resize)
    assert torch.equal(bias(torch.empty(1, 1, 8, 6)), bias.table)


def test_a_geometric_bias_tells_maps_of_equal_area_apart() -> None:
    bias = bias_table((4, 4), 2, "geometric")  # 16 queries and 4 keys, as many as in a map of 8 x 2
    resized = bias(torch.empty(1, 1, 8, 2))
    assert resized.shape == bias.table.shape
    assert not torch.allclose(resized, bias.table)


@pytest.mark.parametrize("grid", [(11, 9), (5, 4), (8, 13)])
@pytest.mark.parametrize("axis", range(4), ids=["query row", "query column", "key row", "key column"])
def test_geometric_resizing_keeps_the_axes_apart(axis: int, grid: tuple[int, int]) -> None:
    """A bias that grows along one of the four spatial axes still does, and is constant along the others."""
    bias = PositionBias(1, (8, 6), 2, "geometric")
    axes = (8, 6, 4, 3)
    ramp = torch.linspace(0, 1, axes[axis]).reshape([-1 if i == axis else 1 for i in range(4)])
    bias.table.data = ramp.expand(axes).reshape(1, 1, 48, 12).clone()
    keys = tuple(-(-size // 2) for size in grid)
    resized = bias.resized(grid).detach().reshape(*grid, *keys).movedim(axis, 0).flatten(1)
    torch.testing.assert_close(resized, resized[:, :1].expand_as(resized), rtol=0, atol=1e-5)
    assert (resized[:, 0].diff() > 0).all()


def test_geometric_resizing_treats_heads_alike() -> None:
    both = bias_table((8, 6), 2, "geometric", heads=2)
    for head in range(2):
        one = PositionBias(1, (8, 6), 2, "geometric")
        one.table.data = both.table.data[:, head : head + 1]
        torch.testing.assert_close(one.resized((5, 7)), both.resized((5, 7))[:, head : head + 1])


class Counter:
    """Stands for a function and counts its calls."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.function(*args, **kwargs)


@pytest.fixture
def interpolations(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter(F.interpolate)
    monkeypatch.setattr(F, "interpolate", counter)
    return counter


@pytest.mark.parametrize(("resize", "once_a_stage"), [("flattened", 4), ("geometric", 8)])
def test_biases_are_resized_once_a_stage_and_only_when_needed(
    interpolations: Counter, resize: str, once_a_stage: int
) -> None:
    model = nano(position_bias_resize=resize)
    with torch.inference_mode():
        model(images(1, 3, 75, 90))
        assert interpolations.calls == once_a_stage
        model(images(1, 3, 64, 64))
        assert interpolations.calls == once_a_stage


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [96, (75, 90), 32])
def test_set_input_size_bakes_the_resized_bias(
    interpolations: Counter, resize: str, size: int | tuple[int, int]
) -> None:
    model = nano(position_bias_resize=resize)
    height, width = (size, size) if isinstance(size, int) else size
    with torch.inference_mode():
        before = model(images(2, 3, height, width))
        model.set_input_size(size)
        interpolations.calls = 0
        after = model(images(2, 3, height, width))
    assert torch.equal(before, after)
    assert interpolations.calls == 0
    assert model.config.img_size == (height, width)


@pytest.mark.parametrize("trained", [False, True])
def test_a_baked_bias_is_trained_if_it_was_before(trained: bool) -> None:
    bias = PositionBias(1, (8, 8), 2)
    bias.table.requires_grad_(trained)
    bias.set_grid((6, 6))
    assert isinstance(bias.table, torch.nn.Parameter)
    assert bias.table.requires_grad is trained
    assert bias.table.is_leaf


@pytest.mark.parametrize("resize", RESIZES)
def test_gradients_reach_the_table_through_a_resized_bias(resize: str) -> None:
    bias = bias_table((8, 6), 2, resize)
    (gradient,) = torch.autograd.grad(bias(torch.empty(1, 1, 5, 7)).square().sum(), bias.table)
    assert (gradient != 0).any(dim=-1).all()  # every query position contributes
