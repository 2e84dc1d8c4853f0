"""RetinaNet as the released detectors have it (table III), and its exported form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou, sigmoid_focal_loss

from transxnet.checkpoints.released_dense import ReleasedNames
from transxnet.dense.anchors import BestMatcher, ClampedBoxCoder, StrideAnchors, at_least_float32, empty_maps
from transxnet.dense.backbone import DenseBackbone
from transxnet.dense.detection_transform import DetectionTransform, Target
from transxnet.dense.export_form import ExportedFiles, InputSize, PyramidForm, Shape
from transxnet.dense.head_description import HeadDescription
from transxnet.dense.protocol import Detector
from transxnet.dense.pyramid import P6P7, PyramidBackbone, head_norm
from transxnet.dense.registry import register_dense_network

_ANCHORS = 9  # of each position: three sizes, three ratios

_POSTPROCESSING: dict[str, Any] = {
    "score_thresh": 0.05,
    "nms_thresh": 0.5,
    "detections_per_img": 100,
    "topk_candidates": 1000,
}  # torchvision's names

_RELEASED_NAMES = ReleasedNames(
    "bbox_head.retina_cls.weight",
    (
        (r"neck\.fpn_convs\.3\.conv\.", "backbone.fpn.extra_blocks.p6."),
        (r"neck\.fpn_convs\.4\.conv\.", "backbone.fpn.extra_blocks.p7."),
        (r"bbox_head\.cls_convs\.(\d)\.conv\.", r"head.classification_head.conv.\1.0."),
        (r"bbox_head\.reg_convs\.(\d)\.conv\.", r"head.regression_head.conv.\1.0."),
        (r"bbox_head\.retina_cls\.", "head.classification_head.cls_logits."),
        (r"bbox_head\.retina_reg\.", "head.regression_head.bbox_reg."),
    ),
)


def stride_anchors(strides: Sequence[int]) -> StrideAnchors:
    """Three sizes and three ratios for each position of each level.

    Args:
        strides: Of the pyramid's levels.
    """
    return StrideAnchors(strides, scales=[4 * 2 ** (octave / 3) for octave in range(3)])


class RetinaNetForm(PyramidForm):
    """Scores (B, anchors, classes) and box codes (B, anchors, 4) of the anchors of all levels."""

    def shapes(
        self, head: HeadDescription, strides: tuple[int, ...], size: InputSize | None = None
    ) -> dict[str, Shape]:
        batch = anchors = None
        if size:
            positions = (-(-size.height // stride) * -(-size.width // stride) for stride in strides)
            batch, anchors = size.batch, _ANCHORS * sum(positions)
        return {"scores": (batch, anchors, head.num_classes), "codes": (batch, anchors, 4)}

    def run(self, network: Any, images: Tensor) -> tuple[Tensor, ...]:
        outputs = network.head(list(network.backbone(images).values()))
        return outputs["cls_logits"], outputs["bbox_regression"]

    def best_classes(self, network: Any, files: ExportedFiles, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.run(network, image)[0].argmax(2), files(image)["scores"].argmax(2)

    def decoder(self, head: HeadDescription, strides: tuple[int, ...], files: ExportedFiles) -> nn.Module:
        return _Decoder(strides, files)


class _Decoder(nn.Module):
    """torchvision's decoding and NMS around an exported file."""

    def __init__(self, strides: tuple[int, ...], files: ExportedFiles) -> None:
        super().__init__()
        self.files = files
        self.anchors = stride_anchors(strides)
        self.box_coder = ClampedBoxCoder((1.0, 1.0, 1.0, 1.0))
        for name, value in _POSTPROCESSING.items():
            setattr(self, name, value)

    def forward(self, batch: ImageList) -> list[Target]:
        """Boxes in the pixels of the batch."""
        outputs = self.files(batch.tensors)
        anchors = self.anchors.levels(empty_maps(batch, self.anchors.strides))
        sizes = [len(level) for level in anchors]
        names = {"cls_logits": "scores", "bbox_regression": "codes"}
        levels = {theirs: list(outputs[ours].split(sizes, dim=1)) for theirs, ours in names.items()}
        found: Any = TorchvisionRetinaNet.postprocess_detections(  # which asks for this object's settings alone
            self, levels, [anchors] * len(batch.image_sizes), batch.image_sizes
        )
        return found  # type: ignore[no-any-return]


