"""The network computed operation by operation like the released code: the reference for speed.

Batch normalisations, scales and identities are separate operations, the position bias is resized in every
block, attention is written out, and IDConv's attention head is called twice. The modules are copies of a
network's modules with the same weights; only the operations differ.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import transxnet
from transxnet.model import Block, Stage


class Literal(nn.Module):
    """The literal form of a classifier or a backbone, in evaluation mode.

    Args:
        model: Its modules are copied.
    """

    def __init__(self, model: transxnet.TransXNet | transxnet.DenseBackbone) -> None:
        super().__init__()
        self.model: Any = copy.deepcopy(model).eval().requires_grad_(False)
        self.blocks = nn.ModuleList(
            nn.ModuleList(LiteralBlock(block, stage) for block in stage.blocks) for stage in self.model.stage_list
        )

    def forward(self, x: Tensor) -> Any:
        """Shapes: (B, 3, H, W) to (B, classes), or to the backbone's list of maps."""
        model = self.model
        maps = []
        x = model.stem.norm(model.stem.conv(x))
        for index, (stage, blocks) in enumerate(zip(model.stages, self.blocks, strict=True)):
            if index:
                x = stage.downsample.norm(stage.downsample.conv(x))
            for block in blocks:
                x = block(x)
            if isinstance(model, transxnet.DenseBackbone) and index in model.out_indices:
                maps.append(model.norms[str(index)](x))
        return maps if isinstance(model, transxnet.DenseBackbone) else model.head(model.norm(x))


class LiteralBlock(nn.Module):
    """A block that has the stage's position bias to itself."""

    def __init__(self, block: Block, stage: Stage) -> None:
        super().__init__()
        self.block: Any = block
        self.table = stage.position_bias.table  # (1, heads, N, M)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        block = self.block
        x = x + block.dpe(x)
        y = d_mixer(block.token_mixer, block.norm1(x), self.table)
        x = x + (y * block.scale1.weight + block.scale1.bias)
        y = ms_ffn(block.ffn, block.norm2(x))
        return x + (y * block.scale2.weight + block.scale2.bias)


def d_mixer(mixer: Any, x: Tensor, table: Tensor) -> Tensor:
    local, distant = torch.split(x, mixer.channels, dim=1)
    x = torch.cat((idconv(mixer.local_operator, local), osra(mixer.attention, distant, table)), dim=1)
    conv, act, norm = mixer.enhancer.local
    y = norm(act(conv(x)))
    conv, act, norm = mixer.enhancer.squeeze
    y = norm(act(conv(y)))
    conv, norm = mixer.enhancer.expand
    return norm(conv(y)) + x


def idconv(part: Any, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    size, groups = part.kernel_size, part.groups
    scores = part.attention(F.adaptive_avg_pool2d(x, size)).reshape(batch, groups, channels, size, size)
    kernel = (torch.softmax(scores, dim=1) * part.weight.unsqueeze(0)).sum(dim=1).reshape(-1, 1, size, size)
    scores = part.attention(torch.mean(x, dim=[2, 3], keepdim=True)).reshape(batch, groups, channels)
    bias = (torch.softmax(scores, dim=1) * part.bias.unsqueeze(0)).sum(dim=1).flatten()
    x = F.conv2d(x.reshape(1, -1, height, width), weight=kernel, bias=bias, padding=size // 2, groups=batch * channels)
    return x.reshape(batch, channels, height, width)


def osra(part: Any, x: Tensor, table: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    heads = part.heads
    q = part.q(x).reshape(batch, heads, channels // heads, -1).transpose(-1, -2)
    y = part.osr(x)
    y = part.lr(y) + y
    k, v = torch.chunk(part.kv(y), chunks=2, dim=1)
    k = k.reshape(batch, heads, channels // heads, -1)
    v = v.reshape(batch, heads, channels // heads, -1).transpose(-1, -2)
    attention = (q @ k) * (channels // heads) ** -0.5
    if attention.shape[2:] != table.shape[2:]:
        table = F.interpolate(table, size=attention.shape[2:], mode="bicubic", align_corners=False)
    attention = torch.softmax(attention + table, dim=-1)
    return (attention @ v).transpose(-1, -2).reshape(batch, channels, height, width)


def ms_ffn(part: Any, x: Tensor) -> Tensor:
    conv, act, norm = part.expand
    x = norm(act(conv(x)))
    shares = torch.split(x, part.multi_scale.channels, dim=1)
    y = torch.cat([scale(share) for scale, share in zip(part.multi_scale.scales, shares, strict=True)], dim=1)
    x = part.drop(part.norm(part.act(y + x)))
    conv, norm = part.project
    return part.drop(norm(conv(x)))
