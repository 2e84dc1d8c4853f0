"""A block of figure 3."""

from __future__ import annotations

from typing import Any, Self, cast

import timm.layers
import torch
from timm.layers import drop_path
from timm.models import register_notrace_module
from torch import Tensor, nn

from transxnet import kernels
from transxnet.kernels import Bias
from transxnet.layers.depthwise import residual
from transxnet.layers.folding import Folding
from transxnet.layers.fused_depthwise import convolved
from transxnet.layers.layer_scale import LayerScale
from transxnet.layers.norm import group_norm
from transxnet.layers.sequential import is_plain


@register_notrace_module
class DropPath(timm.layers.DropPath):
    """Stochastic depth, whose rate is a tensor in compiled networks: blocks with different rates share one graph.

    Args:
        rate: Probability of leaving a branch out, for each image in training.
    """

    kept: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.register_buffer("kept", torch.tensor(1.0, dtype=torch.float32), persistent=False)
        self.drop_prob = rate

    @property
    def drop_prob(self) -> float:
        """The rate."""
        return self._rate

    @drop_prob.setter
    def drop_prob(self, rate: float) -> None:
        self._rate = rate
        if "kept" in self._buffers:
            self.kept.fill_(1.0 - rate)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.kept = torch.full_like(self.kept, 1.0 - self._rate, dtype=torch.float32)  # exact, also from no values
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, ...) to the same."""
        if not self.training:
            return x
        if torch.compiler.is_compiling():
            return x * self.factors(x).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return cast(Tensor, drop_path(x, self.drop_prob, True, self.scale_by_keep))

    def factors(self, x: Tensor) -> Tensor:
        """Random factors (B) of a branch (B, ...): 0, or the reciprocal of the probability of keeping it."""
        kept = self.kept.float()
        return torch.bernoulli(kept.expand(len(x))) / kept


class Block(nn.Module):
    """Position encoding, token mixer and feed-forward network, each beside the identity.

    Args:
        channels: C.
        token_mixer: Maps (B, C, H, W) and the stage's position bias to (B, C, H, W).
        ffn: Maps (B, C, H, W) to the same.
        position_encoding: Maps (B, C, H, W) to the same: DPE; None leaves it out.
        drop_path: Probability of leaving a branch out, for each image in training.
        layer_scale_init: Initial weight of the branches' scales; None leaves them out.
    """

    def __init__(
        self,
        channels: int,
        *,
        token_mixer: nn.Module,
        ffn: nn.Module,
        position_encoding: nn.Module | None,
        drop_path: float = 0.0,
        layer_scale_init: float | None = 1e-5,
    ) -> None:
        super().__init__()
        self.dpe = position_encoding  # dynamic position encoding
        self.norm1 = group_norm(channels)
        self.token_mixer = token_mixer
        self.scale1 = _scale(channels, layer_scale_init)
        self.norm2 = group_norm(channels)
        self.ffn = ffn
        self.scale2 = _scale(channels, layer_scale_init)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, position_bias: Bias | None) -> Tensor:
        """Shapes: x (B, C, H, W), position_bias (1, heads, N, M); returns (B, C, H, W)."""
        if self.dpe is not None:
            x = residual(x, self.dpe)
        x = self._sum(x, self.token_mixer(self.norm1(x), position_bias), self.scale1)
        return self._sum(x, self.ffn(self.norm2(x)), self.scale2)

    def _sum(self, x: Tensor, branch: Tensor, scale: nn.Module) -> Tensor:
        """X + drop_path(scale(branch)), one operator on CUDA devices."""
        drop = self.drop_path
        if not (_is_on_cuda(x) and _is_known(scale) and isinstance(drop, DropPath) and is_plain(drop, DropPath)):
            return x + drop(scale(branch))  # type: ignore[no-any-return]
        weight, bias = (scale.weight, scale.bias) if isinstance(scale, LayerScale) else (None, None)
        drops = drop.training and (torch.compiler.is_compiling() or drop.drop_prob > 0)
        return kernels.residual(x, branch, weight, bias, drop.factors(branch) if drops else None)

    def folded(self, folding: Folding) -> FusedBlock:
        """As of :mod:`transxnet.layers.folding`; parts that do not fold are named and stay."""
        return FusedBlock(
            nn.Identity() if self.dpe is None else folding.beside_identity(self.dpe, "dpe"),
            self.norm1,
            folding.branch(self.token_mixer, "token_mixer", self.scale1),
            self.norm2,
            folding.branch(self.ffn, "ffn", self.scale2),
        )


def _is_on_cuda(x: Tensor) -> bool:
    return kernels.is_for_cuda(x) and kernels.is_native(x)


def _is_known(scale: nn.Module) -> bool:
    return any(type(scale) is kind and is_plain(scale, kind) for kind in (nn.Identity, LayerScale))


def _scale(channels: int, init: float | None) -> nn.Module:
    return nn.Identity() if init is None else LayerScale(channels, init)


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
        x = convolved(self.dpe, x)
        x = x + self.token_mixer(self.norm1(x), position_bias)
        return x + self.ffn(self.norm2(x))  # type: ignore[no-any-return]
