"""Position biases of large maps: never multiplied out, exact in outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.networks import images, lively, nano
from transxnet.kernels import FactoredBias, attend, reference
from transxnet.layers import PositionBias, position_bias

RESIZES = ("flattened", "geometric")


def table(resize: Any, heads: int = 2) -> PositionBias:
    return lively(PositionBias(heads, (8, 6), 2, resize))


def test_a_bias_without_memory_is_one_whole_map_of_any_size() -> None:
    """MACs are counted on the meta device, and count no resizing."""
    with torch.device("meta"):
        bias = PositionBias(1, (56, 56), 8)
        resized = bias(torch.empty(1, 1, 200, 320))
        assert isinstance(resized, Tensor) and resized.shape == (1, 1, 64_000, 1_000)
        assert bias.factored((200, 320)).multiplied().shape == resized.shape


def tokens(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, count, 5, generator=generator).requires_grad_()


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("grid", [(13, 11), (8, 6), (5, 4), (6, 8)])
def test_the_factors_multiply_to_the_resized_bias(resize: str, grid: tuple[int, int]) -> None:
    bias = table(resize)
    torch.testing.assert_close(bias.factored(grid).multiplied(), bias.resized(grid), rtol=0, atol=1e-6)


@pytest.mark.parametrize("resize", RESIZES)
def test_a_bias_that_is_the_product_of_its_factors_is_the_interpolated_one(
    resize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bias = table(resize)
    interpolated = bias.resized((13, 11))
    monkeypatch.setattr(position_bias, "LARGEST_RESIZED", 0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(bias.resized((13, 11)), interpolated, rtol=0, atol=1e-6)
    assert bias.resized((8, 6)) is bias.table


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("piece", [1, 5_000, 2**30])
def test_attention_in_pieces_has_the_plain_outputs_and_gradients(
    resize: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(reference.CHUNK_BYTES, "cpu", piece)
    grid, keys = (13, 11), 7 * 6
    q, k, v = tokens(13 * 11, 0), tokens(keys, 1), tokens(keys, 2)
    bias = table(resize)
    probe = images(3, 2, 13 * 11, 5)
    results = []
    for given in (bias.factored(grid), bias.resized(grid)):
        z = attend(q, k, v, given)
        results.append([z, *torch.autograd.grad((z * probe).sum(), (q, k, v, bias.table))])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_no_scores_are_kept_for_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reference.CHUNK_BYTES, "cpu", 5_000)
    q, k, v = tokens(143, 0), tokens(42, 1), tokens(42, 2)
    bias = table("flattened").factored((13, 11))
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        z = attend(q, k, v, bias)
    z.sum().backward()
    assert max(kept, default=0) <= q.numel() < 143 * 42


def factored_calls(model: Any) -> list[bool]:
    calls: list[bool] = []
    for stage in model.stage_list:
        stage.position_bias.register_forward_hook(lambda *called: calls.append(isinstance(called[-1], FactoredBias)))
    return calls


def test_large_biases_are_factored_by_the_size_of_their_map(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nano()
    calls = factored_calls(model)
    with torch.inference_mode():
        expected = model(images(3, 3, 96, 80))
        monkeypatch.setattr(position_bias, "LARGEST_MAP", 30_000)  # stages 1 and 2 have 24 x 20 x 9 x 4 bytes and so on
        found = model(images(3, 3, 96, 80))
        model(images(3, 3, 64, 64))  # the table itself, whatever its size
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    whole = [False] * 4
    large = [heads * n * m * 4 > 30_000 for heads, n, m in ((1, 480, 9), (2, 120, 9), (4, 30, 9), (5, 9, 9))]
    assert calls == [*whole, *large, *whole]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_network_trains_alike_with_factored_biases(checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients() -> dict[str, Tensor]:
        model = nano().train().double()  # where a vanishing gradient vanishes
        calls = factored_calls(model)
        model.set_grad_checkpointing(checkpointing)
        loss = F.cross_entropy(model(images(2, 3, 96, 80).double()), torch.tensor([1, 7]))
        loss.backward()
        factored.append(any(calls))
        left = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return left | {"loss": loss.detach()} | dict(model.named_buffers())

    factored: list[bool] = []
    expected = gradients()
    monkeypatch.setattr(position_bias, "LARGEST_SCORES", 0)
    monkeypatch.setitem(reference.CHUNK_BYTES, "cpu", 10_000)
    found = gradients()
    assert factored == [False, True]
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        scale = max(float(value.abs().max()), 1e-3 * largest)
        assert (found[name] - value).abs().max() <= 1e-10 * scale, name


def test_half_precision_attention_stays_in_float32_in_pieces() -> None:
    bias = table("flattened").factored((13, 11))
    q, k, v = (100 * tokens(count, seed) for seed, count in enumerate((143, 42, 42)))
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        z = attend(q.half(), k.half(), v.half(), bias)
    expected = attend(q.half().float(), k.half().float(), v.half().float(), bias)
    assert z.dtype == torch.float16
    torch.testing.assert_close(z.float(), expected.detach(), rtol=1e-3, atol=1e-1)
