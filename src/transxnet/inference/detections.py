"""Boxes and masks from an exported detector's outputs."""

from __future__ import annotations

from torch import Tensor, nn

from transxnet.dense.detection_transform import DetectionTransform, Target
from transxnet.inference.adapters import NamedOutputs
from transxnet.inference.runtimes import Runtime


class ExportedDetector(nn.Module):
    """An exported detector that is called as the network is: resizing, decoding and NMS around the file.

    Args:
        runtime: The file.

    Attributes:
        head_description: Classes and the images' sizes, from the file's metadata.
        precision: Type that the file computes in.
        architecture: Registered name of the network's backbone.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        description = runtime.description
        self.head_description = description.head_description
        self.precision: str = description.precision
        self.architecture = description.architecture
        self.transform: DetectionTransform = self.head_description.transform
        self.detect = description.form.decoder(self.head_description, description.strides, NamedOutputs(runtime))
        self.eval()

    def forward(self, images: list[Tensor]) -> list[Target]:
        """Detections as the network's, of images (3, H, W), uint8 or float from 0 to 1."""
        batch, _ = self.transform(images)
        originals = [(image.shape[1], image.shape[2]) for image in images]
        return self.transform.postprocess(self.detect(batch), batch.image_sizes, originals)
