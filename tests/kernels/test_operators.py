"""The operators: their definitions, and the policy that decides who computes them."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import transxnet
from helpers.commands import TWO_BLOCKS, paint, run
from helpers.networks import assert_same, dense, first_stages, images, nano
from transxnet import ConfigError, kernels
from transxnet.kernels import policy
from transxnet.kernels.cpu import build
from transxnet.kernels.cpu.blocks import NativeBlocks
from transxnet.kernels.operators import registration
from transxnet.layers import GELU, BatchNorm2d
from transxnet.model import Stage
from transxnet.training.recipe import Recipe
from transxnet.training.trainer import kernel_policy

POLICIES = ("auto", "reference", "native")
OPERATORS = ("depthwise_conv2d", "attention", "batch_norm", "gelu", "layer_scale")


def random(*shape: int, dtype: torch.dtype = torch.float32, last: bool = True) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)
    return (x.contiguous(memory_format=torch.channels_last) if last and len(shape) == 4 else x).requires_grad_()


def inputs(dtype: torch.dtype) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Arguments for every operator; the columns of a factored bias and running statistics have no gradient."""
    x = random(2, 6, 5, 4, dtype=dtype)
    columns = random(4, 3, dtype=dtype).detach()
    statistics = [random(6, dtype=dtype).detach().square() for _ in range(2)]
    q, kv = random(2, 6, 3, 2, dtype=dtype), random(2, 12, 2, 2, dtype=dtype)
    yield "depthwise_conv2d", (x, random(1, 4 * 9 + 2, dtype=dtype), random(1, 6, dtype=dtype), [4, 2], [3, 1], True)
    yield "depthwise_conv2d", (x, random(2, 6 * 25, dtype=dtype), None, [6], [5], False)
    yield "attention", (q, kv, random(1, 2, 6, 4, dtype=dtype), None, 2, 1.0)
    yield "attention", (q, kv, random(1, 2, 6, 3, dtype=dtype), columns, 2, 0.7)
    for order in ("none", "before", "after"):
        parameters = (random(6, dtype=dtype), random(6, dtype=dtype), *statistics)
        yield "batch_norm", (x, *parameters, 0.1, 1e-5, order)
    yield "gelu", (x,)
    yield "layer_scale", (x, random(6, 1, 1, dtype=dtype), random(6, 1, 1, dtype=dtype))


def operator(name: str) -> Any:
    return getattr(torch.ops.transxnet, name).default


def test_the_operators_are_what_pytorch_expects() -> None:
    """Schemas, shapes, gradients and compilation; of the gradients' operators too."""
    dtype = torch.float32
    assert {name for name, _ in inputs(dtype)} == set(OPERATORS)
    for name, given in inputs(dtype):
        torch.library.opcheck(operator(name), given)
    x, gradient = random(2, 6, 5, 4, dtype=dtype).detach(), random(2, 6, 5, 4, dtype=dtype).detach()
    weight = random(6, dtype=dtype).detach()
    statistics = torch.stack((weight, weight.square() + 1)).double()
    q, kv = random(2, 6, 3, 2, dtype=dtype).detach(), random(2, 12, 2, 2, dtype=dtype).detach()
    bias = random(1, 2, 6, 4, dtype=dtype).detach()
    for name, arguments in {
        "depthwise_conv2d": (gradient, x, random(1, 54, dtype=dtype).detach(), [6], [3], True, True, True),
        "attention": (q, q, kv, bias, None, q, 2, 0.7, True),
        "batch_norm": (gradient, x, weight, weight, statistics, "before", True),
        "gelu": (gradient, x),
        "layer_scale": (gradient, x, weight.reshape(-1, 1, 1), True),
    }.items():
        torch.library.opcheck(operator(f"{name}_backward"), arguments)


def test_gradients_are_exact() -> None:
    """Of PyTorch's form of each operator; the kernels are compared with it in test_native_training.py."""
    for name, given in inputs(torch.float64):
        assert torch.autograd.gradcheck(partial(_result, name), given, fast_mode=True)


def test_kernels_compute_what_pytorch_computes() -> None:
    for name, given in inputs(torch.float32):
        doubles = [_doubled(one) for one in given]
        found, expected = _result(name, *given), _result(name, *doubles)
        assert_same(found, expected)
        weights = random(*found.shape).detach().flip(0) + 1
        gradients, wanted = (
            torch.autograd.grad((y * weights).sum(), [one for one in leaves if _wants(one)])
            for y, leaves in ((found, given), (expected, doubles))
        )
        assert_same(gradients, wanted, 1e-4)


