"""Whole networks by the kernels for CUDA devices, by Triton's interpreter, and as compiled graphs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import transxnet
from helpers.cuda_device import DEVICE
from helpers.networks import assert_same, first_stages, images, nano, relative
from transxnet import kernels

pytest.importorskip("triton")


def batch(side: int = 32) -> Tensor:
    return images(2, 3, side, side).to(DEVICE).contiguous(memory_format=torch.channels_last)


def small() -> Any:
    return nano(depths=(1, 1, 1, 1), img_size=32).to(memory_format=torch.channels_last).to(DEVICE)


def trained(policy: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients in training, of the images too."""
    model, x = small().train(), batch().requires_grad_()
    with kernels.use(policy):
        y = model(x)
        (y * torch.arange(y.numel(), device=DEVICE).view_as(y).cos()).sum().backward()
    return y.detach(), {"images": x.grad, **{name: one.grad for name, one in model.named_parameters()}}


@pytest.mark.slow
def test_a_network_trains_the_same_by_the_kernels() -> None:
    (found, gradients), (expected, others) = trained("triton"), trained("reference")
    assert_same(found, expected, 2e-5)
    largest = max(float(one.abs().max()) for one in others.values())
    for name, one in others.items():
        assert (gradients[name] - one).abs().max() <= 2e-3 * largest, name


@pytest.mark.slow
def test_a_fused_network_computes_the_same_by_the_kernels() -> None:
    """In bfloat16 its error is at most 1.2 times that of PyTorch's operations."""
    model, x = small(), batch()
    fused = transxnet.fuse(model, depthwise="split", pointwise="linear", channels_last=True)
    with torch.inference_mode():
        with kernels.use("reference"):
            expected = model(x)
            of_pytorch = copy.deepcopy(model).to(torch.bfloat16)(x.bfloat16())
        with kernels.use("triton"):
            assert_same(fused(x), expected, 2e-5)
            half = fused.to(torch.bfloat16)(x.bfloat16())
    assert relative(half, expected) <= 1.2 * relative(of_pytorch, expected)


@pytest.mark.parametrize(
    "form",
    [pytest.param("evaluation", marks=pytest.mark.slow), "training", pytest.param("fused", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", ["transxnet_nano", pytest.param("transxnet_tiny", marks=pytest.mark.slow)])
def test_a_network_is_one_graph(name: str, form: str) -> None:
    """With the package's operators in it."""
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        """Keep the graph; it is not computed, which is slow."""
        graphs.append(graph)
        output = next(node for node in graph.graph.nodes if node.op == "output").args[0]
        return lambda *_: tree_map(
            lambda node: torch.zeros(node.meta["example_value"].shape, device=DEVICE), tuple(output)
        )

    small = first_stages(2) if name == "transxnet_nano" else {}
    model: Any = transxnet.create_model(name, img_size=64, **small).to(DEVICE).train(form == "training")
    if form == "fused":
        model = transxnet.fuse(model, depthwise="split", pointwise="linear", channels_last=True)
    torch._dynamo.reset()
    with kernels.use("triton"), torch.set_grad_enabled(form == "training"):
        compiled: Any = torch.compile(model, fullgraph=True, backend=backend)
        compiled(batch(64))
    assert len(graphs) == 1
    names = {str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"}
    ours = {name.split(".")[1] for name in names if name.startswith("transxnet.")}
    wanted = {"evaluation": {"depthwise_conv2d", "attention"}, "training": {"depthwise_conv2d", "batch_norm"},
              "fused": {"multi_scale_conv2d", "filtered_conv2d"}}  # fmt: skip
    assert wanted[form] <= ours, ours
