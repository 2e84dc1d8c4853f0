"""Mask R-CNN's exported form: the first stage in one file, each head of the second in another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from transxnet.dense.anchors import empty_maps
from transxnet.dense.detection_transform import Target
from transxnet.dense.export_form import ExportedFiles, InputSize, PartFile, PyramidForm, Shape
from transxnet.dense.head_description import HeadDescription
from transxnet.dense.mask_rcnn.proposals import ANCHORS, ProposalNetwork
from transxnet.dense.mask_rcnn.regions import BOX_SIDE, MASK_OUTPUT_SIDE, MASK_SIDE, RegionHeads

_COMPARED_REGIONS = 100  # of each image, whose best classes are compared


def _box_shapes(classes: int) -> dict[str, Shape]:
    return {"scores": (None, classes + 1), "codes": (None, 4 * (classes + 1))}


def _mask_shapes(classes: int) -> dict[str, Shape]:
    return {"masks": (None, classes + 1, MASK_OUTPUT_SIDE, MASK_OUTPUT_SIDE)}


class MaskRCNNForm(PyramidForm):
    """The pyramid's maps that regions are pooled from, then the proposals' scores (B, anchors, 1) and codes.

    The maps are called p2 (of stride 2 ** 2) and so on.
    """

    parts = {"boxes": PartFile(BOX_SIDE, _box_shapes), "masks": PartFile(MASK_SIDE, _mask_shapes)}  # noqa: RUF012
    int8 = False

    def shapes(
        self, head: HeadDescription, strides: tuple[int, ...], size: InputSize | None = None
    ) -> dict[str, Shape]:
        batch = size.batch if size else None
        grids = [(-(-size.height // stride), -(-size.width // stride)) if size else (None, None) for stride in strides]
        anchors = ANCHORS * sum((rows or 0) * (columns or 0) for rows, columns in grids) if size else None
        maps = {
            f"p{stride.bit_length() - 1}": (batch, head.pyramid_channels, *grid)
            for stride, grid in zip(strides[:-1], grids, strict=False)
        }
        return {**maps, "scores": (batch, anchors, 1), "codes": (batch, anchors, 4)}

    def run(self, network: Any, images: Tensor) -> tuple[Tensor, ...]:
        maps = list(network.backbone(images).values())
        scores, codes = network.rpn.head(maps)
        return (*maps[:-1], _of_anchors(scores, 1), _of_anchors(codes, 4))

    def without_parts(self, network: Any) -> nn.Module:
        network.roi_heads = nn.Identity()
        return network  # type: ignore[no-any-return]

    def part(self, network: Any, name: str) -> nn.Module:
        heads = network.roi_heads
        if name == "boxes":
            return nn.Sequential(heads.box_head, heads.box_predictor)
        return nn.Sequential(heads.mask_head, heads.mask_predictor)

    def best_classes(self, network: Any, files: ExportedFiles, image: Tensor) -> tuple[Tensor, Tensor]:
        """Of the best regions that the network proposes."""
        maps = network.backbone(image)
        (proposals,), _ = network.rpn(ImageList(image, [(image.shape[2], image.shape[3])]), maps)
        regions = [proposals[:_COMPARED_REGIONS]]
        theirs = dict(zip(maps, files(image).values(), strict=False))
        pooled, pooled_of_file = (network.roi_heads.box_roi_pool(which, regions) for which in (maps, theirs))
        scores = self.part(network, "boxes")(pooled)[0]
        return scores.argmax(1), files.parts["boxes"](pooled_of_file)["scores"].argmax(1)

    def decoder(self, head: HeadDescription, strides: tuple[int, ...], files: ExportedFiles) -> nn.Module:
        return _Decoder(head, strides, files)


class _Decoder(nn.Module):
    """Proposals, their pooling, decoding and NMS around exported files, as the network has them."""

    def __init__(self, head: HeadDescription, strides: tuple[int, ...], files: ExportedFiles) -> None:
        super().__init__()
        self.files = files
        self.rpn = ProposalNetwork(head.pyramid_channels, strides, head=nn.Identity())
        self.rpn.set_proposals(head.proposals)
        heads = {name: _ExportedPart(part) for name, part in files.parts.items()}
        self.roi_heads = RegionHeads(head.pyramid_channels, strides[:-1], head.num_classes, **heads)

    def forward(self, batch: ImageList) -> list[Target]:
        """Boxes in the pixels of the batch, and masks of the boxes."""
        outputs = self.files(batch.tensors)
        scores, codes = outputs.pop("scores"), outputs.pop("codes")
        anchors = self.rpn.anchor_generator.levels(empty_maps(batch, self.rpn.anchor_generator.strides))
        boxes = self.rpn.box_coder.decode(codes.flatten(0, 1), [torch.cat(anchors)] * len(codes))
        counts = [len(level) for level in anchors]
        proposals, _ = self.rpn.filter_proposals(boxes.view_as(codes), scores, batch.image_sizes, counts)
        maps = {str(level): output for level, output in enumerate(outputs.values())}
        found, _ = self.roi_heads(maps, proposals, batch.image_sizes)
        return [result | {"labels": result["labels"] - 1} for result in found]


class _ExportedPart(nn.Module):
    """A head of the second stage, in its file."""

    def __init__(self, file: ExportedFiles) -> None:
        super().__init__()
        self.file = file

    def forward(self, regions: Tensor) -> Any:
        """Shapes: (R, C, side, side) to those of the outputs."""
        outputs = list(self.file(regions).values())
        return outputs[0] if len(outputs) == 1 else outputs


def _of_anchors(levels: list[Tensor], values: int) -> Tensor:
    """Maps (B, A * values, H_i, W_i) of several levels to (B, anchors, values), row by row."""
    parts = [level.unflatten(1, (-1, values)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in levels]
    return torch.cat(parts, dim=1)
