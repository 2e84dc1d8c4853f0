"""From a trained network to one that computes the same in fewer operations."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from transxnet.errors import ConfigError
from transxnet.inference.folding import Affine, Kernel, affine_of, constant, exact, fixed_conv
from transxnet.inference.fused_layers import (
    BesideIdentity,
    FusedBlock,
    FusedIDConv,
    FusedMSFFN,
    FusedOSRA,
    FusedSTE,
    IDConvForm,
    Pointwise,
    Scaled,
    SplitScales,
)
from transxnet.inference.native_stages import make_native
from transxnet.layers import (
    GELU,
    MSFFN,
    OSRA,
    STE,
    DepthwiseConv2d,
    DMixer,
    IDConv,
    LayerScale,
    MultiScaleConv,
    PositionBias,
)
from transxnet.model import Block, PatchEmbed, Stage, is_fused

Network = TypeVar("Network", bound=nn.Module)
DepthwiseForm = Literal["split", "single"]
PointwiseForm = Literal["conv", "linear"]


def fuse(
    model: Network,
    *,
    depthwise: DepthwiseForm | Sequence[DepthwiseForm] | None = None,
    pointwise: PointwiseForm | None = None,
    idconv: IDConvForm = "grouped",
    dynamic_size: bool = False,
    channels_last: bool | None = None,
    native: bool = False,
) -> Network:
    """A network for inference that computes what ``model`` computes in evaluation mode, to rounding.

    Batch normalisations, the branches' scales, the identities beside depthwise convolutions and the
    softmax scale are folded into the convolutions beside them, in float64. The result is used as
    the given network is, but cannot be trained; the given one is left as it was.

    Args:
        model: A classifier, backbone, detector or segmenter of this package, or another network
            that contains one. Its weights are read now; later changes to them are not seen.
        depthwise: MS-FFN's scales as convolutions of their own sizes, each on its channels
            (``split``), or as one of the largest size on all channels (``single``); one for all
            stages or one for each. Not given, this and the two choices below are what was fastest
            for float32 on a CPU (``single``, ``linear``, channels last); elsewhere, and for
            ``dynamic_size``, they are the plainest (``split``, ``conv``, as the model has it).
        pointwise: 1x1 convolutions as such (``conv``), or as products of matrices (``linear``),
            which PyTorch computes without copies where the channels are last.
        idconv: IDConv as one convolution with a group for each channel of each image
            (``grouped``); as a sum of shifted products (``shifted``), or the same in fewer
            operations (``products``), which ONNX and OpenVINO take with any batch.
        dynamic_size: Pool and resize without asking for the map's size, as an export for many
            sizes needs it.
        channels_last: Keep the weights with the channels last in memory.
        native: Compute stages on a CPU by kernels of our own, which the first use compiles in
            some seconds with the machine's C++ compiler. Converted with ``.to(torch.bfloat16)`` or
            ``.to(torch.float16)``, they store maps so, and compute in float16 where the processor
            can and float32 where that has not the digits. The choices above are made by it.
            Stages with blocks that are not all known are computed by PyTorch.

    Returns:
        A new network of the same class in evaluation mode. Its attribute ``left`` names the parts
        that were not known and are as they were.

    Raises:
        ConfigError: If the model has nothing of this package in it, is fused already, a choice is
            unknown, or there is no compiler for native kernels.
    """
    if native:
        if (depthwise, pointwise, idconv, dynamic_size) != (None, None, "grouped", False):
            raise ConfigError("native kernels leave no choice of depthwise, pointwise, idconv or dynamic_size")
        fused = fuse(model, depthwise="split", pointwise="linear", channels_last=True)
        make_native(fused)
        return fused
    plain = dynamic_size or not _is_float32_on_cpu(model)
    depthwise = depthwise or ("split" if plain else "single")
    pointwise = pointwise or ("conv" if plain else "linear")
    channels_last = not plain if channels_last is None else channels_last
    forms = _checked(model, depthwise, pointwise, idconv)
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    fusing = _Fusing(forms, pointwise, idconv, dynamic_size, channels_last)
    with torch.no_grad():
        fusing.inside(fused, "")
    fused.left = fusing.left  # type: ignore[assignment]
    return fused.to(memory_format=torch.channels_last) if channels_last else fused


def _is_float32_on_cpu(model: Any) -> bool:
    return isinstance(model, nn.Module) and all(
        one.device.type == "cpu" and one.dtype == torch.float32 for one in model.parameters()
    )


def _checked(model: Any, depthwise: Any, pointwise: str, idconv: str) -> Sequence[DepthwiseForm]:
    """MS-FFN's form for each stage; raises as :func:`fuse`."""
    forms = (depthwise,) if isinstance(depthwise, str) else tuple(depthwise)
    for name, values, choices in (
        ("depthwise", forms, DepthwiseForm),
        ("pointwise", (pointwise,), PointwiseForm),
        ("idconv", (idconv,), IDConvForm),
    ):
        for value in values:
            if value not in get_args(choices):
                raise ConfigError(f"{name} is one of {', '.join(get_args(choices))}, not {value!r}")
    if not isinstance(model, nn.Module):
        raise ConfigError(f"fuse takes a network, not {type(model).__name__}")
    kinds = [type(module) for module in model.modules()]
    if is_fused(model) or FusedBlock in kinds:
        raise ConfigError("the network is fused already; fuse the one that it was made from")
    if Block not in kinds[1:]:
        raise ConfigError(f"fuse takes a network of this package; {type(model).__name__} has no block of one in it")
    stages = max(kinds.count(Stage), 1)
    if len(forms) not in (1, stages):
        raise ConfigError(f"depthwise has {len(forms)} values for {stages} stages; give one for each, or one for all")
    return forms * stages if len(forms) == 1 else forms


