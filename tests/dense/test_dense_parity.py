"""Detectors and segmenters compute what the released ones computed, to float32 rounding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from golden import fixture
from helpers.networks import golden, images, released_dense
from transxnet.dense.create import create_detector, create_segmenter
from transxnet.dense.mask_rcnn import MaskRCNN
from transxnet.dense.pixel_classes import classes_of, segmentation_loss
from transxnet.dense.retinanet import RetinaNet
from transxnet.dense.semantic_fpn import SemanticFPN

TOLERANCE = 2e-5


def pair(values: Any) -> tuple[int, int]:
    height, width = (int(value) for value in values)
    return height, width


def agrees(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> bool:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return bool(np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max())


def matches(array: Tensor, expected: dict[str, Any], name: str) -> None:
    """The golden's shape, sample, mean and deviation of an array."""
    ours = array.detach().numpy()
    assert ours.shape == tuple(expected[f"{name}/shape"]), name
    sample, std = expected[f"{name}/sample"], expected[f"{name}/std"]
    assert agrees(fixture.sample(ours, len(sample)), sample), name
    assert abs(ours.mean(dtype=np.float64) - expected[f"{name}/mean"]) <= TOLERANCE * std, name
    assert abs(ours.std(dtype=np.float64) - std) <= TOLERANCE * std, name


@pytest.fixture(scope="module")
def segmenter() -> SemanticFPN:
    segmenter = create_segmenter(checkpoint=released_dense("semantic_fpn")).eval()
    assert isinstance(segmenter, SemanticFPN)
    return segmenter


@torch.inference_mode()
def test_semantic_fpn(segmenter: SemanticFPN) -> None:
    expected = golden("dense_semantic_fpn_tiny")
    x = images(*expected["image_shape"])
    pyramid = list(segmenter.backbone(x).values())
    for level, output in enumerate(pyramid):
        matches(output, expected, f"fpn{level}")
    matches(segmenter.head(pyramid), expected, "head")
    scores = segmenter(x)
    matches(scores, expected, "logits")
    size = pair(expected["ori_shape"][0])
    for name, classes in (("argmax", scores.argmax(1)), ("rescaled_argmax", classes_of(scores, size))):
        sample = expected[f"{name}/sample"]
        assert (fixture.sample(classes.numpy(), len(sample)) != sample).mean() <= 1e-3
        histogram = np.bincount(classes.flatten().numpy(), minlength=150)
        assert np.abs(histogram - expected[f"{name}/histogram"][0]).sum() <= 2e-3 * histogram.sum()
    labels = torch.from_numpy(expected["labels"]).long()
    assert agrees(segmentation_loss(scores, labels), expected["loss/decode.loss_ce"])


@pytest.fixture(scope="module")
def retinanet() -> RetinaNet:
    detector = create_detector("retinanet", checkpoint=released_dense("retinanet")).eval()
    assert isinstance(detector, RetinaNet)
    return detector


@pytest.fixture(scope="module")
def retinanet_outputs(retinanet: RetinaNet) -> tuple[list[Tensor], dict[str, Tensor]]:
    with torch.inference_mode():
        features = list(retinanet.backbone(images(*golden("dense_retinanet_tiny")["image_shape"])).values())
        return features, retinanet.head(features)


def per_level(outputs: Tensor, features: list[Tensor]) -> list[Tensor]:
    """(N, anchors, K) as a list of levels (N, H W A, K)."""
    return list(outputs.split([9 * feature.shape[2] * feature.shape[3] for feature in features], dim=1))


def test_retinanet_s_heads_and_anchors(
    retinanet: RetinaNet, retinanet_outputs: tuple[list[Tensor], dict[str, Tensor]]
) -> None:
    expected = golden("dense_retinanet_tiny")
    features, outputs = retinanet_outputs
    for level, anchors in enumerate(retinanet.anchor_generator.levels(features)):
        matches(anchors, expected, f"anchors{level}")
        matches(features[level], expected, f"fpn{level}")
        for name, key in (("cls", "cls_logits"), ("reg", "bbox_regression")):
            height, width = features[level].shape[2:]
            output = per_level(outputs[key], features)[level].reshape(1, height, width, -1)
            matches(output.permute(0, 3, 1, 2), expected, f"{name}{level}")


