"""Detectors and segmenters as a user calls them, and in others' code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import segmentation_models_pytorch
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

import transxnet
from helpers.networks import nano, released_shapes, released_tensor
from transxnet import CheckpointError, ConfigError
from transxnet.dense.anchors import BestMatcher, ClampedBoxCoder, StrideAnchors
from transxnet.dense.create import create_detector, create_segmenter
from transxnet.dense.detection_transform import DetectionTransform, pasted
from transxnet.dense.head_description import HeadDescription
from transxnet.dense.mask_rcnn.regions import mask_targets
from transxnet.dense.pixel_classes import segmentation_loss
from transxnet.dense.pyramid import PyramidBackbone


def pyramid() -> PyramidBackbone:
    return PyramidBackbone(transxnet.create_backbone("transxnet_nano"), 64)


def photographs(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


def targets() -> list[dict[str, Tensor]]:
    masks = torch.zeros(2, 60, 90, dtype=torch.bool)
    masks[0, 10:40, 5:50] = masks[1, 20:50, 30:80] = True
    boxes = torch.tensor([[5.0, 10, 50, 40], [30, 20, 80, 50]])
    none = torch.zeros(0, dtype=torch.long)
    empty = {"boxes": torch.zeros(0, 4), "labels": none, "masks": torch.zeros(0, 70, 50).bool()}
    return [{"boxes": boxes, "labels": torch.tensor([0, 2]), "masks": masks}, empty]


@pytest.mark.parametrize("size", [(800, 1344), (799, 1211)])
def test_anchors_lie_where_the_formula_says(size: tuple[int, int]) -> None:
    strides = (8, 16, 32, 64, 128)
    generator = StrideAnchors(strides, [4 * 2 ** (octave / 3) for octave in range(3)])
    maps = [torch.zeros(1, 1, math.ceil(size[0] / stride), math.ceil(size[1] / stride)) for stride in strides]
    (anchors,) = generator(ImageList(torch.zeros(1, 3, *size), [size]), maps)
    expected = [
        [x * stride - w / 2, y * stride - h / 2, x * stride + w / 2, y * stride + h / 2]
        for stride, level in zip(strides, maps, strict=True)
        for y in range(level.shape[2])
        for x in range(level.shape[3])
        for ratio in (0.5, 1.0, 2.0)
        for side in (4 * stride, 4 * stride * 2 ** (1 / 3), 4 * stride * 2 ** (2 / 3))
        for w, h in [(side / math.sqrt(ratio), side * math.sqrt(ratio))]
    ]
    assert torch.allclose(anchors, torch.tensor(expected), rtol=0, atol=1e-3)


def test_only_the_cells_of_an_image_s_own_part_of_the_batch_take_part() -> None:
    generator = StrideAnchors((8, 128), [4.0], [1.0])
    maps = [torch.zeros(1, 1, 32, 40), torch.zeros(1, 1, 2, 3)]
    inside = generator.inside((100, 130), maps)  # 128 x 160 after padding
    fine, coarse = inside[: 32 * 40].view(32, 40), inside[32 * 40 :].view(2, 3)
    assert fine.sum() == 16 * 20 and fine[:16, :20].all()
    assert coarse.tolist() == [[True, True, False], [False, False, False]]


def test_best_boxes_are_claimed_from_the_least_overlap_on() -> None:
    overlap = torch.tensor([[0.9, 0.2, 0.6, 0.0], [0.8, 0.25, 0.1, 0.0], [0.0, 0.0, 0.0, 0.35]])
    assert BestMatcher(0.7, 0.3, 0.3)(overlap).tolist() == [1, -1, -2, 2]
    assert BestMatcher(0.7, 0.3, 0.5)(overlap).tolist() == [1, -1, -2, -2]


def test_decoded_sizes_are_bounded_below() -> None:
    coder = ClampedBoxCoder((10.0, 10.0, 5.0, 5.0))
    anchors = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    (box,) = coder.decode_single(torch.tensor([[0.0, 0.0, -1e3, 1e3]]), anchors)
    assert (box[2:] - box[:2]).tolist() == pytest.approx([1.6, 6250.0])


@pytest.mark.parametrize(
    ("given", "wanted"), [((480, 640), (800, 1067)), ((427, 640), (800, 1199)), ((300, 1000), (400, 1333))]
)
def test_images_are_resized_by_the_released_rule(given: tuple[int, int], wanted: tuple[int, int]) -> None:
    transform = DetectionTransform()
    boxes = torch.tensor([[0.0, 0.0, given[1], given[0]]])
    batch, (target,) = transform(photographs(given), [{"boxes": boxes}])
    assert batch.image_sizes == [wanted]
    assert batch.tensors.shape[2:] == tuple(math.ceil(side / 32) * 32 for side in wanted)
    assert target["boxes"][0].tolist() == pytest.approx([0, 0, wanted[1], wanted[0]])
    assert not batch.tensors[:, :, wanted[0] :].any()
    (found,) = transform.postprocess([dict(target)], batch.image_sizes, [given])
    assert found["boxes"][0].tolist() == pytest.approx(boxes[0].tolist())
    assert transform.resized(photographs(given)[0]).dtype == torch.uint8


def test_masks_follow_their_boxes() -> None:
    mask = torch.zeros(1, 28, 28)
    mask[:, :, 14:] = 1  # the right half
    whole = pasted(mask, torch.tensor([[10.0, 20.0, 50.0, 40.0]]), (60, 80))[0]
    rows, columns = torch.where(whole)
    assert [int(value) for value in (rows.min(), rows.max(), columns.min(), columns.max())] == [20, 39, 30, 49]
    masks = torch.zeros(1, 60, 80)
    masks[0, 20:40, 30:50] = 1
    wanted = mask_targets(masks, torch.tensor([[10.0, 20.0, 50.0, 40.0]]), torch.tensor([0]))
    assert torch.equal(wanted.float(), mask)


@pytest.mark.parametrize("name", ["retinanet", "mask_rcnn"])
def test_detectors_learn_from_and_answer_images_of_any_sizes(name: str) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"pyramid_channels": 32, "depths": (1, 1, 1, 1)}
    detector: Any = create_detector(name, backbone="transxnet_nano", num_classes=3, **sizes)
    detector.transform.short, detector.transform.long = 128, 256
    images = photographs((60, 90), (70, 50))
    losses = detector.train()(images, targets())
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)
    losses = detector(images[1:], targets()[1:])  # nothing to find
    assert all(loss.isfinite() for loss in losses.values())
    if name == "retinanet":
        detector.head.classification_head.cls_logits.bias.data.fill_(0.0)  # so that something is found
    results = detector.eval()(images)
    assert len(results) == 2 and len(results[0]["boxes"]) > 0
    for result, image in zip(results, images, strict=True):
        height, width = image.shape[1:]
        assert (result["boxes"] >= 0).all() and (result["boxes"][:, 2] <= width + 1e-3).all()
        assert ((result["labels"] >= 0) & (result["labels"] < 3)).all()
        if name == "mask_rcnn":
            assert result["masks"].shape[1:] == (height, width) and result["masks"].dtype == torch.bool


def test_the_segmenter_scores_every_pixel() -> None:
    segmenter = create_segmenter(backbone="transxnet_nano", num_classes=4)
    scores = segmenter(torch.rand(2, 3, 65, 98))
    assert scores.shape == (2, 4, 65, 98)
    labels = torch.full((2, 65, 98), 255)
    assert segmentation_loss(scores, labels) == 0
    labels[:, :13] = 1  # a fifth of the pixels: the others count as zero in the mean
    segmentation_loss(scores, labels).backward()
    mean = torch.nn.functional.cross_entropy(scores[:, :, :13], labels[:, :13])
    assert segmentation_loss(scores, labels).item() == pytest.approx(mean.item() / 5, rel=1e-5)


@pytest.mark.parametrize("detector", [FasterRCNN, TorchvisionRetinaNet])
def test_torchvision_s_detectors_take_the_backbone(detector: Any) -> None:
    anchors = AnchorGenerator(tuple((size,) for size in (16, 32, 64, 128)), ((0.5, 1.0, 2.0),) * 4)
    settings: dict[str, Any] = {"min_size": 96, "max_size": 128}
    settings["rpn_anchor_generator" if detector is FasterRCNN else "anchor_generator"] = anchors
    model = detector(pyramid(), num_classes=4, **settings)
    images = [image / 255 for image in photographs((60, 90), (70, 50))]
    losses = model.train()(images, targets())
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert len(model.eval()(images)) == 2


@pytest.mark.parametrize("architecture", ["FPN", "Unet"])
def test_segmentation_models_pytorch_takes_the_network(architecture: str) -> None:
    model = getattr(segmentation_models_pytorch, architecture)("tu-transxnet_nano", encoder_weights=None, classes=3)
    assert model(torch.rand(2, 3, 64, 96)).shape == (2, 3, 64, 96)


def test_the_backbone_of_a_detector_starts_from_a_classifier() -> None:
    classifier = nano()
    detector = create_detector("retinanet", backbone="transxnet_nano", backbone_checkpoint=classifier.state_dict())
    weight = "stages.2.blocks.0.dpe.weight"
    assert torch.equal(detector.backbone.body.state_dict()[weight], classifier.state_dict()[weight])


def test_errors_of_what_does_not_fit() -> None:
    classifier = {n: released_tensor(n, s) for n, s in released_shapes("tiny", "classifier").items()}
    with pytest.raises(CheckpointError, match="not a SemanticFPN's|is not a checkpoint of TransXNet"):
        create_segmenter(checkpoint=classifier)
    with pytest.raises(ConfigError, match="there is no detector 'yolo'; there are retinanet and mask_rcnn"):
        create_detector("yolo")
    with pytest.raises(ConfigError, match="there is no segmenter"):
        create_segmenter("deeplab")
    weights = create_segmenter(backbone="transxnet_nano", num_classes=4).state_dict()
    with pytest.raises(CheckpointError, match="number of classes"):
        create_segmenter(backbone="transxnet_nano", num_classes=5, checkpoint=weights)


def test_a_head_s_settings_have_bounds() -> None:
    with pytest.raises(ConfigError, match="num_classes must be a whole number from 1"):
        transxnet.create_detector("retinanet", backbone="transxnet_nano", num_classes=0)
    with pytest.raises(ConfigError, match="label_names must be a list of 0 or 3 values"):
        HeadDescription("retinanet", 3, label_names=("a",))
