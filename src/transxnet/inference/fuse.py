"""From a trained network to one that computes the same in fewer operations."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

import torch
from torch import nn

from transxnet.errors import ConfigError
from transxnet.inference.native_stages import make_native
from transxnet.layers import Block, Stage, is_fused
from transxnet.layers.folding import DepthwiseForm, Folding, IDConvForm, PointwiseForm

Network = TypeVar("Network", bound=nn.Module)


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
    softmax scale are folded into the convolutions beside them, in float64. The result is used like
    the given network, but cannot be trained; the given one is not changed.

    Args:
        model: A classifier, backbone, detector or segmenter of this package, or another network
            that contains one. Later changes to its weights have no effect.
        depthwise: MS-FFN's scales as convolutions of their own sizes, each on its channels
            (``split``), or as one of the largest size on all channels (``single``); one for all
            stages or one for each. By default, this and the two choices below are those that were
            fastest for float32 on a CPU (``single``, ``linear``, channels last); on a CUDA device
            ``split``, ``linear``, channels last; elsewhere, and for ``dynamic_size``, the plainest
            (``split``, ``conv``, the model's memory format). Kernels for CUDA devices compute all forms.
        pointwise: 1x1 convolutions as such (``conv``), or as products of matrices (``linear``),
            which PyTorch computes without copies where the channels are last.
        idconv: IDConv as one convolution with a group for each channel of each image
            (``grouped``); as a sum of shifted products (``shifted``), or the same in fewer
            operations (``products``), which ONNX and OpenVINO take with any batch.
        dynamic_size: Pool and resize without asking for the map's size, as an export for many
            sizes needs it.
        channels_last: Keep the weights with the channels last in memory.
        native: Compute stages on a CPU by the package's own kernels: a wheel's, or compiled on first
            use, in some seconds, by the machine's C++ compiler. Converted with ``.to(torch.bfloat16)`` or
            ``.to(torch.float16)``, they store maps so, and compute in float16 where the processor
            can and float32 where float16 lacks range or precision. It makes the choices above.
            Stages with unknown blocks are computed by PyTorch.

    Returns:
        A new network of the same class in evaluation mode. Its attribute ``left`` names the parts
        that do not fold.

    Raises:
        ConfigError: If the model has nothing of this package in it, is fused already, a choice is
            unknown, or there are neither compiled kernels nor a C++ compiler for native ones.
    """
    if native:
        if (depthwise, pointwise, idconv, dynamic_size) != (None, None, "grouped", False):
            raise ConfigError("native kernels leave no choice of depthwise, pointwise, idconv or dynamic_size")
        fused = fuse(model, depthwise="split", pointwise="linear", channels_last=True)
        make_native(fused)
        return fused
    folding = _chosen(model, depthwise, pointwise, idconv, dynamic_size, channels_last)
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        folding.inside(fused)
    fused.left = folding.left  # type: ignore[assignment]
    return fused.to(memory_format=torch.channels_last) if folding.channels_last else fused


def _chosen(
    model: Any,
    depthwise: DepthwiseForm | Sequence[DepthwiseForm] | None,
    pointwise: PointwiseForm | None,
    idconv: IDConvForm,
    dynamic_size: bool,
    channels_last: bool | None,
) -> Folding:
    """The choices with their defaults; raises as :func:`fuse`."""
    on_cpu = _is_float32_on_cpu(model)
    plain = dynamic_size or not (on_cpu or _is_on_cuda(model))
    depthwise = depthwise or ("single" if on_cpu and not plain else "split")
    pointwise = pointwise or ("conv" if plain else "linear")
    channels_last = not plain if channels_last is None else channels_last
    return Folding(_checked(model, depthwise, pointwise, idconv), pointwise, idconv, dynamic_size, channels_last)


def _is_float32_on_cpu(model: Any) -> bool:
    return isinstance(model, nn.Module) and all(
        one.device.type == "cpu" and one.dtype == torch.float32 for one in model.parameters()
    )


def _is_on_cuda(model: Any) -> bool:
    return isinstance(model, nn.Module) and all(one.device.type == "cuda" for one in model.parameters())


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
    if is_fused(model):
        raise ConfigError("the network is fused already; fuse the one that it was made from")
    if Block not in kinds[1:]:
        raise ConfigError(f"fuse takes a network of this package; {type(model).__name__} has no block of one in it")
    stages = max(kinds.count(Stage), 1)
    if len(forms) not in (1, stages):
        raise ConfigError(f"depthwise has {len(forms)} values for {stages} stages; give one for each, or one for all")
    return forms * stages if len(forms) == 1 else forms
