"""The released recipes of detection and segmentation: what decays, and the rate at every step."""

from __future__ import annotations

import pytest
import torch

import transxnet
from helpers.networks import released_shapes
from transxnet.checkpoints.released import rename
from transxnet.cli.train import parse_recipe
from transxnet.data.loader import BadImages
from transxnet.dense.create import create_dense
from transxnet.dense.head_description import HeadDescription
from transxnet.detection.recipe import DetectionRecipe
from transxnet.errors import ConfigError
from transxnet.segmentation.recipe import SegmentationRecipe
from transxnet.training.dense import DenseRecipe
from transxnet.training.dense_task import DenseTask, is_exempt


def recipe(name: str) -> DenseRecipe:
    parsed = parse_recipe(["--recipe", name])
    assert isinstance(parsed, DenseRecipe)
    return parsed


def test_the_decay_falls_where_it_falls_in_the_released_recipes() -> None:
    backbone = {name: shape for name, shape in released_shapes("tiny", "backbone").items()
                if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))}  # fmt: skip
    tensor = torch.nn.Parameter(torch.empty(2, 2))
    for name in backbone:
        ours = f"backbone.body.{rename(name)}"
        assert is_exempt(ours, tensor, "no_norms") == ("norm" in name), name
        assert not is_exempt(ours, tensor, "all")
    assert recipe("coco/mask_rcnn_tiny").decay == "no_norms"
    assert recipe("coco/retinanet_tiny").decay == recipe("ade20k/semantic_fpn_tiny").decay == "all"
    with torch.device("meta"):
        model = create_dense(HeadDescription("mask_rcnn", 80), "transxnet_tiny")
    others = [name for name, parameter in model.named_parameters()
              if not name.startswith("backbone.body.") and is_exempt(name, parameter, "no_norms")]  # fmt: skip
    assert others == []  # the released pyramid and heads have no normalisation


def test_every_parameter_is_in_one_group() -> None:
    model = transxnet.create_segmenter(backbone="transxnet_nano", num_classes=3)
    settings = SegmentationRecipe(backbone="transxnet_nano", decay="no_vectors", weight_decay=0.1, lr=0.5)
    decayed, exempt = DenseTask(model, settings, BadImages(1, 0)).configure_optimizers().param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"], exempt["lr"]) == (0.1, 0.0, 0.5)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert len(decayed["params"]) + len(exempt["params"]) == len(list(model.parameters()))


def test_the_rate_of_the_1x_schedule() -> None:
    made = recipe("coco/retinanet_tiny")
    per_epoch = 7330
    factors = {step: made.rate_factor(step // per_epoch, step, 12 * per_epoch)
               for step in (0, 250, 500, 8 * per_epoch - 1, 8 * per_epoch, 11 * per_epoch)}  # fmt: skip
    assert list(factors.values()) == [pytest.approx(value) for value in (0.001, 0.5005, 1.0, 1.0, 0.1, 0.01)]
    assert (made.lr, made.batch_size, made.epochs) == (1e-4, 2, 12)


def test_the_rate_of_the_80_000_steps() -> None:
    made = recipe("ade20k/semantic_fpn_tiny")
    steps = made.epochs * made.epoch_steps
    assert steps == 80_000
    factors = [made.rate_factor(0, step, steps) for step in (0, 500, 1000, 40_000, 80_000)]
    cosine = (1 + torch.cos(torch.tensor([500.0, 1000.0]) * torch.pi / 80_000)) / 2
    expected = [0.1, 0.55 * float(cosine[0]), float(cosine[1]), 0.5, 1e-8]
    assert factors == [pytest.approx(value, rel=1e-5) for value in expected]


@pytest.mark.parametrize(
    ("name", "rates"), [("coco/retinanet", (0.1, 0.2, 0.3)), ("ade20k/semantic_fpn", (0.1, 0.2, 0.3))]
)
def test_drop_path_grows_with_the_network(name: str, rates: tuple[float, ...]) -> None:
    assert tuple(recipe(f"{name}_{variant}").drop_path for variant in ("tiny", "small", "base")) == rates


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "transxnet_tine"}, "did you mean transxnet_tiny"),
        ({"long": 600}, "long must be at least short"),
        ({"backbone_settings": {"depths": 3.5}}, "backbone_settings: depths must be whole numbers"),
        ({"epoch_steps": 900_000, "batch_size": 60_000}, "epoch_steps make an epoch of 54,000,000,000 images"),
        ({"image_size": (16, 64)}, "image_size must be 2 whole numbers from 32 to 16,384, or null, not 16"),
        ({"warmup_factor": 2.0}, "warmup_factor must be a number from 0 to 1, not 2.0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectionRecipe(**settings)  # type: ignore[arg-type]
