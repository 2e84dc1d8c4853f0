"""Native kernels in training: the same outputs, gradients and running statistics as PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.networks import assert_same
from transxnet.kernels import FactoredBias, GELUOrder, attend, attention, dynamic_depthwise_conv2d, use
from transxnet.layers import GELU, BatchNorm2d, LayerScale, MultiScaleConv, Sequential
from transxnet.layers.depthwise import residual

MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda x: x,
    "large": lambda x: x + 1e3,
    "constant": lambda x: torch.full_like(x, 333.3),
    "tiny": lambda x: 1e-4 * x + 0.1,
    "bordered": lambda x: F.pad(x[..., 1:-1, 1:-1], (1, 1, 1, 1), value=1e3),
    "mixed": lambda x: x * torch.logspace(-3, 3, x.shape[1]).reshape(-1, 1, 1).to(x),
}


def layer(channels: int, **settings: Any) -> BatchNorm2d:
    norm = BatchNorm2d(channels, **settings)
    with torch.no_grad():
        for part in (norm.weight, norm.bias, norm.running_mean):
            if part is not None:
                part.normal_()
    return norm


@pytest.fixture(autouse=True)
def native_policy() -> Iterator[None]:
    with use("native"):
        yield


def assert_same_sums(found: Tensor, expected: Tensor, count: int, tolerance: float = 2e-5) -> None:
    """Compare sums of ``count`` random numbers of about 1, which may all be near 0."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * max(float(expected.abs().max()), count**0.5)


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 3), channels=st.integers(1, 40), height=st.integers(1, 20), width=st.integers(1, 40),
    sizes=st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=4), each=st.booleans(), last=st.booleans(),
    identity=st.booleans(),
)  # fmt: skip
def test_a_convolution_has_pytorchs_gradients(
    seed: int,
    batch: int,
    channels: int,
    height: int,
    width: int,
    sizes: list[int],
    each: bool,
    last: bool,
    identity: bool,
) -> None:
    """Gradients of input, kernels and biases, per image or shared, with inputs in any memory format."""
    torch.manual_seed(seed)
    images_of = batch if each else 1
    x = torch.randn(batch, channels * len(sizes), height, width, dtype=torch.float64)
    kernels = [torch.randn(images_of, channels, size, size, dtype=torch.float64) for size in sizes]
    biases = [torch.randn(images_of, channels, dtype=torch.float64) for _ in sizes]
    leaves = [x, *kernels, *biases]
    doubles = [leaf.requires_grad_() for leaf in leaves]
    singles = [leaf.detach().float().requires_grad_() for leaf in leaves]
    layout = torch.channels_last if last else torch.contiguous_format
    weight = torch.cat([kernel.flatten(1) for kernel in singles[1 : 1 + len(sizes)]], dim=1)
    bias = torch.cat(singles[1 + len(sizes) :], dim=1)
    found = torch.ops.transxnet.depthwise_conv2d(
        singles[0].contiguous(memory_format=layout), weight, bias, [channels] * len(sizes), sizes, identity
    )
    parts = zip(x.split(channels, 1), kernels, biases, strict=True)
    expected = torch.cat(
        [
            dynamic_depthwise_conv2d(part, kernel.expand(batch, -1, -1, -1), bias.expand(batch, -1))
            for part, kernel, bias in parts
        ],
        dim=1,
    )
    expected = x + expected if identity else expected
    assert_same(found, expected)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((found * weights.float()).sum(), singles)
    wanted = torch.autograd.grad((expected * weights).sum(), doubles)
    assert_same(gradients[0], wanted[0])
    for one, other in zip(gradients[1:], wanted[1:], strict=True):
        assert_same_sums(one, other, batch * height * width)


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("order", ["none", "before", "after"])
@pytest.mark.parametrize("channels", [1, 7, 24, 48, 100])
def test_batch_norm_is_pytorchs(channels: int, order: GELUOrder, kind: str) -> None:
    """Outputs, gradients and running statistics against float64, in two steps, for various statistics."""
    norm = layer(channels)
    double = copy.deepcopy(norm).double()
    for shape in ((2, channels, 5, 7), (3, channels, 33, 20)):
        x = last(MAPS[kind](torch.randn(shape))).requires_grad_()
        exact = x.detach().double().requires_grad_()
        weights = torch.randn(shape)
        y = norm.learn(x, order)
        expected = double(F.gelu(exact) if order == "before" else exact)
        expected = F.gelu(expected) if order == "after" else expected
        assert y.is_contiguous(memory_format=torch.channels_last)
        # GELU's rounding error of 0.1 in float32 is larger relative to deviations of 1e-4.
        tolerance = 1e-3 if (order, kind) == ("before", "tiny") else 2e-5
        assert_same(y, expected, tolerance)
        found = torch.autograd.grad((y * weights).sum(), (x, norm.weight, norm.bias))
        wanted = torch.autograd.grad((expected * weights).sum(), (exact, double.weight, double.bias))
        assert_same(found[0], wanted[0], tolerance)
        for one, other in zip(found[1:], wanted[1:], strict=True):
            assert_same_sums(one, other, weights.numel() // channels, tolerance)
        mean, variance = cast(Any, double.running_mean), cast(Any, double.running_var)
        assert ((norm.running_mean - mean).abs() <= 1e-6 * (mean.abs() + variance.sqrt())).all()
        assert ((norm.running_var - variance).abs() <= 1e-5 * variance).all()
    assert norm.num_batches_tracked == 2


@pytest.mark.parametrize("threads", [2, 5])
def test_batch_norm_does_not_depend_on_threads(threads: int) -> None:
    before = torch.get_num_threads()
    x, weights = last(torch.randn(2, 48, 61, 50)), torch.randn(2, 48, 61, 50)
    norm = layer(48)

    def run(count: int) -> list[Tensor]:
        torch.set_num_threads(count)
        one, leaf = copy.deepcopy(norm), x.clone().requires_grad_()
        y = one.learn(leaf, "before")
        return [y, *torch.autograd.grad((y * weights).sum(), (leaf, one.weight, one.bias)), *one.buffers()]

    try:
        for found, expected in zip(run(threads), run(1), strict=True):
            assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


def test_gelu_is_pytorchs() -> None:
    """For numbers of all magnitudes, any count, in both memory formats."""
    exact = torch.cat([torch.linspace(-12, 12, 100_003), torch.logspace(-30, 8, 50), -torch.logspace(-30, 1, 50)])
    for shape, layout in (((-1,), torch.contiguous_format), ((8, 13, 2, -1), torch.channels_last)):
        double = exact[: 100_048 if len(shape) > 1 else None].reshape(shape).double()
        x = double.float().contiguous(memory_format=layout).requires_grad_()
        double = double.requires_grad_()
        act = GELU()
        y, expected = act(x), F.gelu(double)
        assert ((y - expected).abs() <= 1e-6 * double.abs().clamp_min(1e-3)).all()
        weights = torch.randn(x.shape)
        found, wanted = (
            torch.autograd.grad(each, at, weights.to(each))[0] for each, at in ((y, x), (expected, double))
        )
        assert ((found - wanted).abs() <= 1e-6 * weights.abs()).all()
    assert act(torch.tensor([float("nan")])).isnan().all()


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (2, 20, 9, 9)),
        ({"momentum": None}, (2, 20, 9, 9)),
        ({"momentum": 0.37, "eps": 0.1}, (2, 20, 9, 9)),
        ({"track_running_stats": False}, (2, 20, 9, 9)),
        ({"affine": False}, (2, 20, 9, 9)),
        ({}, (1, 20, 1, 1)),
        ({}, (3, 20, 1, 1)),
    ],
)
@pytest.mark.parametrize("form", ["last", "first", "half", "double", "frozen", "autocast"])
def test_a_layer_is_the_same_with_all_settings(settings: dict[str, Any], shape: tuple[int, ...], form: str) -> None:
    """With GELU on both sides; by native kernels, or by PyTorch where they do not apply."""
    ours = Sequential(GELU(), layer(20, **settings), GELU())
    plain = copy.deepcopy(ours)
    x = torch.randn(shape)
    x = last(x) if form != "first" else x
    if form in ("half", "double"):
        x = x.to(torch.bfloat16 if form == "half" else torch.float64)
        plain, ours = plain.to(x.dtype), ours.to(x.dtype)
    for network in (plain, ours):
        network.train(form != "frozen")
    with torch.autocast("cpu", torch.bfloat16, enabled=form == "autocast"):
        for _ in range(3):
            with use("reference"):
                expected = plain(x)
            assert_same(ours(x), expected)
    assert_same(list(ours.buffers()), list(plain.buffers()), 1e-6)
    assert ours.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("channels", [1, 24, 48, 100])
