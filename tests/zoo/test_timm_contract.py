"""The interface that timm and its users expect of a registered network."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

import transxnet
from helpers.networks import (
    NAMES,
    ONCE,
    create,
    described_size,
    empty,
    images,
    nano,
    released_shapes,
    silent_parameters,
    untrained,
)
from transxnet.checkpoints.released import rename

TAGGED = timm.list_models("transxnet*", exclude_filters=["*_table*"], include_tags=True)
SIZES = [(32, 32), (33, 47), (250, 199)]


# Names, outputs, sizes


def test_all_networks_are_registered_under_both_names() -> None:
    short = {"transxnet_t", "transxnet_s", "transxnet_b"}
    assert set(NAMES) == {"transxnet_nano", "transxnet_tiny", "transxnet_small", "transxnet_base"} | short
    assert {"transxnet_base.in1k", "transxnet_base.in1k_384", "transxnet_nano.untrained"} <= set(TAGGED)


@pytest.mark.parametrize("full", ["transxnet_tiny", "transxnet_small", "transxnet_base"])
def test_a_short_name_is_the_same_network(full: str) -> None:
    assert untrained(full[: len("transxnet_t")]).config == untrained(full).config == transxnet.VARIANTS[full]


@pytest.mark.parametrize("name", transxnet.VARIANTS)  # short names are the same networks
def test_forward(name: str) -> None:
    model = create(name, depths=ONCE).eval()
    batch = images(1, *model.default_cfg["min_input_size"])
    logits = model(batch)
    assert logits.shape == (1, 1000)
    assert logits.isfinite().all()
    model.set_grad_checkpointing()
    assert torch.equal(model(batch), logits)


@pytest.mark.parametrize("name", transxnet.VARIANTS)  # short names are the same networks
def test_backward(name: str) -> None:
    model = create(name, depths=ONCE, num_classes=42).train()
    logits = model(images(2, 3, 32, 32))
    logits.mean().backward()
    assert logits.shape == (2, 42)
    assert logits.isfinite().all()
    assert silent_parameters(model) == []


@pytest.mark.parametrize("name", [name for name in TAGGED if name.partition(".")[0] in transxnet.VARIANTS])
def test_default_cfg(name: str) -> None:
    model = untrained(name, depths=ONCE)
    cfg, names = model.default_cfg, set(model.state_dict())
    assert {f"{cfg['classifier']}.weight", f"{cfg['first_conv']}.weight"} <= names
    features = model.forward_features(empty(1, *cfg["input_size"]))
    assert features.shape == (1, model.num_features, *cfg["pool_size"])
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert model.forward_head(features).shape == pooled.shape
    model.reset_classifier(0, "")
    assert model.forward_head(features).shape == features.shape


def test_networks_can_be_created_without_head() -> None:
    features = create("transxnet_nano", num_classes=0, global_pool="").eval()
    assert features(images(1, 3, 64, 64)).shape == (1, features.num_features, 2, 2)


@pytest.mark.parametrize("size", SIZES)
def test_an_image_is_classified_alike_in_any_batch(size: tuple[int, int]) -> None:
    model, batch = nano(), images(3, 3, *size)
    with torch.inference_mode():
        together = model(batch)
        apart = torch.cat([model(image) for image in torch.split(batch, 1)])
    assert together.isfinite().all()
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", transxnet.VARIANTS)  # short names are the same networks
def test_other_input_channels(name: str) -> None:
    in_chans = 5
    model = untrained(name, depths=ONCE, in_chans=in_chans)
    assert model(empty(1, in_chans, 32, 32)).shape == (1, 1000)
    assert described_size(model)[0] == in_chans


# Optimizer groups


@pytest.mark.parametrize(("coarse", "groups"), [(False, 8), (True, 6)])
def test_layer_groups_follow_the_network(coarse: bool, groups: int) -> None:
    """Fine: stem, six blocks, head. Coarse: stem, four stages, head."""
    model = untrained("transxnet_nano")
    layers = group_parameters(model, model.group_matcher(coarse), reverse=True)
    depths = [layers[name] for name, _ in model.named_parameters()]
    assert len(layers) == len(depths)
    assert depths == sorted(depths)
    assert sorted(set(depths)) == list(range(groups))
    assert {name for name in layers if name.startswith("stem.")} == {n for n, depth in layers.items() if depth == 0}
    assert {"head.fc.weight", "head.fc.bias"} <= {name for name, depth in layers.items() if depth == groups - 1}


def decayed(model: nn.Module, groups: list[dict[str, Any]]) -> set[str]:
    ids = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in ids}


def released_decay() -> set[str]:
    """Our names of what the released recipe decays: more than one dimension, and a name that is no bias."""
    trained = {name: shape for name, shape in released_shapes("tiny", "classifier").items() if "running" not in name}
    return {rename(name) for name, shape in trained.items() if len(shape) > 1 and not name.endswith(".bias")}


def test_weight_decay_is_the_released_recipes() -> None:
    model = untrained("transxnet_tiny")
    exempt = model.no_weight_decay()
    names = decayed(model, param_groups_weight_decay(model, 0.05, no_weight_decay_list=exempt))
    assert names == released_decay()
    assert (len(names), len(list(model.parameters())) - len(names)) == (363, 665)


def test_layer_decay_keeps_the_weight_decay() -> None:
    model = untrained("transxnet_tiny")
    groups = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.8)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    by_depth = [scales[id(parameter)] for parameter in model.parameters()]
    assert by_depth == sorted(by_depth)
    assert (by_depth[0], by_depth[-1]) == (pytest.approx(0.8**19), 1)
    assert decayed(model, groups) == released_decay()


# Changing a network


def test_reset_classifier() -> None:
    model, batch = nano(), images(2, 3, 64, 64)
    model.reset_classifier(7)
    head = model.get_classifier()
    assert isinstance(head, nn.Linear)
    assert (head.out_features, model.num_classes, model.config.num_classes) == (7, 7, 7)
    assert not head.bias.any()
    with torch.inference_mode():
        features = model.forward_features(batch)
        torch.testing.assert_close(model(batch), head(features.mean((2, 3))))
        model.reset_classifier(3, "max")
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.amax((2, 3)))
    assert (model.config.num_classes, model.config.global_pool) == (3, "max")
    assert not model.head.training


@pytest.mark.parametrize(
    ("arguments", "message"), [((-1,), "num_classes"), ((7, "bogus"), "global_pool"), ((7, ""), "needs a global_pool")]
)
def test_a_classifier_that_cannot_be_leaves_the_old_one(arguments: tuple[Any, ...], message: str) -> None:
    model = nano(num_classes=5)
    before = model(images(2, 3, 64, 64))
    with pytest.raises(transxnet.ConfigError, match=message):
        model.reset_classifier(*arguments)
    assert (model.num_classes, model.config.num_classes) == (5, 5)
    assert torch.equal(model(images(2, 3, 64, 64)), before)


@pytest.mark.parametrize("features_only", [False, True])
def test_device_and_type_are_chosen_at_creation(features_only: bool) -> None:
    settings: dict[str, Any] = {"device": "meta", "dtype": torch.bfloat16, "features_only": features_only}
    model = timm.create_model("transxnet_nano", **settings)
    assert {(parameter.device.type, parameter.dtype) for parameter in model.parameters()} == {("meta", torch.bfloat16)}


def test_timms_description_follows_a_new_input_size() -> None:
    model = nano()
    model.set_input_size((96, 64))
    assert described_size(model) == (3, 96, 64)


def test_copies_are_equal_and_independent() -> None:
    model, batch = nano(), images(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(batch)
        for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(duplicate(batch), expected)
            duplicate.reset_classifier(2)
            duplicate.stem.conv.weight.zero_()
        assert torch.equal(model(batch), expected)
