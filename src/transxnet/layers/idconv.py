"""Input-dependent Depthwise Convolution: figure 4 (b) and equation 2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.errors import ConfigError
from transxnet.kernels import dynamic_depthwise_conv2d, operators
from transxnet.kernels.cpu.depthwise import KERNEL_SIZES
from transxnet.layers.affine import Kernel, affine_of, fixed_conv
from transxnet.layers.folding import Folding, IDConvForm, has_known_leaves, layers_of
from transxnet.layers.fused_depthwise import takes
from transxnet.layers.norm import BatchNorm2d
from transxnet.layers.registry import BlockSizes, register_local_operator
from transxnet.layers.sequential import GELU, Sequential


class IDConv(nn.Module):
    """A depthwise convolution whose kernel and bias are mixed anew for every image.

    A bank holds G kernels and G biases for each channel; attention over the G groups, computed
    from the image, mixes them. Each of the kernel's K x K positions has attention of its own.

    Args:
        channels: C.
        kernel_size: K, odd.
        groups: G, the attention groups.
        squeeze: Reduction r of the channels inside the attention.
    """

    def __init__(self, channels: int, kernel_size: int = 7, groups: int = 2, squeeze: int = 4) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(groups, channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(groups, channels))
        self.pool = nn.AdaptiveAvgPool2d(kernel_size)
        self.attention = Sequential(
            nn.Conv2d(channels, channels // squeeze, 1, bias=False),
            BatchNorm2d(channels // squeeze),
            GELU(),
            nn.Conv2d(channels // squeeze, groups * channels, 1),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the two banks from a normal distribution of deviation 0.02, truncated at 2."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        kernel = self._mix(self.pool(x), self.weight)  # (B, C, K, K)
        # The attention's batch norm sees the pooled map first and the mean second, one batch each.
        bias = self._mix(x.mean((2, 3), keepdim=True), self.bias[:, :, None, None])  # (B, C, 1, 1)
        return dynamic_depthwise_conv2d(x, kernel, bias.flatten(1))

    def _mix(self, pooled: Tensor, bank: Tensor) -> Tensor:
        """Shapes: pooled (B, C, k, k), bank (G, C, k, k); returns (B, C, k, k)."""
        batch, channels, height, width = pooled.shape
        scores = self.attention(pooled).reshape(batch, self.groups, channels, height, width)
        return (scores.softmax(dim=1) * bank).sum(dim=1)  # type: ignore[no-any-return]

    def folded(self, folding: Folding) -> FusedIDConv | None:
        """As of :mod:`transxnet.layers.folding`."""
        if not has_known_leaves(self):
            return None
        squeeze, norm, _, scores = layers_of(self.attention)
        squeeze = Kernel(squeeze).then(*affine_of(norm)).to_conv()
        if self.groups == 2:
            last = Kernel(scores)
            (weight, other), (bias, other_bias) = last.weight.chunk(2), last.bias.chunk(2)
            scores = fixed_conv(weight - other, bias - other_bias, scores.weight)
        bank = torch.cat((self.weight.flatten(2), self.bias.unsqueeze(2)), dim=2)
        return FusedIDConv(
            self.kernel_size, squeeze, scores, nn.Parameter(bank, requires_grad=False), form=folding.idconv,
            dynamic_size=folding.dynamic_size,
        )  # fmt: skip


class FusedIDConv(nn.Module):
    """IDConv whose attention sees the pooled map and the mean at once, K * K + 1 positions.

    Args:
        kernel_size: K.
        squeeze: First convolution of the attention, with its batch normalisation.
        scores: Second convolution. With two groups it gives the difference of their scores, (C).
        bank: (G, C, K * K + 1): the kernels and, last, the biases.
        form: ``grouped``: one convolution with a group for each channel of each image.
            ``shifted``: K * K shifted products, for runtimes without convolutions of computed weights.
            ``products``: the same with K shifts of rows, a product of matrices and K shifts of columns:
            a seventh of the operations, each of which costs a runtime planning and copies.
        dynamic_size: Pool by products with matrices made from the map's size, which can be exported
            for all sizes; ``adaptive_avg_pool2d`` cannot.
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
        if self.form == "grouped" and self.kernel_size in KERNEL_SIZES and takes(x):
            return self._convolve_on_cuda(x)
        pool = pooled_by_products if self.dynamic_size else pooled_adaptively
        pooled = pool(x, self.kernel_size)  # (B, C, K * K + 1)
        mixed = self._mix(self.scores(F.gelu(self.squeeze(pooled.unsqueeze(3)))))  # (B, C, K * K + 1)
        return _CONVOLVE[self.form](x, mixed)

    def _convolve_on_cuda(self, x: Tensor) -> Tensor:
        """:meth:`forward` in six launches; the kernels have the channels last, and are read as they are."""
        pooled = operators.pooled_positions(x, self.kernel_size)  # (B, K * K + 1, C)
        hidden = F.gelu(F.linear(pooled, self.squeeze.weight.flatten(1), self.squeeze.bias))
        scores = F.linear(hidden, self.scores.weight.flatten(1), self.scores.bias)
        mixed = operators.mixed_kernels(scores, self.bank).transpose(1, 2)  # (B, C, K * K + 1)
        return convolve_grouped(x, mixed)

    def _mix(self, scores: Tensor) -> Tensor:
        """Shapes: (B, G * C, K * K + 1, 1), or (B, C, K * K + 1, 1) with two groups, to (B, C, K * K + 1)."""
        groups, channels, positions = self.bank.shape
        if groups == 2:  # the softmax of two is the sigmoid of their difference
            return torch.addcmul(self.bank[1], scores.squeeze(3).sigmoid(), self.bank[0] - self.bank[1])
        scores = scores.reshape(-1, groups, channels, positions)
        return (scores.softmax(dim=1) * self.bank).sum(dim=1)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, form={self.form!r}, dynamic_size={self.dynamic_size}"


