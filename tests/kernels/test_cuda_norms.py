"""Normalisation and residual sums by the kernels for CUDA devices, which Triton's interpreter runs, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.cuda_device import DEVICE
from helpers.networks import assert_same, first_stages, images, nano
from transxnet import kernels
from transxnet.layers import BatchNorm2d, Block
from transxnet.layers.block import DropPath

QUICK = ("test_schema", "test_autograd_registration", "test_faketensor")
TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def random(*shape: int, dtype: torch.dtype = torch.float32, mean: float = 0.0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) + mean
    x = x.to(DEVICE)
    return (x.to(dtype).contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x).requires_grad_()


def doubles(*given: Tensor) -> list[Tensor]:
    return [one.detach().double().requires_grad_() for one in given]


def normalised(x: Tensor, weight: Tensor, bias: Tensor, running: list[Tensor], order: Any) -> Tensor:
    return kernels.batch_norm(x, weight, bias, running[0], running[1], momentum=0.1, eps=1e-5, gelu=order)


@pytest.mark.parametrize(
    ("shape", "order", "dtype", "mean"),
    [
        ((2, 6, 5, 4), "none", torch.float32, 0.0),
        ((3, 7, 13, 11), "before", torch.float32, 0.0),
        ((1, 70, 5, 3), "after", torch.float32, 0.0),
        ((2, 5, 20, 25), "none", torch.float32, 1e4),
        ((5, 16, 1, 1), "before", torch.float32, 0.0),
        ((2, 24, 7, 7), "before", torch.bfloat16, 3.0),
        ((2, 24, 7, 7), "after", torch.bfloat16, 0.0),
        ((2, 96, 3, 3), "none", torch.float16, 0.0),
    ],
)
def test_batch_normalisation(shape: Any, order: Any, dtype: torch.dtype, mean: float) -> None:
    """Of a whole map and of a share of a map's channels, which is not copied."""
    channels = shape[1]
    whole = random(shape[0], 2 * channels, *shape[2:], dtype=dtype, mean=mean)
    weight, bias, running = (
        random(channels),
        random(channels),
        [one.detach() for one in (random(channels), random(channels).square())],
    )
    for x in (random(*shape, dtype=dtype, mean=mean), whole[:, channels:].detach().requires_grad_()):
        exact, statistics = doubles(x, weight, bias), [one.double() for one in running]
        found = [one.clone() for one in running]
        with kernels.use("triton"):
            y = normalised(x, weight, bias, found, order)
            gradient = random(*reversed(shape)).detach().permute(3, 2, 1, 0).to(dtype)
            gradients = torch.autograd.grad(y, (x, weight, bias), gradient)
        with kernels.use("reference"):
            expected = normalised(exact[0], exact[1], exact[2], statistics, order)
        wanted = torch.autograd.grad(expected, exact, gradient.double())
        assert y.dtype == gradients[0].dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert_same(y, expected, TOLERANCES[dtype])
        assert_same(found, statistics, 1e-6)
        assert_same(gradients[0], wanted[0], TOLERANCES[dtype])
        assert_same(gradients[1:], wanted[1:], 2e-6)


def test_a_single_value_is_normalised_by_the_running_statistics() -> None:
    norm, x = BatchNorm2d(6).to(DEVICE).train(), random(1, 6, 1, 1)
    with kernels.use("triton"):
        assert torch.equal(norm(x), norm.eval()(x))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("scaled", "kept"), [(True, True), (True, False), (False, True), (False, False)])
def test_residual_sums(dtype: torch.dtype, scaled: bool, kept: bool) -> None:
    x, branch = random(3, 7, 5, 4, dtype=dtype), random(3, 14, 4, 5, dtype=dtype)[:, 7:].transpose(2, 3)
    branch = branch.detach().requires_grad_()
    parts: Any = [random(7, 1, 1), random(7, 1, 1).detach().flip(0).requires_grad_()] if scaled else []
    keep = torch.tensor([0.0, 1.25, 1.25], device=DEVICE) if kept else None
    exact: Any = doubles(x, branch, *parts)
    gradient = random(4, 5, 7, 3).detach().permute(3, 2, 1, 0).to(dtype)
    weight, bias = parts or (None, None)
    scale, shift = exact[2:] or (None, None)
    with kernels.use("triton"):
        y = kernels.residual(x, branch, weight, bias, keep)
        gradients = torch.autograd.grad(y, (x, branch, *parts), gradient)
    with kernels.use("reference"):
        expected = kernels.residual(exact[0], exact[1], scale, shift, None if keep is None else keep.double())
    wanted = torch.autograd.grad(expected, exact, gradient.double())
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert_same(y, expected, TOLERANCES[dtype])
    assert_same(gradients[:2], wanted[:2], TOLERANCES[dtype])
    assert_same(gradients[2:], wanted[2:], 2e-6)