@register_dense_network("retinanet")
class RetinaNet(Detector, TorchvisionRetinaNet):
    """torchvision's RetinaNet with the released anchors, matching, losses and image sizes.

    Called with a list of images (3, H, W); in training also with targets (``boxes`` (n, 4) in
    pixels, ``labels`` (n) from 0), for a dictionary of losses; in evaluation, for a list of
    detections with ``boxes``, ``scores`` and ``labels``.

    Args:
        backbone: Backbone and pyramid of strides 8 to 128.
        num_classes: Classes.
        transform: Makes batches of images; the released rule if not given.
        norm_layer: Makes a normalisation for so many channels, for the towers; none if not given.
    """

    class_weight = "head.classification_head.cls_logits.weight"
    out_indices = (1, 2, 3)
    export_form = RetinaNetForm()
    released_names = _RELEASED_NAMES

    head: Any  # torchvision has no types
    anchor_generator: Any
    proposal_matcher: Any
    postprocess_detections: Any

    def __init__(
        self,
        backbone: PyramidBackbone,
        num_classes: int = 80,
        transform: DetectionTransform | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        anchors = stride_anchors(backbone.strides)
        count = anchors.num_anchors_per_location()[0]
        head = RetinaNetHead(backbone.out_channels, count, num_classes, norm_layer=norm_layer)
        super().__init__(
            backbone, num_classes, anchor_generator=anchors, head=head, proposal_matcher=BestMatcher(0.5, 0.4, 0.0),
            **_POSTPROCESSING,
        )  # fmt: skip
        self.box_coder = ClampedBoxCoder((1.0, 1.0, 1.0, 1.0))
        self.transform = transform or DetectionTransform()
        self._inside: list[Tensor] = []
        anchors.register_forward_hook(self._remember)

    @classmethod
    def build(cls, body: DenseBackbone, head: HeadDescription) -> Self:
        norm = head_norm if head.normalised else None
        pyramid = PyramidBackbone(body, head.pyramid_channels, P6P7, norm)
        return cls(pyramid, head.num_classes, cls.transform_for(head), norm)

    @classmethod
    def classes_of(cls, rows: int) -> int:
        return rows // _ANCHORS

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """Losses in training, detections in evaluation; raises ValueError for inputs that are not as described."""
        self.check_inputs(images, targets)
        originals = [(image.shape[1], image.shape[2]) for image in images]
        batch, targets = self.transform(images, targets)
        maps = list(self.backbone(batch.tensors).values())
        outputs = self.head(maps)
        if self.training:
            return self.compute_loss(targets or [], outputs, self.anchor_generator(batch, maps))
        anchors = self.anchor_generator.levels(maps)
        sizes = [len(level) for level in anchors]
        levels = {name: list(at_least_float32(output).split(sizes, dim=1)) for name, output in outputs.items()}
        found = self.postprocess_detections(levels, [anchors] * len(images), batch.image_sizes)
        return self.transform.postprocess(found, batch.image_sizes, originals)

    def compute_loss(
        self, targets: list[Target], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        """Focal loss and L1 on the codes, summed, over the images' positive anchors (at least one an image)."""
        focal, box, positives = [], [], 0
        for index, target in enumerate(targets):
            matched = self._matched(target["boxes"], anchors[index], self._inside[index])
            logits, codes = (head_outputs[name][index].float() for name in ("cls_logits", "bbox_regression"))
            positive, counted = (  # indices once, since a GPU is waited for
                torch.where(chosen)[0] for chosen in (matched >= 0, matched > self.proposal_matcher.BETWEEN_THRESHOLDS)
            )
            truth = matched[positive]
            wanted = torch.zeros_like(logits)
            wanted[positive, target["labels"][truth]] = 1
            focal.append(sigmoid_focal_loss(logits[counted], wanted[counted], reduction="sum"))
            aims = self.box_coder.encode_single(target["boxes"][truth], anchors[index][positive])
            box.append(F.l1_loss(codes[positive], aims, reduction="sum"))
            positives += max(len(positive), 1)
        return {
            "classification": torch.stack(focal).sum() / positives,
            "bbox_regression": torch.stack(box).sum() / positives,
        }

    def _matched(self, boxes: Tensor, anchors: Tensor, inside: Tensor) -> Tensor:
        """The ground truth of each anchor, -1 for none, -2 for anchors that are not counted. Shape: (anchors)."""
        if not len(boxes):
            return torch.where(inside, -1, -2)
        matched: Tensor = self.proposal_matcher(box_iou(boxes, anchors).masked_fill(~inside, -1.0))
        return matched.masked_fill(~inside, -2)

    def _remember(self, generator: Any, inputs: Any, output: Any) -> None:
        """The loss is not given the images' sizes."""
        if self.training:
            image_list, feature_maps = inputs
            self._inside = [generator.inside(size, feature_maps) for size in image_list.image_sizes]