def test_a_layer_scale_has_pytorchs_gradients(channels: int) -> None:
    plain = LayerScale(channels, 0.3).double()
    ours = copy.deepcopy(plain).float()
    for shape in ((2, channels, 33, 21), (1, channels, 1, 1)):
        weights = torch.randn(shape)
        for layout in (torch.channels_last, torch.contiguous_format):
            x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
            exact = x.detach().double().requires_grad_()
            found = torch.autograd.grad(ours(x), (x, ours.weight, ours.bias), weights)
            wanted = torch.autograd.grad(plain(exact), (exact, plain.weight, plain.bias), weights.double())
            assert_same(ours(x), plain(exact))
            assert_same(found[0], wanted[0])
            for one, other in zip(found[1:], wanted[1:], strict=True):
                assert_same_sums(one, other, weights.numel() // channels)


def test_wrong_shapes_are_refused() -> None:
    """A single value per channel, and a wrong number of channels."""
    network: nn.Module = layer(4, track_running_stats=False)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network(torch.randn(1, 4, 1, 1))
    for module in (layer(4), Sequential(GELU(), layer(4))):
        with pytest.raises(RuntimeError):
            module(last(torch.randn(2, 5, 3, 3)))


def test_hooks_and_conversions_work() -> None:
    """A hook between GELU and normalisation is called, and converted layers are used."""
    network = Sequential(GELU(), layer(6))
    seen: list[Tensor] = []
    x = last(torch.randn(2, 6, 4, 4))
    expected = copy.deepcopy(network)(x)
    network[0].register_forward_hook(lambda module, given, output: seen.append(output))
    assert_same(network(x), expected)
    assert_same(seen[0], F.gelu(x))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(Sequential(GELU(), layer(6)))
    assert type(converted[1]) is nn.SyncBatchNorm
    norm: Any = converted.eval()[1]
    expected = F.batch_norm(F.gelu(x), norm.running_mean, norm.running_var, norm.weight, norm.bias)
    assert_same(converted(x), expected)


def test_attention_with_a_learned_bias_is_pytorchs() -> None:
    q, k, v = (torch.randn(2, 3, size, 8, dtype=torch.float64, requires_grad=True) for size in (11, 5, 5))
    bias = torch.randn(1, 3, 11, 5, dtype=torch.float64, requires_grad=True)
    for scale in (None, 0.7):
        found, expected = attend(q, k, v, bias, scale), F.scaled_dot_product_attention(q, k, v, bias, scale=scale)
        assert_same(found, expected, 1e-12)
        weights = torch.randn_like(found)
        leaves = (q, k, v, bias)
        assert_same(torch.autograd.grad(found, leaves, weights), torch.autograd.grad(expected, leaves, weights), 1e-12)


def test_an_identity_inside_the_convolutions() -> None:
    """x + conv(x) is one convolution, unless a hook observes the convolutions."""
    scales = MultiScaleConv(40, (1, 3, 5, 7))
    ours = copy.deepcopy(scales)
    exact = scales.double()
    x = last(torch.randn(2, 40, 9, 11)).requires_grad_()
    doubled = x.detach().double().requires_grad_()
    found, expected = residual(x, ours), doubled + exact(doubled)
    assert_same(found, expected)
    gradients = torch.autograd.grad(found.square().sum(), (x, *ours.parameters()))
    assert_same(gradients, torch.autograd.grad(expected.square().sum(), (doubled, *exact.parameters())))
    seen: list[Tensor] = []
    ours.register_forward_hook(lambda module, given, output: seen.append(output))
    assert_same(residual(x, ours), expected)
    assert_same(seen[0], exact(doubled))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32), batch=st.integers(1, 3), heads=st.integers(1, 3), width=st.integers(1, 40),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)), keys=st.tuples(st.integers(1, 8), st.integers(1, 9)),
    stored=st.integers(0, 50), threads=st.sampled_from([1, 2, 5]),
)  # fmt: skip
def test_attention_has_pytorchs_gradients(
    seed: int, batch: int, heads: int, width: int, size: tuple[int, int], keys: tuple[int, int], stored: int,
    threads: int,
) -> None:  # fmt: skip
    """Gradients of queries, keys, values and the bias, whole or (``stored`` > 0) factored, with zero columns."""
    torch.manual_seed(seed)
    queries, others = size[0] * size[1], keys[0] * keys[1]
    double: dict[str, Any] = {"dtype": torch.float64, "requires_grad": True}
    q = torch.randn(batch, heads * width, *size, **double)
    kv = torch.randn(batch, 2 * heads * width, *keys, **double)
    bias = torch.randn(1, heads, queries, stored or others, **double)
    columns = torch.randn(others, stored, dtype=torch.float64) * (torch.rand(others, stored) < 0.3)
    tokens: list[Any] = [x.reshape(batch, heads, width, -1).transpose(2, 3) for x in (q, *kv.chunk(2, dim=1))]
    whole = bias @ columns.T if stored else bias
    attend_plainly: Any = F.scaled_dot_product_attention
    expected = attend_plainly(*tokens, whole, scale=1.0).transpose(2, 3).reshape(q.shape)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (q, kv, bias), weights)
    leaves = [x.detach().float().requires_grad_() for x in (q, kv, bias)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        given: Any = FactoredBias(leaves[2], columns.float()) if stored else leaves[2]
        found = attention(leaves[0], leaves[1], given, heads, scale=1.0)
        assert_same(found, expected)
        gradients = torch.autograd.grad(found, leaves, weights.float())
    finally:
        torch.set_num_threads(before)
    for one, other in zip(gradients, wanted, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 2e-5 * max(float(other.abs().max()), 1.0)