@pytest.mark.parametrize(
    ("shape", "dtype", "mean"),
    [
        ((2, 6, 5, 4), torch.float32, 0.0),
        ((1, 70, 1, 1), torch.float32, 0.0),
        ((3, 5, 21, 25), torch.float32, 1e4),
        ((2, 48, 7, 7), torch.bfloat16, 3.0),
        ((2, 96, 3, 3), torch.float16, 0.0),
    ],
)
def test_normalisation_of_images(shape: Any, dtype: torch.dtype, mean: float) -> None:
    """Of a whole map, a share of a map's channels, and a map with the channels first."""
    channels = shape[1]
    x, weight, bias = random(*shape, dtype=dtype, mean=mean).detach(), random(channels), random(channels)
    layouts = (x, torch.cat((x, x), dim=1)[:, channels:], x.contiguous())
    gradient = random(*reversed(shape)).detach().permute(3, 2, 1, 0).to(dtype)
    for given in (one.detach().requires_grad_() for one in layouts):
        exact = doubles(given, weight, bias)
        with kernels.use("triton"):
            y = kernels.group_norm(given, weight, bias, 1e-5)
            gradients = torch.autograd.grad(y, (given, weight, bias), gradient)
        expected = F.group_norm(exact[0], 1, exact[1], exact[2])
        wanted = torch.autograd.grad(expected, exact, gradient.double())
        assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
        assert_same(y, expected, TOLERANCES[dtype])
        assert_same(gradients[0], wanted[0], TOLERANCES[dtype])
        assert_same(gradients[1:], wanted[1:], 2e-6)


def operators(dtype: torch.dtype = torch.float32) -> Any:
    """Names and arguments."""
    x, weight, bias = random(2, 6, 3, 2, dtype=dtype), random(6), random(6).detach().flip(0).requires_grad_()
    running = [torch.zeros(6, device=DEVICE), torch.ones(6, device=DEVICE)]
    per_channel = [one.detach().reshape(6, 1, 1).requires_grad_() for one in (weight, bias)]
    yield "batch_norm", (x, weight, bias, *running, 0.1, 1e-5, "after")
    yield "group_norm", (x, weight, bias, 1e-5)
    yield "residual", (x, random(2, 6, 3, 2, dtype=dtype), *per_channel, torch.tensor([0.0, 2.0], device=DEVICE))
    yield "residual", (x, random(2, 6, 3, 2, dtype=dtype), None, None, None)


@pytest.mark.parametrize(
    "utilities", [QUICK, pytest.param(("test_aot_dispatch_dynamic",), marks=pytest.mark.slow)], ids=["quick", "traced"]
)
@pytest.mark.parametrize("policy", ["triton", "reference"])
def test_operators_are_what_pytorch_expects(policy: Any, utilities: tuple[str, ...]) -> None:
    """By the kernels, and without them."""
    with kernels.use(policy):
        for name, given in operators():
            torch.library.opcheck(getattr(torch.ops.transxnet, name).default, given, test_utils=utilities)


def test_operators_without_kernels_compute_the_same() -> None:
    for name, given in operators():
        leaves = [one for one in given if isinstance(one, Tensor) and one.requires_grad]
        results = []
        for policy in ("triton", "reference"):
            with kernels.use(policy):
                y = getattr(torch.ops.transxnet, name).default(*given)
                y = y[0] if isinstance(y, tuple) else y
                results.append([y, *torch.autograd.grad((y * y.detach().cos()).sum(), leaves)])
        assert_same(results[0], results[1])


def test_blocks_with_different_rates_share_a_compiled_graph() -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model = nano(**first_stages(1, depths=(3,), drop_path_rate=0.4)).train()
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        block.compile(dynamic=False, fullgraph=True, backend=backend)
    model(images(2, 3, 32, 32))
    assert len(blocks) == 3 and len(graphs) == 1


@pytest.mark.slow
def test_a_block_computes_the_same_by_the_kernels() -> None:
    """In evaluation, and with gradients in training."""
    x = images(2, 3, 32, 32).to(DEVICE)
    model = nano(**first_stages(1)).to(DEVICE)
    expected = model(x)
    with kernels.use("triton"):
        assert_same(model(x), expected, 1e-5)
        model.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_stochastic_depth_keeps_the_branches_mean() -> None:
    drop = DropPath(0.25)
    factors = drop.factors(torch.empty(4000, 1))
    assert factors.unique().tolist() == pytest.approx([0, 4 / 3])
    assert factors.mean() == pytest.approx(1.0, abs=0.05)
    drop.drop_prob = 0.5
    assert drop.factors(torch.empty(100, 1)).unique().tolist() == [0, 2]
