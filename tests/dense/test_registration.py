"""Detectors and segmenters from outside the package: registered by name, then used as any other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import transxnet
from helpers.networks import first_stages, lively
from transxnet.dense import registry
from transxnet.dense.create import create_dense
from transxnet.dense.pyramid import PyramidBackbone
from transxnet.dense.retinanet import RetinaNet
from transxnet.detection.recipe import DetectionRecipe
from transxnet.errors import CheckpointError, ConfigError
from transxnet.inference.adapters import ExportedNetwork
from transxnet.segmentation.recipe import SegmentationRecipe


class Finest(transxnet.Segmenter):
    """Scores of the classes from the finest level alone."""

    class_weight = "scores.weight"
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(self, backbone: PyramidBackbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        self.scores = nn.Conv2d(backbone.out_channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(self.scores(next(iter(self.backbone(images).values()))), size=images.shape[2:])


class OtherRetinaNet(RetinaNet):
    """A network whose weights have the names of another's."""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two networks, for the time of a test."""
    monkeypatch.setattr(registry, "_NETWORKS", dict(registry._NETWORKS))
    transxnet.register_dense_network("finest")(Finest)
    transxnet.register_dense_network("other_retinanet")(OtherRetinaNet)


def segmenter(classes: int = 3) -> transxnet.Segmenter:
    """A segmenter on the nano network's first stage, which is exported in seconds."""
    model = transxnet.create_segmenter("finest", backbone="transxnet_nano", num_classes=classes, pyramid_channels=8)
    return lively(model).eval()


def test_weights_are_loaded_by_the_name_in_the_file(tmp_path: Path) -> None:
    model = segmenter()
    again = transxnet.load_segmenter(transxnet.save_model(model, tmp_path / "segmenter.safetensors"))
    assert isinstance(again, Finest) and again.head_description == model.head_description
    assert (again.head_description.short, again.head_description.long) == Finest.sides
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert isinstance(transxnet.load_segmenter(model.state_dict()), Finest)  # by its weights alone


def test_the_name_in_the_file_decides_between_networks_with_the_same_weights(tmp_path: Path) -> None:
    for kind, network in (("retinanet", RetinaNet), ("other_retinanet", OtherRetinaNet)):
        model = transxnet.create_detector(kind, backbone="transxnet_nano", num_classes=2, pyramid_channels=8)
        file = transxnet.save_model(model, tmp_path / f"{kind}.safetensors")
        assert type(transxnet.load_detector(file)) is network


def test_layers_that_depend_on_the_classes_start_anew_for_others() -> None:
    model = segmenter()
    head = dataclasses.replace(model.head_description, num_classes=5)
    with pytest.raises(CheckpointError, match="give the number of classes"):
        create_dense(head, "transxnet_nano", model.state_dict())
    tuned = create_dense(head, "transxnet_nano", model.state_dict(), new_classes=True).state_dict()
    assert tuned.pop("scores.weight").shape[0] == tuned.pop("scores.bias").shape[0] == 5
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in tuned.items())


@pytest.mark.slow
def test_a_segmenter_is_exported_without_further_code(tmp_path: Path) -> None:
    body = transxnet.create_backbone("transxnet_nano", out_indices=(0,), **first_stages(1, img_size=64))
    head = Finest.default_head(3, pyramid_channels=8)
    model = lively(Finest.build(body, head)).eval()
    model.head_description, model.architecture = head, "transxnet_nano"
    exported = transxnet.export(model, tmp_path / "finest.pt2")
    file = ExportedNetwork(transxnet.load_exported(exported.path, "torch"))
    assert file.head_description == head and file.head_description.task == "segmentation"
    assert exported.description.preprocessing == {"mean": [0.5] * 3, "std": [0.25] * 3}
    ready = model.prepared(torch.full((3, 40, 50), 255, dtype=torch.uint8))
    assert torch.equal(ready, torch.full((1, 3, 512, 640), 2.0))
    ready = ready[:, :, :64, :96]
    with torch.inference_mode():
        torch.testing.assert_close(file(ready), model(ready), atol=1e-4, rtol=1e-4)


def test_a_file_of_a_network_that_is_not_registered_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = transxnet.save_model(segmenter(), tmp_path / "segmenter.safetensors")
    monkeypatch.delitem(registry._NETWORKS, "finest")
    with pytest.raises(CheckpointError, match="holds a 'finest'; known are retinanet, .* registers them is imported"):
        transxnet.load_segmenter(file)


def test_recipes_name_registered_networks_of_their_task() -> None:
    assert SegmentationRecipe(segmenter="finest").subject == "finest with transxnet_tiny"
    with pytest.raises(ConfigError, match="there is no segmenter 'deeplab'; there are semantic_fpn and finest"):
        SegmentationRecipe(segmenter="deeplab")
    with pytest.raises(ConfigError, match="there is no detector 'finest'; there are retinanet, mask_rcnn"):
        DetectionRecipe(detector="finest")


def test_mistakes_of_registration() -> None:
    class Nothing(transxnet.Detector):
        pass

    for name, network, message in (
        ("mask_rcnn", Finest, "mask_rcnn is registered already, for transxnet.dense.mask_rcnn.detector.MaskRCNN"),
        ("my head", Finest, "letters, digits and underscores, not 'my head'"),
        ("nothing", Nothing, "Nothing lacks class_weight, export_form, build"),
    ):
        with pytest.raises(ConfigError, match=message):
            transxnet.register_dense_network(name)(network)
