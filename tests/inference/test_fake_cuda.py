"""Networks run on a CUDA device as far as shapes, types and devices go: tensors without values, and no GPU.

Values choose the detections and the regions that a detector is trained on, so these are not computed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

import transxnet
from helpers.fake_cuda import NEEDS_FAKES, backward, cuda_autocast, on_cuda
from helpers.networks import first_stages, tensors
from transxnet import kernels
from transxnet.ablation import ROWS
from transxnet.dense.anchors import StrideAnchors
from transxnet.dense.pixel_classes import segmentation_loss
from transxnet.kernels import Policy
from transxnet.research.networks import stage_maps
from transxnet.segmentation.confusion import counted
from transxnet.segmentation.predict import segmented

pytestmark = NEEDS_FAKES

POLICIES: tuple[Policy, ...] = ("auto", "reference")
CHANGED = {row.network("nano"): row for row in ROWS.values() if row.changes}


@pytest.fixture
def fake() -> Iterator[FakeTensorMode]:
    """Tensors without values; one that was made on the CPU by mistake does not go with the others."""
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        yield mode


def classifier(name: str = "transxnet_nano", **settings: Any) -> Any:
    """A network with one block a stage on the device."""
    with unset_fake_temporarily():  # PyTorch's initialisation needs values
        made = transxnet.create_model(name, **{"depths": (1,) * 4, "img_size": 64, "num_classes": 5, **settings})
        made = made.to(memory_format=torch.channels_last)
    return on_cuda(made)


def made_of(kind: str) -> Any:
    if kind == "classifier":
        return transxnet.create_model("transxnet_nano", **first_stages(2))
    if kind == "backbone":
        return transxnet.create_backbone("transxnet_nano", out_indices=(0, 1), **first_stages(2))
    settings: dict[str, Any] = {"depths": (1,) * 4}
    make: Any = transxnet.create_segmenter if kind == "semantic_fpn" else transxnet.create_detector
    return make(kind, backbone="transxnet_nano", num_classes=5, pyramid_channels=16, **settings)


def of_kind(kind: str) -> Any:
    """A network of any kind on the device."""
    with unset_fake_temporarily():
        made = made_of(kind)
    for module in made.modules():
        if isinstance(module, StrideAnchors):  # neither parameters nor buffers
            module.cell_anchors = [torch.empty(anchors.shape) for anchors in module.cell_anchors]
    return on_cuda(made)


def fused_in_bfloat16(kind: str) -> Any:
    """A network of any kind on the device, fused with its values."""
    with unset_fake_temporarily():
        made = transxnet.fuse(made_of(kind), channels_last=True).to(torch.bfloat16)
    return on_cuda(made)


def cuda(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


def are_on_cuda(output: Any) -> bool:
    return all(one.device.type == "cuda" for one in tensors(output))


def has_gradients(network: Any, outputs: list[Tensor]) -> bool:
    """Whether every parameter has a gradient of its shape there."""
    found = backward([one.float().sum() for one in outputs])
    return all(found[id(one)].shape == one.shape and are_on_cuda(found[id(one)]) for one in network.parameters())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("autocast", "shape"),
    [
        pytest.param(None, (2, 3, 64, 64), marks=pytest.mark.slow),
        (torch.bfloat16, (1, 3, 96, 80)),
        pytest.param(torch.float16, (2, 3, 64, 64), marks=pytest.mark.slow),
    ],
)
def test_a_training_step(policy: Policy, autocast: torch.dtype | None, shape: Any, fake: FakeTensorMode) -> None:
    network = classifier(**first_stages(2, drop_path_rate=0.1)).train()
    with kernels.use(policy):
        with cuda_autocast(autocast):
            scores = network(cuda(*shape))
        assert scores.dtype == (autocast or torch.float32)
        assert has_gradients(network, [F.cross_entropy(scores.float(), cuda(len(scores), dtype=torch.long))])


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGED)
def test_a_training_step_of_each_row_of_the_ablations(name: str, fake: FakeTensorMode) -> None:
    network = classifier(name).train()
    with cuda_autocast(torch.bfloat16):
        scores = network(cuda(2, 3, 64, 64))
    assert has_gradients(network, [scores])


@pytest.mark.slow
@pytest.mark.parametrize("name", transxnet.VARIANTS)
def test_the_widths_of_each_variant(name: str, fake: FakeTensorMode) -> None:
    network = classifier(name).train()
    with cuda_autocast(torch.bfloat16):
        assert has_gradients(network, [network(cuda(2, 3, 64, 64))])
    network.set_input_size((96, 96))
    with torch.inference_mode():
        assert are_on_cuda(network.eval()(cuda(1, 3, 96, 96)))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["classifier", "backbone", "retinanet", "mask_rcnn", "semantic_fpn"])
def test_fused_in_bfloat16(kind: str, policy: Policy, fake: FakeTensorMode) -> None:
    network = fused_in_bfloat16(kind)
    body = network.backbone if kind not in ("classifier", "backbone") else network
    with kernels.use(policy), torch.inference_mode():
        for height, width in ((64, 64), (800, 1280)):
            images = cuda(1, 3, height, width, dtype=torch.bfloat16 if body is network else torch.float32)
            assert {(one.device.type, one.dtype) for one in tensors(body(images))} == {("cuda", torch.bfloat16)}


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
def test_semantic_fpn(autocast: torch.dtype | None, fake: FakeTensorMode) -> None:
    network = of_kind("semantic_fpn")
    with cuda_autocast(autocast):
        scores = network.train()(cuda(2, 3, 64, 96)).float()
    assert has_gradients(network, [segmentation_loss(scores, cuda(2, 64, 96, dtype=torch.long))])
    with torch.inference_mode():
        classes = segmented(network.eval(), cuda(1, 3, 64, 96), (50, 70))
        assert are_on_cuda(counted(classes, cuda(1, 50, 70, dtype=torch.long), 5))


def detector_inputs(network: Any) -> tuple[ImageList, list[dict[str, Tensor]]]:
    """A batch of images of two sizes, and their targets, as the network's transform makes them."""
    images = [cuda(3, height, width, dtype=torch.uint8) for height, width in ((60, 90), (50, 40))]
    targets = [
        {
            "boxes": cuda(count, 4),
            "labels": cuda(count, dtype=torch.long),
            "masks": cuda(count, *image.shape[1:], dtype=torch.uint8),
        }
        for count, image in zip((3, 0), images, strict=True)
    ]
    batch, resized = network.transform(images, targets)
    return batch, resized


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
def test_retinanet_up_to_the_choice_of_anchors(autocast: torch.dtype | None, fake: FakeTensorMode) -> None:
    network = of_kind("retinanet").train()
    batch, targets = detector_inputs(network)
    with cuda_autocast(autocast):
        maps = list(network.backbone(batch.tensors).values())
        outputs = network.head(maps)
        anchors = network.anchor_generator(batch, maps)
    for index, target in enumerate(targets):
        assert are_on_cuda(network._matched(target["boxes"], anchors[index], network._inside[index]))
    assert has_gradients(network, tensors(outputs))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
