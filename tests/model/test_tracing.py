"""Networks traced, compiled and in mixed precision."""

from __future__ import annotations

import copy
import warnings

import pytest
import timm.utils
import torch
from timm.models._features_fx import get_notrace_functions, get_notrace_modules
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from helpers.networks import NAMES, create, images, nano, silent_parameters

TRACED = [pytest.param(name, marks=[] if name == "transxnet_nano" else pytest.mark.slow) for name in NAMES]


def traced(model: nn.Module) -> nn.Module:
    tracer = {
        "leaf_modules": get_notrace_modules(),
        "autowrap_functions": get_notrace_functions(),
        "param_shapes_constant": True,
    }
    train_nodes, eval_nodes = get_graph_node_names(model, tracer_kwargs=tracer)
    graph: nn.Module = create_feature_extractor(
        model, train_return_nodes=train_nodes[-1:], eval_return_nodes=eval_nodes[-1:], tracer_kwargs=tracer
    )
    return graph


@pytest.mark.parametrize("name", TRACED)
def test_traced_forward(name: str) -> None:
    model, batch = create(name).eval(), images(1, 3, 32, 32)
    with torch.inference_mode():
        (logits,) = traced(model)(batch).values()
        assert torch.equal(logits, model(batch))


@pytest.mark.parametrize("name", TRACED)
def test_traced_backward(name: str) -> None:
    model = traced(create(name, num_classes=42).train())
    (logits,) = model(images(2, 3, 32, 32)).values()
    logits.mean().backward()
    assert logits.shape == (2, 42)
    assert logits.isfinite().all()
    assert silent_parameters(model) == []


@pytest.mark.parametrize("training", [False, True])
def test_mixed_precision(training: bool) -> None:
    model, batch = nano().train(training), images(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch)
    assert logits.isfinite().all()
    if not training:
        exact = model(batch)
        assert (logits - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("training", [False, True])
def test_a_network_that_timm_froze_and_unfroze_takes_a_batch_of_one(training: bool) -> None:
    model, batch = nano().train(), images(1, 3, 32, 32)  # maps of 1 x 1: a single value per channel
    names = list(model.state_dict())
    with torch.no_grad():
        expected = copy.deepcopy(model).train(training)(batch)

    timm.utils.freeze(model)
    timm.utils.unfreeze(model)
    model.train(training)
    with torch.no_grad():
        assert torch.equal(model(batch), expected)
    assert list(model.state_dict()) == names


def test_a_scripted_trace_is_of_one_batch_size() -> None:
    """As docs/export.md says: torch.jit.trace fixes the sizes, torch.export keeps them open."""
    model = nano()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(model, images(2, 3, 64, 64), check_trace=False)
        torch.testing.assert_close(script(images(2, 3, 64, 64)), model(images(2, 3, 64, 64)))
        for size in ((1, 3, 64, 64), (2, 3, 96, 96)):
            with pytest.raises(RuntimeError):
                script(images(*size))
