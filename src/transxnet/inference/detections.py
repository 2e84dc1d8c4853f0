"""Boxes and masks from an exported detector's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.image_list import ImageList

from transxnet.dense.detection.boxes import ClampedBoxCoder
from transxnet.dense.detection.proposals import ProposalNetwork
from transxnet.dense.detection.regions import RegionHeads
from transxnet.dense.detection.retinanet import ANSWERS, stride_anchors
from transxnet.dense.detection.transform import DetectionTransform, Target
from transxnet.dense.head import Head
from transxnet.inference.runtimes import Runtime


class ExportedDetector(nn.Module):
    """An exported detector that is called as the network is: resizing, decoding and NMS around the file.

    Args:
        runtime: The file.

    Attributes:
        head_description: What the file says of the classes and of the images' size.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self.head_description = head = Head.from_dict(runtime.description.head, str(runtime.path))
        self.transform = DetectionTransform(head.short, head.long)
        kind = _OneStage if head.kind == "retinanet" else _TwoStages
        self.detect: nn.Module = kind(runtime, head)
        self.eval()

    def forward(self, images: list[Tensor]) -> list[Target]:
        """Detections as the network's, of images (3, H, W), uint8 or float from 0 to 1."""
        batch, _ = self.transform(images)
        originals = [(image.shape[1], image.shape[2]) for image in images]
        return self.transform.postprocess(self.detect(batch), batch.image_sizes, originals)


class _OneStage(nn.Module):
    """RetinaNet around its file."""

    def __init__(self, runtime: Runtime, head: Head) -> None:
        super().__init__()
        self.runtime = runtime
        self.anchors = stride_anchors(runtime.description.strides)
        self.box_coder = ClampedBoxCoder((1.0, 1.0, 1.0, 1.0))
        for name, value in ANSWERS.items():
            setattr(self, name, value)

    def forward(self, batch: ImageList) -> list[Target]:
        """Boxes in the pixels of the batch."""
        answers = _answers(self.runtime, batch.tensors)
        anchors = self.anchors.levels(_empty_maps(batch, self.anchors.strides))
        sizes = [len(level) for level in anchors]
        levels = {name: list(answers[ours].split(sizes, dim=1)) for name, ours in _NAMES}
        found: Any = TorchvisionRetinaNet.postprocess_detections(  # which asks for this object's settings alone
            self, levels, [anchors] * len(batch.image_sizes), batch.image_sizes
        )
        return found  # type: ignore[no-any-return]


class _TwoStages(nn.Module):
    """Mask R-CNN around its files: proposals, their pooling, decoding and NMS as the network has them."""

    def __init__(self, runtime: Runtime, head: Head) -> None:
        super().__init__()
        self.runtime = runtime
        strides, channels = runtime.description.strides, head.pyramid_channels
        self.rpn = ProposalNetwork(channels, strides, head=nn.Identity())
        self.rpn.set_proposals(head.proposals)
        heads = {name: _ExportedHead(part) for name, part in runtime.parts.items()}
        self.roi_heads = RegionHeads(channels, strides[:-1], head.num_classes, **heads)

    def forward(self, batch: ImageList) -> list[Target]:
        """Boxes in the pixels of the batch, and masks of the boxes."""
        answers = _answers(self.runtime, batch.tensors)
        scores, codes = answers.pop("scores"), answers.pop("codes")
        anchors = self.rpn.anchor_generator.levels(_empty_maps(batch, self.rpn.anchor_generator.strides))
        boxes = self.rpn.box_coder.decode(codes.flatten(0, 1), [torch.cat(anchors)] * len(codes))
        counts = [len(level) for level in anchors]
        proposals, _ = self.rpn.filter_proposals(boxes.view_as(codes), scores, batch.image_sizes, counts)
        maps = {str(level): answer for level, answer in enumerate(answers.values())}
        found, _ = self.roi_heads(maps, proposals, batch.image_sizes)
        return [result | {"labels": result["labels"] - 1} for result in found]


class _ExportedHead(nn.Module):
    """A head of the second stage, in its file."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime

    def forward(self, regions: Tensor) -> Any:
        """Shapes: (R, C, side, side) to those of the outputs."""
        outputs = [torch.from_numpy(output) for output in self.runtime.run(regions.contiguous().numpy())]
        return outputs[0] if len(outputs) == 1 else outputs


_NAMES = (("cls_logits", "scores"), ("bbox_regression", "codes"))


def _answers(runtime: Runtime, images: Tensor) -> dict[str, Tensor]:
    """The outputs by their names, in order."""
    outputs = map(torch.from_numpy, runtime.run(images.numpy()))
    return dict(zip(runtime.description.outputs, outputs, strict=True))


def _empty_maps(batch: ImageList, strides: Sequence[int]) -> list[Tensor]:
    """Maps of the levels' sizes, which anchors are made for."""
    height, width = batch.tensors.shape[2:]
    return [torch.empty(0, 0, -(-height // stride), -(-width // stride)) for stride in strides]
