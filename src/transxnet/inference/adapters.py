"""Exported files called as the networks that they were made from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from transxnet.dense.head_description import HeadDescription
from transxnet.inference.runtimes import Runtime


class NamedOutputs:
    """A file's outputs as tensors by name, as :class:`~transxnet.dense.export_form.ExportedFiles` wants them.

    Args:
        runtime: The file.

    Attributes:
        parts: The files beside it, likewise.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.parts = {name: NamedOutputs(part) for name, part in runtime.parts.items()}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        outputs = map(torch.from_numpy, self.runtime.run(images.contiguous().numpy()))
        return dict(zip(self.runtime.description.outputs, outputs, strict=True))


class ExportedNetwork(nn.Module):
    """An exported classifier or segmenter that is called as the network is, without the network.

    Args:
        runtime: The file.

    Attributes:
        pretrained_cfg: Preprocessing and class names, as timm has them.
        num_classes: Classes.
        precision: Type that the file computes in.
        head_description: Of a segmenter.
    """

    head_description: HeadDescription

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        description = runtime.description
        self.runtime = runtime
        self.num_classes = description.num_classes
        self.precision: str = description.precision
        self.pretrained_cfg: dict[str, Any] = {
            "input_size": (3, 224, 224),
            **description.preprocessing,
            "architecture": description.architecture,
            "num_classes": description.num_classes,
            "label_names": list(description.class_names),
        }
        if description.head:
            self.head_description = description.head_description

    def forward(self, images: Tensor) -> Tensor:
        """The first output. Shapes: (B, C, H, W) to those of the network's."""
        return torch.from_numpy(self.runtime.run(images.contiguous().numpy())[0])
