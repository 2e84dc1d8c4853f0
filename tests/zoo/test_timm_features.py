"""The stages' maps by each of timm's ways to extract features."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import transxnet
from helpers.networks import empty, images, nano, nano_features, untrained


@pytest.mark.parametrize("name", transxnet.VARIANTS)
def test_features_only(name: str) -> None:
    model = untrained(name, features_only=True)
    info = model.feature_info
    expected = [
        (2, channels, math.ceil(33 / stride), math.ceil(47 / stride))
        for channels, stride in zip(info.channels(), info.reduction(), strict=True)
    ]
    assert info.reduction() == [4, 8, 16, 32]
    assert [tuple(features.shape) for features in model(empty(2, 3, 33, 47))] == expected


def stage_maps(model: transxnet.TransXNet, batch: Tensor, **arguments: Any) -> list[Tensor]:
    maps = model.forward_intermediates(batch, intermediates_only=True, **arguments)
    assert isinstance(maps, list)
    return maps


@pytest.mark.parametrize("feature_cls", [None, "getter"])
@pytest.mark.parametrize(
    ("out_indices", "stages"),
    [((0, 1, 2, 3), [0, 1, 2, 3]), ((1, 3), [1, 3]), ((-1,), [3]), ((0, -3), [0, 1]), (2, [2, 3])],
)
def test_features_of_some_stages(out_indices: Any, stages: list[int], feature_cls: str | None) -> None:
    model, batch = nano(), images(2, 3, 75, 90)
    features = nano_features(model, out_indices=out_indices, feature_cls=feature_cls)
    with torch.inference_mode():
        maps = features(batch)
        expected = stage_maps(model, batch)
    assert features.feature_info.channels() == [transxnet.VARIANTS["transxnet_nano"].channels[s] for s in stages]
    assert len(maps) == len(stages)
    assert all(torch.equal(found, expected[stage]) for found, stage in zip(maps, stages, strict=True))


@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook", "fx"])
def test_timms_other_extractors(feature_cls: str) -> None:
    model, batch = nano(), images(1, 3, 64, 64)
    with torch.inference_mode():
        maps = nano_features(model, feature_cls=feature_cls)(batch)
        expected = stage_maps(model, batch)
    found = maps.values() if isinstance(maps, dict) else maps
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_forward_intermediates() -> None:
    model, batch = nano(), images(2, 3, 64, 64)
    with torch.inference_mode():
        final, maps = model.forward_intermediates(batch)
        assert torch.equal(final, model.forward_features(batch))
        assert [features.shape[1] for features in maps] == [24, 48, 96, 160]
        assert torch.equal(model.norm(maps[-1]), final)

        _, last_two = model.forward_intermediates(batch, indices=2)
        _, first_and_last = model.forward_intermediates(batch, indices=[0, -1], norm=True)
        alone = stage_maps(model, batch, indices=[1])
    assert all(torch.equal(a, b) for a, b in zip(last_two, maps[2:], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first_and_last, (maps[0], final), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(alone, maps[1:2], strict=True))


def test_forward_intermediates_can_stop_early() -> None:
    model = nano()
    visited: list[nn.Module] = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, *_: visited.append(module))
    with torch.inference_mode():
        final, maps = model.forward_intermediates(images(1, 3, 64, 64), indices=[0, 1], stop_early=True)
    assert visited == list(model.stages)[:2]
    assert torch.equal(final, maps[1])


@pytest.mark.parametrize("arguments", [{"indices": [4]}, {"indices": 5}, {"output_fmt": "NLC"}])
def test_forward_intermediates_refuses_what_is_not_there(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, AssertionError), match=r"out of range|NCHW"):
        nano().forward_intermediates(images(1, 3, 64, 64), **arguments)


def test_pruned_networks_end_where_they_were_cut() -> None:
    model, batch = nano(), images(1, 3, 64, 64)
    with torch.inference_mode():
        expected = stage_maps(model, batch)[1]
        assert model.prune_intermediate_layers([0, -3]) == [0, 1]
        assert torch.equal(model(batch), expected)
    assert model.num_features == 48
    assert not any(name.startswith(("stages.2", "stages.3", "norm", "head")) for name in model.state_dict())
