"""The parts of the network as they compute after training: what is fixed then is folded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.kernels import Bias, attention, dynamic_depthwise_conv2d

IDConvForm = Literal["grouped", "shifted", "products"]


class FusedBlock(nn.Module):
    """A block whose branches contain their scales, and whose DPE contains the identity.

    Args:
        dpe: Maps (B, C, H, W) to the same.
        norm1: Before the token mixer.
        token_mixer: Maps (B, C, H, W) and the stage's position bias to (B, C, H, W).
        norm2: Before the feed-forward network.
        ffn: Maps (B, C, H, W) to the same.
    """

    def __init__(
        self, dpe: nn.Module, norm1: nn.Module, token_mixer: nn.Module, norm2: nn.Module, ffn: nn.Module
    ) -> None:
        super().__init__()
        self.dpe = dpe
        self.norm1 = norm1
        self.token_mixer = token_mixer
        self.norm2 = norm2
        self.ffn = ffn

    def forward(self, x: Tensor, position_bias: Bias) -> Tensor:
        """Shapes: x (B, C, H, W), position_bias (1, heads, N, M); returns (B, C, H, W)."""
        x = self.dpe(x)
        x = x + self.token_mixer(self.norm1(x), position_bias)
        return x + self.ffn(self.norm2(x))  # type: ignore[no-any-return]


class Scaled(nn.Module):
    """A part that is not known here, followed by its branch's scale."""

    def __init__(self, part: nn.Module, scale: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.scale = scale

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.scale(self.part(*inputs))  # type: ignore[no-any-return]


class BesideIdentity(nn.Module):
    """A part that is not known here, and the identity beside it."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        return x + self.part(x)  # type: ignore[no-any-return]


class FusedSTE(nn.Module):
    """STE and the scale of its branch.

    The identity beside STE is scaled too: ``scale * (x + expand(...)) + shift``, of which the
    convolution holds all but ``scale * x``.

    Args:
        local: Depthwise convolution.
        squeeze: Holds the batch normalisation before it; GELU follows in it.
        expand: Holds the ones before and after it, and the branch's scale and shift.
        identity: Weight of the identity, (C, 1, 1).
    """

    def __init__(self, local: nn.Module, squeeze: nn.Module, expand: nn.Module, identity: nn.Parameter) -> None:
        super().__init__()
        self.local = local
        self.squeeze = squeeze
        self.expand = expand
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        y = self.squeeze(F.gelu(self.local(x)))
        return torch.addcmul(self.expand(y), x, self.identity)


class FusedIDConv(nn.Module):
    """IDConv whose attention sees the pooled map and the mean at once, K * K + 1 places.

    Args:
        kernel_size: K.
        squeeze: First convolution of the attention, with its batch normalisation.
        scores: Second convolution. With two groups it gives the difference of their scores, (C).
        bank: (G, C, K * K + 1): the kernels and, last, the biases.
        form: ``grouped``: one convolution with a group for each channel of each image.
            ``shifted``: K * K shifted products, for runtimes without convolutions of computed weights.
            ``products``: the same with K shifts of rows, a product of matrices and K shifts of columns:
            a seventh of the operations, of which a runtime plans and copies each.
        dynamic_size: Pool by products with matrices made from the map's size, which can be exported
            for all sizes, in place of ``adaptive_avg_pool2d``, which cannot.
    """

    def __init__(
        self, kernel_size: int, squeeze: nn.Conv2d, scores: nn.Conv2d, bank: nn.Parameter, *,
        form: IDConvForm, dynamic_size: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size = kernel_size
        self.squeeze = squeeze
        self.scores = scores
        self.bank = bank
        self.form = form
        self.dynamic_size = dynamic_size

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        pool = pooled_by_products if self.dynamic_size else pooled_adaptively
        pooled = pool(x, self.kernel_size)  # (B, C, K * K + 1)
        mixed = self._mix(self.scores(F.gelu(self.squeeze(pooled.unsqueeze(3)))))  # (B, C, K * K + 1)
        return _CONVOLVE[self.form](x, mixed)

    def _mix(self, scores: Tensor) -> Tensor:
        """Shapes: (B, G * C, K * K + 1, 1), or (B, C, K * K + 1, 1) with two groups, to (B, C, K * K + 1)."""
        groups, channels, places = self.bank.shape
        if groups == 2:  # the softmax of two is the sigmoid of their difference
            return torch.addcmul(self.bank[1], scores.squeeze(3).sigmoid(), self.bank[0] - self.bank[1])
        scores = scores.reshape(-1, groups, channels, places)
        return (scores.softmax(dim=1) * self.bank).sum(dim=1)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, form={self.form!r}, dynamic_size={self.dynamic_size}"


def pooled_adaptively(x: Tensor, size: int) -> Tensor:
    """The means of a map's ``size`` x ``size`` bins and, last, of all. Shapes: (B, C, H, W) to (B, C, size**2 + 1)."""
    bins = F.adaptive_avg_pool2d(x, size).flatten(2)
    return torch.cat((bins, x.mean((2, 3)).unsqueeze(2)), dim=2)


def pooled_by_products(x: Tensor, size: int) -> Tensor:
    """:func:`pooled_adaptively` as a product on either side."""
    rows, columns = (bin_weights(x.shape[axis], size, x) for axis in (2, 3))
    means = rows @ x @ columns.transpose(0, 1)  # (B, C, size + 1, size + 1), with the whole sides last
    return torch.cat((means[:, :, :size, :size].flatten(2), means[:, :, size, size:]), dim=2)


def bin_weights(length: int, bins: int, like: Tensor) -> Tensor:
    """The matrix (bins + 1, length) of adaptive average pooling along one side; the last row takes the whole side."""
    place = torch.arange(length, device=like.device)
    index = torch.arange(bins, device=like.device)[:, None]
    inside = (place >= index * length // bins) & (place < ((index + 1) * length + bins - 1) // bins)
    inside = torch.cat((inside, torch.ones_like(inside[:1])))
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)


def convolve_grouped(x: Tensor, mixed: Tensor) -> Tensor:
    """Shapes: (B, C, H, W) and kernels with biases (B, C, K * K + 1); returns (B, C, H, W)."""
    size = round((mixed.shape[2] - 1) ** 0.5)
    kernel = mixed[:, :, :-1].unflatten(2, (size, size))
    return dynamic_depthwise_conv2d(x, kernel, mixed[:, :, -1])


def convolve_shifted(x: Tensor, mixed: Tensor) -> Tensor:
    """:func:`convolve_grouped` as a sum over the kernel's places."""
    height, width = x.shape[2:]
    size = round((mixed.shape[2] - 1) ** 0.5)
    padded = F.pad(x, [size // 2] * 4)
    weights = mixed.unsqueeze(3).unsqueeze(4).unbind(2)  # K * K + 1 times (B, C, 1, 1)
    y = weights[-1]
    for place in range(size * size):
        row, column = divmod(place, size)
        y = torch.addcmul(y, padded[:, :, row : row + height, column : column + width], weights[place])
    return y


def convolve_products(x: Tensor, mixed: Tensor) -> Tensor:
    """:func:`convolve_grouped` with all rows of a kernel in one product of matrices for each channel."""
    batch, channels, height, width = x.shape
    size = round((mixed.shape[2] - 1) ** 0.5)
    padded = F.pad(x, [size // 2] * 4)
    bands = torch.stack([padded[:, :, row : row + height] for row in range(size)], dim=2)  # (B, C, K, H, W + K - 1)
    kernel = mixed[:, :, :-1].reshape(batch, channels, size, size).transpose(2, 3)  # (B, C, columns, rows)
    columns = (kernel @ bands.flatten(3)).reshape(batch, channels, size, height, width + size - 1)
    y = mixed[:, :, -1, None, None]
    for column in range(size):
        y = y + columns[:, :, column, :, column : column + width]
    return y


_CONVOLVE = {"grouped": convolve_grouped, "shifted": convolve_shifted, "products": convolve_products}


class FusedOSRA(nn.Module):
    """OSRA whose q is scaled already, and whose local refinement contains the identity.

    Args:
        heads: Attention heads.
        q: 1x1 convolution.
        osr: Maps (B, C, H, W) to (B, C, H / S, W / S).
        lr: Depthwise convolution.
        kv: 1x1 convolution to 2C.
    """

    def __init__(self, heads: int, q: nn.Module, osr: nn.Module, lr: nn.Conv2d, kv: nn.Module) -> None:
        super().__init__()
        self.heads = heads
        self.q = q
        self.osr = osr
        self.lr = lr
        self.kv = kv

    def forward(self, x: Tensor, position_bias: Bias) -> Tensor:
        """Shapes: x (B, C, H, W), position_bias (1, heads, N, M); returns (B, C, H, W)."""
        kv = self.kv(self.lr(self.osr(x)))
        return attention(self.q(x), kv, position_bias, self.heads, scale=1.0)


class FusedMSFFN(nn.Module):
    """MS-FFN and the scale of its branch.

    The batch normalisation after ``expand`` stands before padded convolutions: folded into them, its
    shift would be seen outside the map, where the padding has none. It stays, first in ``multi_scale``.

    Args:
        expand: 1x1 convolution to E * C, and GELU.
        multi_scale: The affine map, the depthwise convolutions and the identity beside them.
        project: 1x1 convolution back, with the batch normalisations beside it and the branch's scale.
    """

    def __init__(self, expand: nn.Module, multi_scale: nn.Module, project: nn.Module) -> None:
        super().__init__()
        self.expand = expand
        self.multi_scale = multi_scale
        self.project = project

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        x = self.multi_scale(self.expand(x))  # (B, E * C, H, W)
        return self.project(F.gelu(x))  # type: ignore[no-any-return]


class SplitScales(nn.Module):
    """Each scale on its share of the channels.

    Args:
        channels: Of each share.
        scales: Map (B, channels, H, W) to the same.
    """

    def __init__(self, channels: Sequence[int], scales: Sequence[nn.Module]) -> None:
        super().__init__()
        self.channels = list(channels)
        self.scales = nn.ModuleList(scales)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        parts = torch.split(x, self.channels, dim=1)
        return torch.cat([scale(parts[index]) for index, scale in enumerate(self.scales)], dim=1)


class Pointwise(nn.Module):
    """A 1x1 convolution as a product with a matrix, for maps whose channels lie side by side in memory.

    Args:
        conv: A dense 1x1 convolution; its weights are taken.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach()[:, :, 0, 0].contiguous(), requires_grad=False)
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to (B, C', H, W)."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)
