"""A fused network is the same function, whatever the weights, and leaves the given network alone."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.modules.batchnorm import _BatchNorm

import transxnet
from helpers.networks import ONCE, ablation_rows, assert_same, dense, first_stages, hostile, images, lively, nano
from transxnet import ConfigError
from transxnet.ablation.rows import Row
from transxnet.layers import OSRA, Block, IDConv, LayerScale
from transxnet.layers.folding import Folding

FORMS: list[dict[str, Any]] = [
    {},  # linear, single and channels last
    {"depthwise": "split", "pointwise": "conv", "channels_last": False},
    {"depthwise": "single"},
    {"idconv": "shifted", "dynamic_size": True},
    {"idconv": "products", "dynamic_size": True},
    {"depthwise": "single", "dynamic_size": True, "channels_last": True},
    {"channels_last": True},
    {"depthwise": ["split", "single", "single", "split"], "pointwise": "linear", "channels_last": True},
    {"depthwise": "split", "channels_last": False},
]


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**32), batch=st.sampled_from([1, 2, 7]), height=st.integers(32, 100),
    width=st.integers(32, 100), form=st.sampled_from(FORMS), groups=st.integers(1, 4),
    kernel_size=st.sampled_from([3, 7]), resize=st.sampled_from(["flattened", "geometric"]), double=st.booleans(),
)  # fmt: skip
def test_any_network_is_the_same_fused(
    seed: int, batch: int, height: int, width: int, form: dict[str, Any], groups: int, kernel_size: int, resize: Any,
    double: bool,
) -> None:  # fmt: skip
    """In float64 whatever the weights are; in float32 where the network itself does not magnify rounding."""
    network = nano(attention_groups=groups, kernel_sizes=kernel_size, position_bias_resize=resize)
    model = hostile(network, seed, 2.0).double() if double else hostile(network, seed, 0.3)
    x = images(batch, 3, height, width).to(torch.float64 if double else torch.float32)
    fused = transxnet.fuse(model, **form)
    tolerance = 1e-10 if double else 2e-5
    with torch.inference_mode():
        assert_same(fused.forward_features(x), model.forward_features(x), tolerance)
        assert_same(fused(x), model(x), tolerance)
    assert fused.left == []
    assert not any(isinstance(module, _BatchNorm | LayerScale | Block) for module in fused.modules())


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 3, 37, 90), (2, 3, 32, 32)])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_is_the_same(form: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Also on maps with fewer positions than a kernel has."""
    model = nano()
    with torch.inference_mode():
        assert_same(transxnet.fuse(model, **form)(images(*shape)), model(images(*shape)))


@pytest.mark.parametrize("row", ablation_rows())
def test_the_ablations_networks_are_the_same_fused(row: Row) -> None:
    """Unknown parts stay as they are and are named; the rest is folded."""
    network = transxnet.create_model(row.network("nano"), num_classes=5, img_size=64, depths=ONCE)
    model = hostile(lively(network), 3).double().eval()
    fused = transxnet.fuse(model)
    x = images(2, 3, 70, 96).double()
    with torch.inference_mode():
        assert_same(fused(x), model(x), 1e-10)
    known = row.table == 8 or row.changes == {}
    assert not (known and fused.left)


@pytest.mark.parametrize("kind", ["backbone", "semantic_fpn", "retinanet", "mask_rcnn"])
def test_dense_networks_are_the_same_fused(kind: str) -> None:
    model = lively(dense(kind)).train()
    fused = transxnet.fuse(model)
    assert type(fused) is type(model) and not fused.training
    assert fused.left == [] and not any(isinstance(module, _BatchNorm) for module in fused.modules())
    assert fused.config == model.config
    model.eval()
    photographs = images(2, 3, 64, 80).abs() / 2
    with torch.inference_mode():
        if kind in ("retinanet", "mask_rcnn"):  # what follows the heads sorts and cuts
            assert fused.describe() == model.describe()
            assert_same(fused.backbone(photographs), model.backbone(photographs))
            found, expected = fused(list(photographs)), model(list(photographs))
            assert [one.keys() for one in found] == [one.keys() for one in expected]
            for one, other in zip(found, expected, strict=True):
                assert_same({"boxes": one["boxes"], "scores": one["scores"]},
                            {"boxes": other["boxes"], "scores": other["scores"]}, 1e-3)  # fmt: skip
        else:
            assert_same(fused(photographs), model(photographs))
    if kind == "backbone":
        assert (fused.channels, fused.strides) == (model.channels, model.strides)


def test_the_given_network_stays_as_it_was() -> None:
    model = nano().train()
    kept = copy.deepcopy(model)
    fused = transxnet.fuse(model, channels_last=True)
    for parameter in fused.parameters():
        parameter.zero_()
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert [type(module) for module in model.modules()] == [type(module) for module in kept.modules()]
    for (name, tensor), other in zip(model.state_dict().items(), kept.state_dict().values(), strict=True):
        assert torch.equal(tensor, other) and tensor.stride() == other.stride(), name


def test_a_fused_classifier_has_the_interface_of_one() -> None:
    model = nano()
    fused = transxnet.fuse(model)
    assert vars(fused)["pretrained_cfg"] == vars(model)["pretrained_cfg"]
    x = images(1, 3, 64, 64)
    with torch.inference_mode():
        features = fused.forward_features(x)
        assert torch.equal(fused.forward_head(features), fused(x))
        assert fused.forward_head(features, pre_logits=True).shape == (1, fused.num_features)
        assert len(fused.forward_intermediates(x, intermediates_only=True)) == 4
        assert_same(transxnet.fuse(model.double()).float()(x), fused(x))
        fused.set_input_size(96)
        assert_same(fused(images(1, 3, 96, 96)), model.float()(images(1, 3, 96, 96)))
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_a_gradient_with_respect_to_the_image_is_the_same() -> None:
    model = nano()
    x = images(2, 3, 64, 64).requires_grad_()
    expected, found = (torch.autograd.grad(m(x)[:, 3].sum(), x)[0] for m in (model, transxnet.fuse(model)))
    assert_same(found, expected, 1e-4)


