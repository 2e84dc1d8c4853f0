"""Boxes from an exported detector's scores and codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet

from transxnet.dense.detection.boxes import ClampedBoxCoder
from transxnet.dense.detection.retinanet import ANSWERS, stride_anchors
from transxnet.dense.detection.transform import DetectionTransform, Target
from transxnet.dense.head import Head
from transxnet.deploy.runtimes import Runtime


class ExportedDetector(nn.Module):
    """An exported RetinaNet that is called as the network is: resizing, decoding and NMS around the file.

    Args:
        runtime: The file.

    Attributes:
        head_description: What the file says of the classes and of the images' size.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        said = runtime.description
        self.runtime = runtime
        self.head_description = Head.from_dict(said.head, str(runtime.path))
        self.transform = DetectionTransform(self.head_description.short, self.head_description.long)
        self.anchors = stride_anchors(said.strides)
        self.box_coder = ClampedBoxCoder((1.0, 1.0, 1.0, 1.0))
        for name, value in ANSWERS.items():
            setattr(self, name, value)

    def forward(self, images: list[Tensor]) -> list[Target]:
        """Detections as RetinaNet's, of images (3, H, W), uint8 or float from 0 to 1."""
        batch, _ = self.transform(images)
        answers = [torch.from_numpy(output) for output in self.runtime.run(batch.tensors.numpy())]
        height, width = batch.tensors.shape[2:]
        maps = [torch.empty(0, 0, -(-height // stride), -(-width // stride)) for stride in self.anchors.strides]
        anchors = self.anchors.levels(maps)
        sizes = [len(level) for level in anchors]
        levels = {name: list(output.split(sizes, dim=1)) for name, output in zip(_NAMES, answers, strict=True)}
        found: Any = TorchvisionRetinaNet.postprocess_detections(  # which asks for this object's settings alone
            self, levels, [anchors] * len(images), batch.image_sizes
        )
        originals = [(image.shape[1], image.shape[2]) for image in images]
        return self.transform.postprocess(found, batch.image_sizes, originals)


_NAMES = ("cls_logits", "bbox_regression")
