"""From an image or a stage's map to the next stage's: overlapping patches, or patches side by side."""

from __future__ import annotations

from typing import Self

from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.layers.affine import Kernel, affine_of
from transxnet.layers.folding import Folding, has_known_leaves
from transxnet.layers.norm import BatchNorm2d


def to_multiple(length: int, size: int) -> int:
    """Difference of a length to the next multiple of ``size``, in operations that every runtime rounds alike."""
    return (length + size - 1) // size * size - length


class PatchEmbed(nn.Module):
    """An overlapping, strided convolution and its normalisation: the stem, and between the stages."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
        self.norm: nn.Module = BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        return self.norm(self.conv(x))  # type: ignore[no-any-return]

    def folded(self, folding: Folding) -> Self | None:
        """As of :mod:`transxnet.layers.folding`."""
        if not has_known_leaves(self) or isinstance(self.norm, nn.Identity):
            return None
        self.conv = Kernel(self.conv).then(*affine_of(self.norm)).to_conv()
        self.norm = nn.Identity()
        return self


@register_notrace_module
class PatchConv(nn.Conv2d):
    """A convolution whose stride is its kernel size.

    A map whose size is not a multiple of the patch is padded with zeros at the bottom and on the right,
    so that no position is left out and sizes are rounded up as everywhere in the network.

    Args:
        in_channels: C.
        out_channels: C'.
        size: Side of a patch.
        groups: Groups of channels.
        bias: Whether to add one.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, groups: int = 1, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, size, stride=size, groups=groups, bias=bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        """Shapes: (B, C, H, W) to (B, C', ceil(H / size), ceil(W / size))."""
        (size, _), (height, width) = self.kernel_size, input.shape[-2:]
        bottom, right = to_multiple(height, size), to_multiple(width, size)
        # Sizes that are not known when the network is exported are no int.
        whole = isinstance(bottom, int) and isinstance(right, int) and not (bottom or right)
        return super().forward(input if whole else F.pad(input, (0, right, 0, bottom)))


class PatchStem(nn.Module):
    """Swin's stem, as in Table V: 4x4 patches side by side, here with batch normalisation.

    Args:
        in_channels: Channels of the image.
        channels: C.
        size: Side of a patch in pixels.
    """

    def __init__(self, in_channels: int, channels: int, size: int = 4) -> None:
        super().__init__()
        self.conv = PatchConv(in_channels, channels, size, bias=False)
        self.norm = BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, in_channels, H, W) to (B, C, ceil(H / size), ceil(W / size))."""
        return self.norm(self.conv(x))  # type: ignore[no-any-return]
