"""Exported files in the place of the networks that they were made from, for the tasks around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from transxnet.dense.head import Head
from transxnet.inference.runtimes import Runtime


class ExportedNetwork(nn.Module):
    """An exported classifier or segmenter that is called as the network is, with none behind it.

    Args:
        runtime: The file.

    Attributes:
        pretrained_cfg: Preprocessing and class names, as timm has them.
        num_classes: Classes.
        head_description: Of a segmenter or detector.
    """

    head_description: Head

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        said = runtime.description
        self.runtime = runtime
        self.num_classes = said.num_classes
        self.pretrained_cfg: dict[str, Any] = {
            "input_size": (3, 224, 224),
            **said.preprocessing,
            "architecture": said.architecture,
            "num_classes": said.num_classes,
            "label_names": list(said.class_names),
        }
        if said.head:
            self.head_description = Head.from_dict(said.head, str(runtime.path))

    def forward(self, images: Tensor) -> Tensor:
        """The first output. Shapes: (B, C, H, W) to those of the network's."""
        return torch.from_numpy(self.runtime.run(images.contiguous().numpy())[0])