class OtherLocal(nn.Module):
    """A local operator that is not known."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))  # type: ignore[no-any-return]


class OtherIDConv(IDConv):
    """Its type says that it is not IDConv; batch normalisations right after convolutions are folded all the same."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_unknown_parts_stay_and_are_named() -> None:
    model: Any = nano()
    blocks: list[Any] = [*model.stages[2].blocks, *model.stages[3].blocks]
    first, second, third, fourth = blocks
    first.token_mixer.local_operator = OtherLocal(48)
    second.token_mixer.local_operator = OtherIDConv(48)
    second.token_mixer.enhancer = nn.Conv2d(96, 96, 1)
    third.ffn.act = nn.SiLU()
    third.token_mixer = OtherMixer(96)
    fourth.scale1 = nn.Conv2d(160, 160, 1)
    fourth.dpe = nn.Conv2d(160, 160, 1)
    fused = transxnet.fuse(hostile(lively(model), 3, 0.3).eval())
    with torch.inference_mode():
        assert_same(fused(images(2, 3, 64, 75)), model(images(2, 3, 64, 75)))
    assert fused.left == [
        "stages.2.blocks.0.token_mixer.local_operator",
        "stages.2.blocks.0.token_mixer.local_operator.norm",
        "stages.2.blocks.1.token_mixer.local_operator",
        "stages.2.blocks.1.token_mixer.enhancer",
        "stages.2.blocks.2.token_mixer",
        "stages.2.blocks.2.ffn",
        "stages.2.blocks.2.ffn.expand.2",
        "stages.2.blocks.2.ffn.norm",
        "stages.3.blocks.0.dpe",
        "stages.3.blocks.0.token_mixer's scale",
    ]


class OtherMixer(nn.Module):
    """A token mixer that is not known."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, position_bias: Tensor) -> Tensor:
        return self.conv(x) + position_bias.mean()  # type: ignore[no-any-return]


class OwnMixer(nn.Module):
    """A reader's token mixer that folds, and leaves its branch's scale to the fold."""

    def __init__(self, channels: int, factor: float = 1.0) -> None:
        super().__init__()
        self.attention = OSRA(channels, 4, 2)
        self.factor = factor

    def forward(self, x: Tensor, position_bias: Tensor) -> Tensor:
        return self.factor * self.attention(x, position_bias)  # type: ignore[no-any-return]

    def folded(self, folding: Folding) -> OwnMixer:
        self.attention = cast(Any, folding.part(self.attention, "attention"))
        return self


class OwnMixerTwice(OwnMixer):
    """Does not inherit how its parent folds: its own arithmetic differs."""

    def forward(self, x: Tensor, position_bias: Tensor) -> Tensor:
        return 2 * super().forward(x, position_bias)


def test_a_layer_from_outside_says_how_it_folds() -> None:
    model: Any = nano()
    blocks = model.stages[2].blocks
    blocks[0].token_mixer = OwnMixer(96, 0.3)
    blocks[1].token_mixer = OwnMixerTwice(96, 0.7)
    fused: Any = transxnet.fuse(hostile(lively(model), 3, 0.3).eval())
    assert fused.left == ["stages.2.blocks.1.token_mixer"]
    assert not any(isinstance(module, _BatchNorm | OSRA) for module in fused.modules())
    with torch.inference_mode():
        assert_same(fused(images(2, 3, 64, 75)), model(images(2, 3, 64, 75)))


@pytest.mark.slow
def test_an_export_computes_at_sizes_it_has_not_seen() -> None:
    model = nano(**first_stages(1))
    fused = transxnet.fuse(model, idconv="shifted", dynamic_size=True)
    sizes = {0: Dim("batch", min=1, max=64), 2: Dim("height", min=33, max=2048), 3: Dim("width", min=33, max=2048)}
    program = torch.export.export(fused, (images(2, 3, 75, 90),), dynamic_shapes={"x": sizes}).module()
    for shape in ((1, 3, 64, 64), (3, 3, 33, 47), (1, 3, 250, 199)):
        with torch.inference_mode():
            assert_same(program(images(*shape)), model(images(*shape)))


def test_mistakes_are_reported_in_a_line() -> None:
    with pytest.raises(ConfigError, match="fuse takes a network of this package; Linear has no block of one in it"):
        transxnet.fuse(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="fuse takes a network, not str"):
        transxnet.fuse("transxnet_tiny")  # type: ignore[type-var]
    model = nano()
    with pytest.raises(ConfigError, match="depthwise is one of split, single, not 'both'"):
        transxnet.fuse(model, depthwise="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="depthwise has 2 values for 4 stages"):
        transxnet.fuse(model, depthwise=["split", "single"])
    fused = transxnet.fuse(model)
    with pytest.raises(ConfigError, match="fused already"):
        transxnet.fuse(fused)


def test_a_fused_network_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fused network cannot be saved"):
        transxnet.save_model(transxnet.fuse(nano()), tmp_path / "fused.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(64, 64), (75, 90)])
def test_the_literal_form_is_the_same(size: tuple[int, int]) -> None:
    """Speed is measured against it."""
    literal = benchmark("literal").Literal
    x = images(2, 3, *size)
    for model in (nano(), lively(transxnet.create_backbone("transxnet_nano")).eval()):
        with torch.inference_mode():
            assert_same(literal(model)(x), model(x))


def benchmark(name: str) -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