@torch.inference_mode()
def test_retinanet_s_detections(
    retinanet: RetinaNet, retinanet_outputs: tuple[list[Tensor], dict[str, Tensor]]
) -> None:
    expected = golden("dense_retinanet_tiny")
    features, outputs = retinanet_outputs
    size = pair(expected["img_shape"][0])
    split = {name: per_level(output, features) for name, output in outputs.items()}
    (found,) = retinanet.postprocess_detections(split, [retinanet.anchor_generator.levels(features)], [size])
    assert agrees(found["boxes"] / torch.from_numpy(expected["scale_factor"][0]), expected["det/boxes"])
    assert agrees(found["scores"], expected["det/scores"], 5e-5)
    assert found["labels"].tolist() == expected["det/labels"].tolist()


def test_retinanet_s_losses(retinanet: RetinaNet) -> None:
    expected = golden("dense_retinanet_tiny")
    x = images(*expected["image_shape"])
    size = pair(expected["img_shape"][0])
    target = {"boxes": torch.from_numpy(expected["gt/boxes"]), "labels": torch.from_numpy(expected["gt/labels"])}
    features = list(retinanet.backbone(x).values())
    try:
        retinanet.training = True  # the mode of the model itself; its layers evaluate, as in the golden
        anchors = retinanet.anchor_generator(ImageList(x, [size]), features)
        losses = retinanet.compute_loss([target], retinanet.head(features), anchors)
    finally:
        retinanet.training = False
    assert agrees(losses["classification"].detach(), expected["loss/loss_cls"])
    assert agrees(losses["bbox_regression"].detach(), expected["loss/loss_bbox"])


@pytest.fixture(scope="module")
def mask_rcnn() -> MaskRCNN:
    detector = create_detector("mask_rcnn", checkpoint=released_dense("mask_rcnn")).eval()
    assert isinstance(detector, MaskRCNN)
    return detector


@pytest.fixture(scope="module")
def mask_rcnn_features(mask_rcnn: MaskRCNN) -> dict[str, Tensor]:
    with torch.inference_mode():
        return mask_rcnn.backbone(images(*golden("dense_mask_rcnn_tiny")["image_shape"]))  # type: ignore[no-any-return]


@torch.inference_mode()
def test_mask_rcnn_s_proposals(mask_rcnn: MaskRCNN, mask_rcnn_features: dict[str, Tensor]) -> None:
    expected = golden("dense_mask_rcnn_tiny")
    features = list(mask_rcnn_features.values())
    scores, codes = mask_rcnn.rpn.head(features)
    for level, anchors in enumerate(mask_rcnn.rpn.anchor_generator.levels(features)):
        matches(features[level], expected, f"fpn{level}")
        matches(anchors, expected, f"anchors{level}")
        matches(scores[level], expected, f"rpn_cls{level}")
        matches(codes[level], expected, f"rpn_reg{level}")
    batch = ImageList(images(*expected["image_shape"]), [pair(expected["img_shape"][0])])
    (proposals,), _ = mask_rcnn.rpn(batch, mask_rcnn_features)
    assert len(proposals) == expected["proposals/count"][0]
    assert agrees(proposals[:100], expected["proposals/boxes"][0])


@torch.inference_mode()
def test_mask_rcnn_s_second_stage_on_given_regions(mask_rcnn: MaskRCNN, mask_rcnn_features: dict[str, Tensor]) -> None:
    expected = golden("dense_mask_rcnn_tiny")
    heads = mask_rcnn.roi_heads
    regions = [torch.from_numpy(expected["fixed/rois"][:, 1:])]
    pooled = heads.box_roi_pool(mask_rcnn_features, regions)
    matches(pooled, expected, "fixed/box_features")
    scores, codes = heads.box_predictor(heads.box_head(pooled))
    assert agrees(torch.cat([scores[:, 1:], scores[:, :1]], dim=1), expected["fixed/cls_score"])
    assert agrees(codes[:, 4:], expected["fixed/bbox_pred"])
    pooled = heads.mask_roi_pool(mask_rcnn_features, regions)
    matches(pooled, expected, "fixed/mask_features")
    masks = heads.mask_predictor(heads.mask_head(pooled))
    matches(masks[:, 1:], expected, "fixed/mask_logits")


