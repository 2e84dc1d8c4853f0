"""Networks traced, compiled and in mixed precision."""

from __future__ import annotations

import pytest
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