def pooled_adaptively(x: Tensor, size: int) -> Tensor:
    """Means of ``size`` x ``size`` bins and, last, of the map. Shapes: (B, C, H, W) to (B, C, size**2 + 1)."""
    bins = F.adaptive_avg_pool2d(x, size).flatten(2)
    return torch.cat((bins, x.mean((2, 3)).unsqueeze(2)), dim=2)


def pooled_by_products(x: Tensor, size: int) -> Tensor:
    """:func:`pooled_adaptively` by matrix products."""
    rows, columns = (bin_weights(x.shape[axis], size, x) for axis in (2, 3))
    means = rows @ x @ columns.transpose(0, 1)  # (B, C, size + 1, size + 1), with the whole sides last
    return torch.cat((means[:, :, :size, :size].flatten(2), means[:, :, size, size:]), dim=2)


def bin_weights(length: int, bins: int, like: Tensor) -> Tensor:
    """The matrix (bins + 1, length) of adaptive average pooling along one side; the last row takes the whole side."""
    position = torch.arange(length, device=like.device)
    index = torch.arange(bins, device=like.device)[:, None]
    inside = (position >= index * length // bins) & (position < ((index + 1) * length + bins - 1) // bins)
    inside = torch.cat((inside, torch.ones_like(inside[:1])))
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)


def convolve_grouped(x: Tensor, mixed: Tensor) -> Tensor:
    """Shapes: (B, C, H, W) and kernels with biases (B, C, K * K + 1); returns (B, C, H, W)."""
    size = round((mixed.shape[2] - 1) ** 0.5)
    kernel = mixed[:, :, :-1].unflatten(2, (size, size))
    return dynamic_depthwise_conv2d(x, kernel, mixed[:, :, -1])


def convolve_shifted(x: Tensor, mixed: Tensor) -> Tensor:
    """:func:`convolve_grouped` as a sum over the kernel's positions."""
    height, width = x.shape[2:]
    size = round((mixed.shape[2] - 1) ** 0.5)
    padded = F.pad(x, [size // 2] * 4)
    weights = mixed.unsqueeze(3).unsqueeze(4).unbind(2)  # K * K + 1 times (B, C, 1, 1)
    y = weights[-1]
    for index in range(size * size):
        row, column = divmod(index, size)
        y = torch.addcmul(y, padded[:, :, row : row + height, column : column + width], weights[index])
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


def _check(sizes: BlockSizes) -> None:
    if sizes.channels < 4:
        raise ConfigError("IDConv needs at least 4 channels")


@register_local_operator("idconv", check=_check)
def _build(sizes: BlockSizes) -> IDConv:
    return IDConv(sizes.channels, sizes.kernel_size, sizes.attention_groups)