def test_mask_rcnn_up_to_the_choice_of_regions(autocast: torch.dtype | None, fake: FakeTensorMode) -> None:
    network = of_kind("mask_rcnn").train()
    batch, targets = detector_inputs(network)
    rpn, heads = network.rpn, network.roi_heads
    with cuda_autocast(autocast):
        features = network.backbone(batch.tensors)
        maps = list(features.values())
        scores, codes = rpn.head(maps)
        anchors = rpn.anchor_generator(batch, maps)
        rpn._inside = [rpn.anchor_generator.inside(size, maps) for size in batch.image_sizes]
        labels, boxes = rpn.assign_targets_to_anchors(anchors, targets)
        assert are_on_cuda([*labels, *rpn.box_coder.encode(boxes, anchors)])
        matched, classes = heads.assign_targets_to_proposals(
            [cuda(7, 4), cuda(5, 4)], [one["boxes"] for one in targets], [one["labels"] for one in targets]
        )
        pooled = cuda(7, 16, 7, 7), cuda(7, 16, 14, 14)
        outputs = [*heads.box_predictor(heads.box_head(pooled[0])), heads.mask_predictor(heads.mask_head(pooled[1]))]
    assert are_on_cuda([*matched, *classes])
    assert has_gradients(network, [*scores, *codes, *outputs])


def test_the_gradients_of_maps_to_the_image(fake: FakeTensorMode) -> None:
    network = classifier(**first_stages(2)).eval().requires_grad_(False)
    network.set_input_size((64, 96))
    images = cuda(1, 3, 64, 64).requires_grad_()
    maps = stage_maps(network, images, [1, 2])
    assert backward([one.sum() for one in maps])[id(images)].shape == images.shape
