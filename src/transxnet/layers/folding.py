"""How layers take on their form for inference: each says itself what is fixed in it and can be computed beforehand.

A layer that folds has a method ``folded(folding)``, which returns a module that computes the same as the layer
in evaluation mode, or None if it cannot fold as it is. :class:`Folding` walks the network and calls it. A
subclass computes something else, so it does not inherit how its parent folds: it defines a method of its own,
or stays as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from transxnet.kernels.policy import is_triton
from transxnet.layers.affine import Kernel, affine_of, exact
from transxnet.layers.depthwise import DepthwiseConv2d
from transxnet.layers.layer_scale import LayerScale
from transxnet.layers.sequential import GELU

DepthwiseForm = Literal["split", "single"]
PointwiseForm = Literal["conv", "linear"]
IDConvForm = Literal["grouped", "shifted", "products"]


@dataclass
class Folding:
    """A network being folded: the forms that were chosen, and what could not be folded.

    Attributes:
        depthwise: Form of MS-FFN's scales in each stage, as of :func:`transxnet.fuse`.
        pointwise: Form of 1x1 convolutions.
        idconv: Form of IDConv.
        dynamic_size: Pool and resize without asking for the map's size.
        channels_last: Whether maps have their channels last in memory.
        left: Names of the parts that are as they were.
    """

    depthwise: Sequence[DepthwiseForm]
    pointwise: PointwiseForm
    idconv: IDConvForm
    dynamic_size: bool
    channels_last: bool
    left: list[str] = field(default_factory=list, init=False)
    _stage: int = field(default=-1, init=False)
    _path: list[str] = field(default_factory=list, init=False)
    _scale: LayerScale | None = field(default=None, init=False)

    def inside(self, module: nn.Module) -> None:
        """Replace all of a module's descendants that fold."""
        if isinstance(module, nn.Sequential):
            _fold_neighbours(module)
        for name, child in list(module.named_children()):
            with self._at(name):
                form = self._folded(child, None)
                if form is None:
                    self._leave(child)
                elif form is not child:
                    setattr(module, name, form)

    def part(self, module: nn.Module, name: str, scale: LayerScale | None = None) -> nn.Module:
        """The form of a layer's part; one that does not fold is named in ``left``.

        Args:
            module: The part.
            name: Its attribute in the layer.
            scale: Follows the part, which may fold it too, by :meth:`take_scale`.
        """
        with self._at(name):
            form = self._folded(module, scale)
            if form is not None:
                return form
            self.left.append(self._where)
            if not isinstance(module, _BatchNorm):
                self.inside(module)
            return module if scale is None else Scaled(module, scale)

    def branch(self, module: nn.Module, name: str, scale: nn.Module) -> nn.Module:
        """The form of a residual branch: a part, as of :meth:`part`, and the branch's scale."""
        if type(scale) is LayerScale:
            return self.part(module, name, scale)
        if type(scale) is nn.Identity:
            return self.part(module, name)
        with self._at(name):
            self.left.append(f"{self._where}'s scale")
        return Scaled(self.part(module, name), scale)

    def beside_identity(self, module: nn.Module, name: str) -> nn.Module:
        """The form of a part and of the identity beside it: x + part(x)."""
        if has_known_leaves(module, DepthwiseConv2d, nn.Conv2d):
            conv: Any = module
            if conv.groups == conv.in_channels == conv.out_channels:
                return Kernel(conv).beside_identity().to_conv()
        return BesideIdentity(self.part(module, name))

    def take_scale(self) -> LayerScale | None:
        """The scale that follows the layer, for the layer to fold; one that is not taken is applied after it."""
        scale, self._scale = self._scale, None
        return scale

    def take_affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`take_scale` as weight and bias, (C) each in float64, for a kernel (C, C', 1, 1)."""
        scale = self.take_scale()
        if scale is None:
            ones = torch.ones_like(exact(like[:, 0, 0, 0]))
            return ones, torch.zeros_like(ones)
        return exact(scale.weight).flatten(), exact(scale.bias).flatten()

    def to_pointwise(self, kernel: Kernel, *, gelu: bool = False) -> nn.Module:
        """A 1x1 convolution in the chosen form, with GELU after it."""
        conv = kernel.to_conv()
        product = conv if self.pointwise == "conv" else Pointwise(conv)
        return nn.Sequential(product, nn.GELU()) if gelu else product

    def next_stage(self) -> None:
        """Begin a stage, whose form of MS-FFN's scales may be another."""
        self._stage += 1

    @property
    def depthwise_form(self) -> DepthwiseForm:
        """Form of MS-FFN's scales in this stage."""
        return self.depthwise[self._stage]

    @property
    def _where(self) -> str:
        return ".".join(self._path)

    @contextmanager
    def _at(self, name: str) -> Iterator[None]:
        self._path.append(name)
        yield
        self._path.pop()

    def _folded(self, module: Any, scale: LayerScale | None) -> nn.Module | None:
        if "folded" not in vars(type(module)):
            return None
        outer, self._scale = self._scale, scale
        form: nn.Module | None = module.folded(self)
        rest, self._scale = self._scale, outer
        return form if form is None or rest is None else Scaled(form, rest)

    def _leave(self, module: nn.Module) -> None:
        if isinstance(module, _BatchNorm):
            self.left.append(self._where)
        else:
            self.inside(module)


_LEAVES = (nn.Conv2d, DepthwiseConv2d, nn.GELU, GELU, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Identity)


def has_known_leaves(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module contains only layers whose arithmetic is known.

    Another activation, a subclass or a reparametrised convolution computes something else.

    Args:
        module: The module.
        kinds: The types that it may have itself; all if none are given.
    """
    leaves = [one for one in module.modules() if not list(one.children())]
    known = all(type(leaf) in _LEAVES or _is_fixed_norm(leaf) for leaf in leaves)
    exact_gelu = all(leaf.approximate == "none" for leaf in leaves if isinstance(leaf, nn.GELU))
    return known and exact_gelu and (not kinds or type(module) in kinds)


def layers_of(sequence: nn.Sequential) -> tuple[Any, ...]:
    """The layers of a sequence, whose types the caller knows."""
    return tuple(sequence)


def _is_fixed_norm(module: Any) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def _fold_neighbours(sequence: nn.Sequential) -> None:
    """Fold each batch normalisation of a sequence into a convolution that stands right before it."""
    names = list(sequence._modules)
    for before, after in itertools.pairwise(names):
        conv, norm = sequence.get_submodule(before), sequence.get_submodule(after)
        if isinstance(conv, nn.Conv2d) and type(conv) in (nn.Conv2d, DepthwiseConv2d) and _is_fixed_norm(norm):
            setattr(sequence, before, Kernel(conv).then(*affine_of(norm)).to_conv())
            setattr(sequence, after, nn.Identity())


class Pointwise(nn.Module):
    """A 1x1 convolution as a product with a matrix, for maps whose channels are last in memory.

    Args:
        conv: A dense 1x1 convolution; its weights are taken.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach()[:, :, 0, 0].contiguous(), requires_grad=False)
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to (B, C', H, W)."""
        if is_triton(x) and x.ndim == 4:  # a product of two matrices, of a slice of channels too, adds the bias itself
            rows = x.permute(0, 2, 3, 1)
            flat = F.linear(rows.flatten(0, 2), self.weight, self.bias)
            return flat.reshape(*rows.shape[:3], -1).permute(0, 3, 1, 2)
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class Scaled(nn.Module):
    """A part followed by its branch's scale, which the part does not fold."""

    def __init__(self, part: nn.Module, scale: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.scale = scale

    def forward(self, *inputs: Tensor) -> Tensor:
        """Shapes: those of the part."""
        return self.scale(self.part(*inputs))  # type: ignore[no-any-return]


class BesideIdentity(nn.Module):
    """A part that does not fold, and the identity beside it."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) to the same."""
        return x + self.part(x)  # type: ignore[no-any-return]