@dataclass
class _Fusing:
    """Walks a network and puts fused parts in the place of those it knows.

    A part is known by its exact type; the others, an ablation's for example, stay.
    """

    depthwise: Sequence[DepthwiseForm]  # of each stage
    pointwise: PointwiseForm
    idconv: IDConvForm
    dynamic_size: bool
    channels_last: bool
    stage: int = -1
    left: list[str] = field(default_factory=list)

    def inside(self, module: nn.Module, path: str) -> None:
        """Replace what is known among a module's descendants; ``path`` is its name with a dot after it."""
        if isinstance(module, nn.Sequential):
            _fold_neighbours(module)
        child: Any
        for name, child in module.named_children():
            where = path + name
            if type(child) is Block:
                setattr(module, name, self.block(child, where + "."))
            elif _is(child, PatchEmbed) and isinstance(child.norm, _BatchNorm):
                child.conv = Kernel(child.conv).then(*affine_of(child.norm)).to_conv()
                child.norm = nn.Identity()
            elif isinstance(child, _BatchNorm):
                self.left.append(where)
            else:
                if type(child) is Stage:
                    self.stage += 1
                    child.grad_checkpointing = False
                    child.fused = True
                elif isinstance(child, PositionBias):
                    child.dynamic_size = self.dynamic_size
                self.inside(child, where + ".")

    def block(self, block: Block, path: str) -> FusedBlock:
        return FusedBlock(
            self.position_encoding(block.dpe, path + "dpe"),
            block.norm1,
            self.branch(self.token_mixer, block.token_mixer, block.scale1, path + "token_mixer"),
            block.norm2,
            self.branch(self.ffn, block.ffn, block.scale2, path + "ffn"),
        )

    def branch(self, fusing: Callable[..., nn.Module], part: nn.Module, scale: nn.Module, path: str) -> nn.Module:
        if type(scale) in (LayerScale, nn.Identity):
            return fusing(part, scale, path)
        self.left.append(f"{path}'s scale")
        return Scaled(fusing(part, nn.Identity(), path), scale)

    def position_encoding(self, dpe: Any, path: str) -> nn.Module:
        if dpe is None:
            return nn.Identity()
        if (_is(dpe, DepthwiseConv2d) or _is(dpe, nn.Conv2d)) and dpe.groups == dpe.in_channels == dpe.out_channels:
            return Kernel(dpe).beside_identity().to_conv()
        return BesideIdentity(self.unknown(dpe, None, path))

    def token_mixer(self, mixer: nn.Module, scale: nn.Module, path: str) -> nn.Module:
        if type(mixer) is not DMixer:
            return self.unknown(mixer, scale, path)
        mixer.local_operator = self.local_operator(mixer.local_operator, path + ".local_operator")
        mixer.attention = self.attention(mixer.attention, path + ".attention")
        mixer.enhancer = self.enhancer(mixer.enhancer, scale, path + ".enhancer")
        return mixer

    def unknown(self, part: nn.Module, scale: nn.Module | None, path: str) -> nn.Module:
        """A part that stays, but for the known ones inside it."""
        self.left.append(path)
        if isinstance(part, _BatchNorm):
            return part
        self.inside(part, path + ".")
        return part if scale is None or isinstance(scale, nn.Identity) else Scaled(part, scale)

    def pointwise_of(self, kernel: Kernel, *, gelu: bool = False) -> nn.Module:
        conv = kernel.to_conv()
        product = conv if self.pointwise == "conv" else Pointwise(conv)
        return nn.Sequential(product, nn.GELU()) if gelu else product

    def enhancer(self, ste: Any, scale: nn.Module, path: str) -> nn.Module:
        if not _is(ste, STE):
            return self.unknown(ste, scale, path)
        local, _, first = ste.local
        squeeze, _, second = ste.squeeze
        expand, third = ste.expand
        weight, bias = _scale_and_shift(scale, len(expand.weight), like=expand.weight)
        kernel = Kernel(expand).after(*affine_of(second)).then(*affine_of(third)).then(weight, bias)
        return FusedSTE(
            Kernel(local).to_conv(),
            self.pointwise_of(Kernel(squeeze).after(*affine_of(first)), gelu=True),
            self.pointwise_of(kernel),
            constant(weight[:, None, None], expand.weight),
        )

    def local_operator(self, idconv: Any, path: str) -> nn.Module:
        if not _is(idconv, IDConv):
            return self.unknown(idconv, None, path)
        squeeze, norm, _, scores = idconv.attention
        squeeze = Kernel(squeeze).then(*affine_of(norm)).to_conv()
        last = Kernel(scores)
        if idconv.groups == 2:
            (weight, other), (bias, other_bias) = last.weight.chunk(2), last.bias.chunk(2)
            scores = fixed_conv(weight - other, bias - other_bias, scores.weight)
        bank = torch.cat((idconv.weight.flatten(2), idconv.bias.unsqueeze(2)), dim=2)
        return FusedIDConv(
            idconv.kernel_size, squeeze, scores, nn.Parameter(bank, requires_grad=False),
            form=self.idconv, dynamic_size=self.dynamic_size,
        )  # fmt: skip

    def attention(self, osra: Any, path: str) -> nn.Module:
        if not _is(osra, OSRA):
            return self.unknown(osra, None, path)
        channels = osra.q.out_channels
        q = Kernel(osra.q)
        q.then(torch.full_like(q.bias, (channels // osra.heads) ** -0.5))
        osr = osra.osr
        if not isinstance(osr, nn.Identity):
            spread, first, act, pointwise, second = osr
            # A padded convolution comes next: the affine map stays (see FusedMSFFN).
            kernel = Kernel(pointwise).then(*affine_of(second))
            affine = Affine(kernel.weight.flatten(), kernel.bias, pointwise.weight, self.channels_last)
            osr = nn.Sequential(Kernel(spread).then(*affine_of(first)).to_conv(), act, affine)
        return FusedOSRA(
            osra.heads,
            self.pointwise_of(q),
            osr,
            Kernel(osra.lr).beside_identity().to_conv(),
            self.pointwise_of(Kernel(osra.kv)),
        )

    def ffn(self, ffn: Any, scale: nn.Module, path: str) -> nn.Module:
        if not _is(ffn, MSFFN) or not _is(ffn.multi_scale, MultiScaleConv):
            return self.unknown(ffn, scale, path)
        expand, _, before = ffn.expand
        project, after = ffn.project
        kernel = Kernel(project).after(*affine_of(ffn.norm)).then(*affine_of(after))
        kernel = kernel.then(*_scale_and_shift(scale, len(project.weight), like=project.weight))
        convs = [Kernel(conv).beside_identity() for conv in ffn.multi_scale.scales]
        shares = ffn.multi_scale.channels
        if self.depthwise[self.stage] == "split":
            affine, multi_scale = _split(convs, shares, *affine_of(before))
        else:
            affine, multi_scale = affine_of(before), _single(convs)
        multi_scale = nn.Sequential(Affine(*affine, project.weight, self.channels_last), multi_scale)
        return FusedMSFFN(self.pointwise_of(Kernel(expand), gelu=True), multi_scale, self.pointwise_of(kernel))


def _is(part: Any, kind: type) -> bool:
    """Whether a part is exactly of a kind, and made of what that kind is made of.

    A subclass, another activation or a reparametrised convolution computes something else.
    """
    return type(part) is kind and _is_plain(part)


def _is_plain(part: Any) -> bool:
    leaves = [module for module in part.modules() if not list(module.children())]
    plain = all(type(leaf) in _LEAVES or _is_fixed_norm(leaf) for leaf in leaves)
    return plain and all(leaf.approximate == "none" for leaf in leaves if isinstance(leaf, nn.GELU))


_LEAVES = (nn.Conv2d, DepthwiseConv2d, nn.GELU, GELU, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Identity)


def _is_fixed_norm(module: Any) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def _split(
    kernels: list[Kernel], shares: list[int], scale: Tensor, shift: Tensor
) -> tuple[tuple[Tensor, Tensor], nn.Module]:
    """The affine map before the scales, and the scales. A 1x1 kernel pads nothing: the affine map does it too."""
    maps, scales = [], list[nn.Module]()
    for kernel, weight, bias in zip(kernels, scale.split(shares), shift.split(shares), strict=True):
        if kernel.weight.shape[-1] == 1:
            factor = kernel.weight.flatten()
            maps.append((factor * weight, factor * bias + kernel.bias))
            scales.append(nn.Identity())
        else:
            maps.append((weight, bias))
            scales.append(kernel.to_conv())
    weights, biases = zip(*maps, strict=True)
    return (torch.cat(weights), torch.cat(biases)), SplitScales(shares, scales)


def _single(kernels: list[Kernel]) -> nn.Module:
    size = max(kernel.weight.shape[-1] for kernel in kernels)
    weight = torch.cat([kernel.grown(size) for kernel in kernels])
    bias = torch.cat([kernel.bias for kernel in kernels])
    return fixed_conv(weight, bias, kernels[0].conv.weight, groups=len(weight))


def _scale_and_shift(scale: nn.Module, channels: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """What a branch's scale does, (C) each, in float64."""
    if isinstance(scale, LayerScale):
        return exact(scale.weight).flatten(), exact(scale.bias).flatten()
    ones = torch.ones_like(exact(like[:channels, 0, 0, 0]))
    return ones, torch.zeros_like(ones)


def _fold_neighbours(sequence: nn.Sequential) -> None:
    """Fold each batch normalisation of a sequence into a convolution that stands right before it."""
    names = list(sequence._modules)
    for before, after in itertools.pairwise(names):
        conv, norm = sequence._modules[before], sequence._modules[after]
        if isinstance(conv, nn.Conv2d) and type(conv) in (nn.Conv2d, DepthwiseConv2d) and _is_fixed_norm(norm):
            setattr(sequence, before, Kernel(conv).then(*affine_of(norm)).to_conv())
            setattr(sequence, after, nn.Identity())