@torch.inference_mode()
def test_mask_rcnn_s_detections(mask_rcnn: MaskRCNN, mask_rcnn_features: dict[str, Tensor]) -> None:
    expected = golden("dense_mask_rcnn_tiny")
    size, original = pair(expected["img_shape"][0]), pair(expected["ori_shape"][0])
    batch = ImageList(images(*expected["image_shape"]), [size])
    proposals, _ = mask_rcnn.rpn(batch, mask_rcnn_features)
    (found,), _ = mask_rcnn.roi_heads(mask_rcnn_features, proposals, [size])
    assert agrees(found["scores"], expected["det/scores"], 5e-4)
    assert (found["labels"] - 1).tolist() == expected["det/labels"].tolist()
    sample = expected["det/mask_logits/sample"]
    assert agrees(fixture.sample(found["masks"][:, 0].logit().numpy(), len(sample)), sample, 5e-4)
    (found,) = mask_rcnn.transform.postprocess([found], [size], [original])
    assert agrees(found["boxes"], expected["det/boxes"])
    area = found["masks"].sum((1, 2)).numpy()
    assert (np.abs(area - expected["det/mask_area"]) <= 3 + 1e-3 * expected["det/mask_area"]).all()
    for mask, count, centre in zip(found["masks"], expected["det/mask_area"], expected["det/mask_centre"], strict=True):
        if count > 100:
            y, x = torch.where(mask)
            assert abs(x.double().mean() - centre[0]) <= 0.1 and abs(y.double().mean() - centre[1]) <= 0.1


def ground_truth(expected: dict[str, Any]) -> dict[str, Tensor]:
    return {
        "boxes": torch.from_numpy(expected["gt/boxes"]),
        "labels": torch.from_numpy(expected["gt/labels"]) + 1,
        "masks": torch.from_numpy(expected["gt/masks"]),
    }


@pytest.fixture
def in_training(mask_rcnn: MaskRCNN) -> Iterator[MaskRCNN]:
    """Proposals and regions as in training, all of them sampled, as in the golden."""
    samplers = mask_rcnn.rpn.fg_bg_sampler, mask_rcnn.roi_heads.fg_bg_sampler
    kept = [sampler.batch_size_per_image for sampler in samplers]
    for sampler in samplers:
        sampler.batch_size_per_image = 1_000_000
    mask_rcnn.rpn.train()
    mask_rcnn.roi_heads.train()
    yield mask_rcnn
    mask_rcnn.eval()
    for sampler, count in zip(samplers, kept, strict=True):
        sampler.batch_size_per_image = count


@torch.no_grad()
def test_mask_rcnn_s_losses(in_training: MaskRCNN, mask_rcnn_features: dict[str, Tensor]) -> None:
    expected = golden("dense_mask_rcnn_tiny")
    size = pair(expected["img_shape"][0])
    target = ground_truth(expected)
    batch = ImageList(images(*expected["image_shape"]), [size])
    proposals, losses = in_training.rpn(batch, mask_rcnn_features, [target])
    _, more = in_training.roi_heads(mask_rcnn_features, proposals, [size], [target])
    names = {"loss_objectness": "loss_rpn_cls", "loss_rpn_box_reg": "loss_rpn_bbox", "loss_classifier": "loss_cls",
             "loss_box_reg": "loss_bbox", "loss_mask": "loss_mask"}  # fmt: skip
    for name, loss in (losses | more).items():
        assert agrees(loss, expected[f"loss/{names[name]}"]), name


@torch.no_grad()
def test_mask_rcnn_s_losses_on_given_proposals(in_training: MaskRCNN, mask_rcnn_features: dict[str, Tensor]) -> None:
    expected = golden("dense_mask_rcnn_tiny")
    proposals = [torch.from_numpy(expected["given/proposals"][:, 1:])]
    size = pair(expected["img_shape"][0])
    _, losses = in_training.roi_heads(mask_rcnn_features, proposals, [size], [ground_truth(expected)])
    for name, theirs in (("loss_classifier", "loss_cls"), ("loss_box_reg", "loss_bbox"), ("loss_mask", "loss_mask")):
        assert agrees(losses[name], expected[f"given/{theirs}"]), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn", "semantic_fpn"])
@pytest.mark.parametrize("variant", ["small", "base"])
def test_released_files_of_other_sizes_load(kind: str, variant: str) -> None:
    create = create_segmenter if kind == "semantic_fpn" else create_detector
    model = create(kind, backbone=f"transxnet_{variant}", checkpoint=released_dense(kind, variant))
    assert sum(p.numel() for p in model.parameters()) > 3e7
