"""What timm and its users expect of a registered network."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import timm
import torch
from timm.models import get_model_input_config, group_parameters
from timm.models._features_fx import get_notrace_functions, get_notrace_modules
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import transxnet
from support import images, nano, released_shapes
from transxnet.checkpoints.released import rename

# The ablations' rows have tests of their own, on smaller networks.
NAMES = timm.list_models("transxnet*", exclude_filters="*_table*")
TAGGED = timm.list_models("transxnet*", exclude_filters="*_table*", include_tags=True)
SIZES = [(32, 32), (33, 47), (250, 199)]
TRACED = [pytest.param(name, marks=[] if name == "transxnet_nano" else pytest.mark.slow) for name in NAMES]


def create(name: str, **settings: Any) -> Any:
    return timm.create_model(name, **settings)


def untrained(name: str, **settings: Any) -> Any:
    """A network without memory or arithmetic, for whatever concerns names and shapes only."""
    with torch.device("meta"):
        return create(name, **settings).eval()


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def silent_parameters(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]


# Names, outputs, sizes


def test_all_networks_are_registered_under_both_names() -> None:
    short = {"transxnet_t", "transxnet_s", "transxnet_b"}
    assert set(NAMES) == {"transxnet_nano", "transxnet_tiny", "transxnet_small", "transxnet_base"} | short
    assert {"transxnet_base.in1k", "transxnet_base.in1k_384", "transxnet_nano.untrained"} <= set(TAGGED)


@pytest.mark.parametrize("full", ["transxnet_tiny", "transxnet_small", "transxnet_base"])
def test_a_short_name_is_the_same_network(full: str) -> None:
    assert untrained(full[: len("transxnet_t")]).config == untrained(full).config == transxnet.VARIANTS[full]


@pytest.mark.parametrize("name", NAMES)
def test_forward(name: str) -> None:
    model = create(name).eval()
    batch = images(1, *model.default_cfg["min_input_size"])
    logits = model(batch)
    assert logits.shape == (1, 1000)
    assert logits.isfinite().all()
    model.set_grad_checkpointing()
    assert torch.equal(model(batch), logits)


@pytest.mark.parametrize("name", NAMES)
def test_backward(name: str) -> None:
    model = create(name, num_classes=42).train()
    logits = model(images(2, 3, 32, 32))
    logits.mean().backward()
    assert logits.shape == (2, 42)
    assert logits.isfinite().all()
    assert silent_parameters(model) == []


@pytest.mark.parametrize("name", TAGGED)
def test_default_cfg(name: str) -> None:
    model = untrained(name)
    cfg, names = model.default_cfg, set(model.state_dict())
    assert {f"{cfg['classifier']}.weight", f"{cfg['first_conv']}.weight"} <= names
    features = model.forward_features(empty(1, *cfg["input_size"]))
    assert features.shape == (1, model.num_features, *cfg["pool_size"])
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert model.forward_head(features).shape == pooled.shape
    model.reset_classifier(0, "")
    assert model.forward_head(features).shape == features.shape


def test_networks_can_be_created_without_head() -> None:
    features = create("transxnet_nano", num_classes=0, global_pool="").eval()
    assert features(images(1, 3, 64, 64)).shape == (1, features.num_features, 2, 2)


@pytest.mark.parametrize("size", SIZES)
def test_an_image_is_classified_alike_in_any_batch(size: tuple[int, int]) -> None:
    model, batch = nano(), images(3, 3, *size)
    with torch.inference_mode():
        together = model(batch)
        apart = torch.cat([model(image) for image in torch.split(batch, 1)])
    assert together.isfinite().all()
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("in_chans", [1, 5])
def test_other_input_channels(name: str, in_chans: int) -> None:
    model = untrained(name, in_chans=in_chans)
    assert model(empty(1, in_chans, 32, 32)).shape == (1, 1000)
    assert get_model_input_config(model)["input_size"][0] == in_chans


# Feature maps


@pytest.mark.parametrize("name", NAMES)
def test_features_only(name: str) -> None:
    model = untrained(name, features_only=True)
    info = model.feature_info
    expected = [
        (2, channels, math.ceil(33 / stride), math.ceil(47 / stride))
        for channels, stride in zip(info.channels(), info.reduction(), strict=True)
    ]
    assert info.reduction() == [4, 8, 16, 32]
    assert [tuple(features.shape) for features in model(empty(2, 3, 33, 47))] == expected


def nano_features(model: transxnet.TransXNet, **settings: Any) -> Any:
    """The ``features_only`` network with the weights of ``model``."""
    overlay = {"state_dict": model.state_dict()}
    settings |= {"pretrained": True, "pretrained_cfg_overlay": overlay, "features_only": True}
    return create("transxnet_nano", **settings).eval()


def stage_maps(model: transxnet.TransXNet, batch: Tensor, **arguments: Any) -> list[Tensor]:
    maps = model.forward_intermediates(batch, intermediates_only=True, **arguments)
    assert isinstance(maps, list)
    return maps


@pytest.mark.parametrize("feature_cls", [None, "getter"])
@pytest.mark.parametrize(
    ("out_indices", "stages"),
    [((0, 1, 2, 3), [0, 1, 2, 3]), ((1, 3), [1, 3]), ((-1,), [3]), ((0, -3), [0, 1]), (2, [2, 3])],
)
def test_features_of_some_stages(out_indices: Any, stages: list[int], feature_cls: str | None) -> None:
    model, batch = nano(), images(2, 3, 75, 90)
    features = nano_features(model, out_indices=out_indices, feature_cls=feature_cls)
    with torch.inference_mode():
        maps = features(batch)
        expected = stage_maps(model, batch)
    assert features.feature_info.channels() == [transxnet.VARIANTS["transxnet_nano"].channels[s] for s in stages]
    assert len(maps) == len(stages)
    assert all(torch.equal(found, expected[stage]) for found, stage in zip(maps, stages, strict=True))


@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook", "fx"])
def test_timms_other_extractors(feature_cls: str) -> None:
    model, batch = nano(), images(1, 3, 64, 64)
    with torch.inference_mode():
        maps = nano_features(model, feature_cls=feature_cls)(batch)
        expected = stage_maps(model, batch)
    found = maps.values() if isinstance(maps, dict) else maps
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_forward_intermediates() -> None:
    model, batch = nano(), images(2, 3, 64, 64)
    with torch.inference_mode():
        final, maps = model.forward_intermediates(batch)
        assert torch.equal(final, model.forward_features(batch))
        assert [features.shape[1] for features in maps] == [24, 48, 96, 160]
        assert torch.equal(model.norm(maps[-1]), final)

        _, last_two = model.forward_intermediates(batch, indices=2)
        _, first_and_last = model.forward_intermediates(batch, indices=[0, -1], norm=True)
        alone = stage_maps(model, batch, indices=[1])
    assert all(torch.equal(a, b) for a, b in zip(last_two, maps[2:], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first_and_last, (maps[0], final), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(alone, maps[1:2], strict=True))


def test_forward_intermediates_can_stop_early() -> None:
    model = nano()
    visited: list[nn.Module] = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, *_: visited.append(module))
    with torch.inference_mode():
        final, maps = model.forward_intermediates(images(1, 3, 64, 64), indices=[0, 1], stop_early=True)
    assert visited == list(model.stages)[:2]
    assert torch.equal(final, maps[1])


@pytest.mark.parametrize("arguments", [{"indices": [4]}, {"indices": 5}, {"output_fmt": "NLC"}])
def test_forward_intermediates_refuses_what_is_not_there(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, AssertionError), match=r"out of range|NCHW"):
        nano().forward_intermediates(images(1, 3, 64, 64), **arguments)


def test_pruned_networks_end_where_they_were_cut() -> None:
    model, batch = nano(), images(1, 3, 64, 64)
    with torch.inference_mode():
        expected = stage_maps(model, batch)[1]
        assert model.prune_intermediate_layers([0, -3]) == [0, 1]
        assert torch.equal(model(batch), expected)
    assert model.num_features == 48
    assert not any(name.startswith(("stages.2", "stages.3", "norm", "head")) for name in model.state_dict())


# Tracing and compiling


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


@pytest.mark.slow
def test_compiled_forward() -> None:
    model, batch = nano(), images(2, 3, 64, 64)
    with torch.inference_mode():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(batch), model(batch))


@pytest.mark.parametrize("training", [False, True])
def test_mixed_precision(training: bool) -> None:
    model, batch = nano().train(training), images(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch)
    assert logits.isfinite().all()
    if not training:
        exact = model(batch)
        assert (logits - exact).abs().max() < 0.1 * exact.abs().max()


# Gradient checkpointing


def training_steps(model: Any, batch: int, checkpointing: bool) -> dict[str, Tensor]:
    """Everything that two training steps leave behind, and an evaluation afterwards."""
    model = copy.deepcopy(model).train()
    model.set_grad_checkpointing(checkpointing)
    left: dict[str, Tensor] = {}
    torch.manual_seed(0)
    for step in range(2):
        outputs = model(images(batch, 3, 64, 64))
        outputs = outputs if isinstance(outputs, list) else [outputs]
        sum(output.square().mean() for output in outputs).backward()
        left |= {f"output {step} {index}": output.detach() for index, output in enumerate(outputs)}
    left |= {f"gradient {name}": parameter.grad for name, parameter in model.named_parameters()}
    left |= {f"buffer {name}": buffer for name, buffer in model.named_buffers()}
    with torch.inference_mode():
        left["evaluation"] = torch.cat([output.flatten() for output in model.eval()(images(1, 3, 32, 64))])
    return left


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("features_only", [False, True])
def test_checkpointing_changes_nothing(features_only: bool, batch: int) -> None:
    model = nano(drop_path_rate=0.3, ffn_drop_rate=0.2)
    network = nano_features(model, drop_path_rate=0.3, ffn_drop_rate=0.2) if features_only else model
    without, with_ = (training_steps(network, batch, checkpointing) for checkpointing in (False, True))
    assert without.keys() == with_.keys()
    assert [name for name in without if not torch.equal(without[name], with_[name])] == []


@pytest.mark.parametrize("features_only", [False, True])
def test_checkpointing_recomputes_the_blocks(features_only: bool) -> None:
    network = create("transxnet_nano", features_only=features_only).train()
    passes: list[nn.Module] = []
    for module in network.modules():
        if type(module).__name__ == "DMixer":
            module.register_forward_hook(lambda module, *_: passes.append(module))
    for enable in (True, False):
        network.set_grad_checkpointing(enable)
        passes.clear()
        outputs = network(images(2, 3, 64, 64))
        (outputs[-1] if features_only else outputs).sum().backward()
        assert len(passes) == (12 if enable else 6)


# Optimizer groups


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_checkpointing_can_be_compiled(backend: str) -> None:
    plain, recomputed = nano().train(), nano().train()
    recomputed.set_grad_checkpointing()
    for network, model in ((plain, plain), (recomputed, torch.compile(recomputed, backend=backend))):
        model(images(2, 3, 64, 64)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
    for one, other in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
    for statistic, again in zip(plain.buffers(), recomputed.buffers(), strict=True):
        torch.testing.assert_close(statistic, again, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("coarse", "groups"), [(False, 8), (True, 6)])
def test_layer_groups_follow_the_network(coarse: bool, groups: int) -> None:
    """Fine: stem, six blocks, head. Coarse: stem, four stages, head."""
    model = untrained("transxnet_nano")
    layers = group_parameters(model, model.group_matcher(coarse), reverse=True)
    depths = [layers[name] for name, _ in model.named_parameters()]
    assert len(layers) == len(depths)
    assert depths == sorted(depths)
    assert sorted(set(depths)) == list(range(groups))
    assert {name for name in layers if name.startswith("stem.")} == {n for n, depth in layers.items() if depth == 0}
    assert {"head.fc.weight", "head.fc.bias"} <= {name for name, depth in layers.items() if depth == groups - 1}


def decayed(model: nn.Module, groups: list[dict[str, Any]]) -> set[str]:
    ids = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in ids}


def released_decay() -> set[str]:
    """Our names of what the released recipe decays: more than one dimension, and a name that is no bias."""
    trained = {name: shape for name, shape in released_shapes("tiny", "classifier").items() if "running" not in name}
    return {rename(name) for name, shape in trained.items() if len(shape) > 1 and not name.endswith(".bias")}


def test_weight_decay_is_the_released_recipes() -> None:
    model = untrained("transxnet_tiny")
    exempt = model.no_weight_decay()
    names = decayed(model, param_groups_weight_decay(model, 0.05, no_weight_decay_list=exempt))
    assert names == released_decay()
    assert (len(names), len(list(model.parameters())) - len(names)) == (363, 665)


def test_layer_decay_keeps_the_weight_decay() -> None:
    model = untrained("transxnet_tiny")
    groups = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.8)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    by_depth = [scales[id(parameter)] for parameter in model.parameters()]
    assert by_depth == sorted(by_depth)
    assert (by_depth[0], by_depth[-1]) == (pytest.approx(0.8**19), 1)
    assert decayed(model, groups) == released_decay()


# Changing a network


def test_reset_classifier() -> None:
    model, batch = nano(), images(2, 3, 64, 64)
    model.reset_classifier(7)
    head = model.get_classifier()
    assert isinstance(head, nn.Linear)
    assert (head.out_features, model.num_classes, model.config.num_classes) == (7, 7, 7)
    assert not head.bias.any()
    with torch.inference_mode():
        features = model.forward_features(batch)
        torch.testing.assert_close(model(batch), head(features.mean((2, 3))))
        model.reset_classifier(3, "max")
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.amax((2, 3)))
    assert (model.config.num_classes, model.config.global_pool) == (3, "max")
    assert not model.head.training


@pytest.mark.parametrize(
    ("arguments", "message"), [((-1,), "num_classes"), ((7, "bogus"), "global_pool"), ((7, ""), "needs a global_pool")]
)
def test_a_classifier_that_cannot_be_leaves_the_old_one(arguments: tuple[Any, ...], message: str) -> None:
    model = nano(num_classes=5)
    before = model(images(2, 3, 64, 64))
    with pytest.raises(transxnet.ConfigError, match=message):
        model.reset_classifier(*arguments)
    assert (model.num_classes, model.config.num_classes) == (5, 5)
    assert torch.equal(model(images(2, 3, 64, 64)), before)


@pytest.mark.parametrize("features_only", [False, True])
def test_device_and_type_are_chosen_at_creation(features_only: bool) -> None:
    settings: dict[str, Any] = {"device": "meta", "dtype": torch.bfloat16, "features_only": features_only}
    model = timm.create_model("transxnet_nano", **settings)
    assert {(parameter.device.type, parameter.dtype) for parameter in model.parameters()} == {("meta", torch.bfloat16)}


def test_timm_is_told_of_a_new_input_size() -> None:
    model = nano()
    model.set_input_size((96, 64))
    assert get_model_input_config(model)["input_size"] == (3, 96, 64)


def test_copies_are_equal_and_independent() -> None:
    model, batch = nano(), images(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(batch)
        for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(duplicate(batch), expected)
            duplicate.reset_classifier(2)
            duplicate.stem.conv.weight.zero_()
        assert torch.equal(model(batch), expected)