def _doubled(one: Any) -> Any:
    return one.detach().double().requires_grad_(one.requires_grad) if isinstance(one, Tensor) else one


def _result(name: str, *given: Any) -> Tensor:
    result = operator(name)(*given)
    return cast(Tensor, result[0] if isinstance(result, tuple) else result)


def _wants(one: Any) -> bool:
    return isinstance(one, Tensor) and one.requires_grad


def test_gradients_of_gradients_are_refused() -> None:
    x = random(2, 3)
    with kernels.use("native"):
        (gradient,) = torch.autograd.grad(kernels.gelu(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again; .*use\\('reference'\\)"):
        gradient.sum().backward()


def test_inputs_that_do_not_fit_are_refused() -> None:
    """Rather than read beyond their end."""
    x, kv = random(2, 6, 3, 3), random(2, 12, 2, 2)
    for name, given, error in (
        ("attention", (x, kv, random(1, 2, 9, 3), None, 2, 1.0), "does not accept queries"),
        ("attention", (x, kv, random(1, 4, 9, 4), None, 4, 1.0), "does not accept queries"),
        ("depthwise_conv2d", (x, random(3, 6), None, [6], [1], False), "kernels for 3 images, but 2 images"),
        ("layer_scale", (x, random(5, 1, 1), random(5, 1, 1)), "scale of 5 channels"),
    ):
        with pytest.raises(ValueError, match=error):
            operator(name)(*given)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls of the kernels for CPUs."""
    counted: Counter[str] = Counter()

    def watch(name: str, function: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            counted[f"{name} {function}"] += 1
            return original(*given)

        return call

    for name, module in registration.CPU.items():
        for function in ("forward", "backward"):
            monkeypatch.setattr(module, function, watch(name, function, getattr(module, function)))
    return counted


USED = {f"{name} {function}" for name in OPERATORS for function in ("forward", "backward")} - {"gelu backward"}
"""In training GELU is always part of a batch normalisation, in validation it is alone."""


def test_a_training_run_on_a_cpu_uses_the_kernels(calls: Counter[str], tmp_path: Path) -> None:
    """All that the network needs, and none after it; and none where the recipe says so."""
    paint(tmp_path / "photos", 4)
    settings = (
        *TWO_BLOCKS,
        "--image-size",
        32,
        "--batch-size",
        4,
        "--warmup-epochs",
        0,
        "--epochs",
        1,
        "--accelerator",
        "cpu",
    )
    train = ("train", "--data", tmp_path / "photos", *settings)
    assert run(*train, "--native-kernels", "false", "--out", tmp_path / "plain") == 0
    assert not calls
    assert run(*train, "--out", tmp_path / "run") == 0
    assert {name for name, count in calls.items() if count} == USED
    calls.clear()
    nano().train()(images(2, 3, 64, 64)).sum().backward()
    assert not calls


def test_the_policy_of_a_run() -> None:
    assert kernel_policy(Recipe(""), "cpu") == "native"
    assert kernel_policy(Recipe("", compile=True), "cpu") == "reference"
    for chosen in ("native", "reference"):
        with kernels.use(cast(Any, chosen)):
            assert kernel_policy(Recipe(""), "cpu") == chosen
            assert kernel_policy(Recipe("", native_kernels=False), "cpu") == "reference"


def test_nothing_waits_for_a_compiler_unasked(monkeypatch: pytest.MonkeyPatch, calls: Counter[str]) -> None:
    def fail(*arguments: Any) -> Any:
        raise ConfigError("no compiler")

    monkeypatch.setattr(build, "library", fail)
    with torch.no_grad():
        nano()(images(1, 3, 64, 64))
    nano().train()(images(2, 3, 64, 64)).sum().backward()
    assert not calls
    assert kernel_policy(Recipe(""), "cpu") == "reference"
    with pytest.raises(ConfigError, match="no compiler"), kernels.use("native"):
        pass


def test_the_policy_is_a_threads_own_and_ends_with_its_context() -> None:
    found: list[str] = []
    with kernels.use("native"):
        with kernels.use("reference"):
            assert kernels.current_policy() == "reference"
        assert kernels.current_policy() == "native"
        thread = threading.Thread(target=lambda: found.append(kernels.current_policy()))
        thread.start()
        thread.join()
    assert (kernels.current_policy(), found) == ("auto", ["auto"])
    with (
        pytest.raises(ConfigError, match="is one of auto, reference, native, triton, not 'fast'"),
        kernels.use(cast(Any, "fast")),
    ):
        pass


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, native in (("native", True), ("reference", False), ("", False)):
        monkeypatch.setenv("TRANSXNET_KERNELS", value)
        policy._environment.cache_clear()
        assert kernels.current_policy() == (value or "auto")
        assert kernels.is_native(torch.ones(1)) == native
    monkeypatch.setenv("TRANSXNET_KERNELS", "fast")
    policy._environment.cache_clear()
    with pytest.raises(ConfigError, match="variable TRANSXNET_KERNELS is one of .*, not 'fast'"):
        nano()(images(1, 3, 64, 64))
    policy._environment.cache_clear()


def test_a_recomputation_computes_as_the_first_pass(calls: Counter[str]) -> None:
    """Also when the gradients are computed outside the policy's context."""
    model = nano().train().to(memory_format=torch.channels_last)
    model.set_grad_checkpointing(True)
    x = images(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with kernels.use("native"):
        loss = model(x).sum()
        first = copy.copy(calls)
    loss.backward()
    assert calls["attention forward"] == 2 * first["attention forward"] > 0


@pytest.mark.parametrize("chosen", POLICIES)
def test_modules_that_are_watched_are_called(chosen: Any) -> None:
    """Also those that are otherwise part of an operator with their neighbours."""
    model = nano().train().to(memory_format=torch.channels_last)
    seen: Counter[nn.Module] = Counter()
    parts = [one for one in model.modules() if isinstance(one, nn.Conv2d | BatchNorm2d | GELU)]
    for part in parts:
        part.register_forward_hook(lambda module, given, output: seen.update([module]))
    with kernels.use(chosen):
        model(images(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)).sum().backward()
    assert set(seen) == set(parts)


@pytest.mark.parametrize("kind", ["classifier", "backbone", "retinanet", "semantic_fpn"])
def test_a_network_that_was_trained_here_is_fused_whole(kind: str) -> None:
    """Nothing of it is left as it was, and all its stages are computed by the kernels."""
    model = nano() if kind == "classifier" else dense(kind)
    trained: Any = model if kind in ("classifier", "backbone") else model.backbone
    with kernels.use("native"):
        outputs: Any = trained.train().to(memory_format=torch.channels_last)(images(2, 3, 64, 64))
        outputs = outputs.values() if isinstance(outputs, dict) else outputs
        torch.cat([output.flatten() for output in outputs]).square().mean().backward()
    assert transxnet.fuse(model).left == []
    fused = transxnet.fuse(model, native=True)
    stages = [module for module in fused.modules() if isinstance(module, Stage)]
    assert len(stages) == 4
    assert all(type(block) is NativeBlocks for stage in stages for block in stage.blocks)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_network_computes_the_same(backend: str, training: bool) -> None:
    """With each policy, as a single graph; of nano a stage or two, or all where it may take minutes.

    Inductor's arithmetic is its own. It is compared in float64: gradients of the uncompiled network deviate from that
    by 2e-4 themselves.
    """
    few = first_stages(1 if training else 2, num_classes=10, img_size=64)
    stages = few if backend == "aot_eager" else {"depths": (1, 1, 1, 1)}
    model = nano(**stages).train(training).to(memory_format=torch.channels_last)
    x = images(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    plain = model if backend == "aot_eager" else copy.deepcopy(model).double()

    def outcome(run: Any, network: nn.Module, x: Tensor) -> list[Tensor]:
        with torch.set_grad_enabled(training):
            y = run(x)
        if not training:
            return [y]
        y.square().sum().backward()
        gradients = [cast(Tensor, parameter.grad).flatten() for parameter in network.parameters()]
        network.zero_grad()
        return [y.detach(), torch.cat(gradients)]

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for chosen in ("reference", "native"):
        with kernels.use(cast(Any, chosen)):
            expected = outcome(plain, plain, x.to(next(plain.parameters()).dtype))
            assert_same(outcome(compiled, model, x), expected, 1e-4)


def test_triton_needs_its_interpreter_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x = torch.randn(1, 2, 3, 3)
    with kernels.use("triton"), pytest.raises(ConfigError, match="TRITON_INTERPRET=1"):
        kernels.group_norm(x, torch.ones(2), torch.zeros(2), 1e-5)
