"""Parts from outside the package: chosen by name, with checked settings that are saved with the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import transxnet
from helpers.commands import paint, run
from helpers.networks import assert_same, first_stages, images, lively
from transxnet import BlockSizes, CheckpointError, ConfigError, TransXNetConfig
from transxnet.bounds import Bound
from transxnet.classification.recipe import ClassificationRecipe
from transxnet.layers.registry import REGISTRIES

SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "num_classes": 5, "img_size": 64}


@dataclass(frozen=True)
class PoolSettings:
    """Settings of the token mixer below."""

    size: Annotated[int, Bound(1, 9)] = 3
    weights: tuple[Annotated[float, Bound(-1, 1)], ...] = (0.5, -0.25)


class PoolMixer(nn.Module):
    """Means of neighbours, beside the mean of the position bias."""

    def __init__(self, sizes: BlockSizes, settings: PoolSettings) -> None:
        super().__init__()
        self.settings = settings
        self.pool = nn.AvgPool2d(settings.size, 1, settings.size // 2, count_include_pad=False)
        self.mix = nn.Sequential(nn.Conv2d(sizes.channels, sizes.channels, 1), nn.BatchNorm2d(sizes.channels))

    def forward(self, x: Tensor, position_bias: Tensor) -> Tensor:
        near, far = self.settings.weights
        return self.mix(near * self.pool(x) + far * position_bias.mean())  # type: ignore[no-any-return]


def check_pool(sizes: BlockSizes, settings: PoolSettings) -> None:
    if settings.size % 2 == 0:
        raise ConfigError(f"pools need an odd size, not {settings.size}")


def half(sizes: BlockSizes) -> nn.Module:
    """A local operator."""
    return nn.Conv2d(sizes.channels, sizes.channels, 1)


class PlainFFN(nn.Sequential):
    """A feed-forward network."""

    def __init__(self, sizes: BlockSizes) -> None:
        hidden = sizes.expansion * sizes.channels
        super().__init__(nn.Conv2d(sizes.channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, sizes.channels, 1))


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered for one test."""
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))
    transxnet.register_token_mixer("pool", settings=PoolSettings, check=check_pool, position_bias=True)(PoolMixer)
    transxnet.register_local_operator("half")(half)
    transxnet.register_ffn("plain")(PlainFFN)


def pooled(**settings: Any) -> Any:
    torch.manual_seed(0)
    return lively(transxnet.create_model("transxnet_nano", **{"token_mixer": "pool", **SMALL, **settings})).eval()


def test_a_configuration_chooses_parts_by_name() -> None:
    model = pooled(ffn="plain")
    assert all(type(stage.blocks[0].token_mixer) is PoolMixer for stage in model.stages)
    assert all(type(stage.blocks[0].ffn) is PlainFFN for stage in model.stages)
    local: Any = transxnet.create_model("transxnet_nano", local_operator="half", **SMALL)
    assert local.stages[3].blocks[0].token_mixer.local_operator.in_channels == 80
    for network in (model, local):
        loss = network.train()(images(2, 3, 64, 64)).square().sum()
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_it_is_fused_but_for_the_part() -> None:
    model = pooled()
    fused: Any = transxnet.fuse(model)
    assert fused.left == [f"stages.{stage}.blocks.0.token_mixer" for stage in range(4)]
    assert not any(isinstance(module, _BatchNorm) for module in fused.modules())
    with torch.inference_mode():
        for shape in ((2, 3, 64, 64), (1, 3, 40, 75)):
            assert_same(fused(images(*shape)), model(images(*shape)))
            assert_same(transxnet.fuse(model, native=True)(images(*shape)), model(images(*shape)))


def test_settings_are_saved_with_the_weights(tmp_path: Path) -> None:
    model = pooled(token_mixer_settings={"size": 5, "weights": [0.25, 1]})
    assert model.config.token_mixer_settings == PoolSettings(5, (0.25, 1.0))
    path = transxnet.save_model(model, tmp_path / "pool.safetensors")
    loaded: Any = transxnet.load_model(path)
    assert loaded.config == model.config
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(images(2, 3, 64, 64)), model(images(2, 3, 64, 64)))
    backbone = transxnet.create_backbone("transxnet_nano", checkpoint=path)
    assert backbone.config.token_mixer_settings == PoolSettings(5, (0.25, 1.0))


def test_a_configuration_with_settings_survives_json_and_another_part() -> None:
    config = transxnet.VARIANTS["transxnet_nano"].override(token_mixer="pool", token_mixer_settings={"size": 1})
    values = json.loads(json.dumps(config.to_dict()))
    assert values["token_mixer_settings"] == {"size": 1, "weights": [0.5, -0.25]}
    assert TransXNetConfig.from_dict(values) == config
    assert hash(TransXNetConfig.from_dict(values)) == hash(config)
    again = config.override(token_mixer="d_mixer")
    assert again == transxnet.VARIANTS["transxnet_nano"]
    assert not [name for name in again.to_dict() if name.endswith("_settings")]


def test_it_is_exported(tmp_path: Path) -> None:
    model = pooled(**first_stages(1, token_mixer="pool", num_classes=5))
    path = transxnet.export(model, tmp_path / "pool.pt2").path
    x = images(3, 3, 96, 64)
    with torch.inference_mode():
        (scores,) = transxnet.load_exported(path, "torch").run(x.numpy())
        assert_same(torch.from_numpy(scores), model(x))


def test_a_part_that_is_not_registered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "token_mixer 'pool' is not registered: import the module that registers it first, or choose"
    path = transxnet.save_model(pooled(), tmp_path / "pool.safetensors")
    registry = REGISTRIES[0]
    known = {name: part for name, part in registry._parts.items() if name != "pool"}
    monkeypatch.setattr(registry, "_parts", {**known, "window": registry._parts["swin"]})
    with pytest.raises(ConfigError, match=message):
        transxnet.create_model("transxnet_nano", token_mixer="pool")
    with pytest.raises(CheckpointError, match=f"pool.safetensors.*{message}"):
        transxnet.load_model(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 10}, "token_mixer_settings.size must be a whole number from 1 to 9, not 10"),
        ({"size": 2}, "stage 0: pools need an odd size, not 2"),
        ({"sise": 3}, "no setting 'token_mixer_settings.sise'; did you mean token_mixer_settings.size"),
        ({"weights": [0.5, 7]}, "token_mixer_settings.weights must be numbers from -1 to 1"),
        ([3], "token_mixer_settings must be a mapping of names to values, not \\[3\\]"),
        (PoolSettings(12), "token_mixer_settings.size must be a whole number from 1 to 9, not 12"),
    ],
)
def test_a_wrong_setting_is_named(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pooled(token_mixer_settings=settings)


def test_a_part_without_settings_takes_none() -> None:
    with pytest.raises(ConfigError, match="ffn_settings must be null, because the ffn 'ms_ffn' has none"):
        transxnet.create_model("transxnet_nano", ffn_settings={"a": 1})


def test_what_cannot_be_registered() -> None:
    @dataclass(frozen=True)
    class Unbounded:
        size: int = 3

    @dataclass
    class Changeable:
        size: Annotated[int, Bound(1, 9)] = 3

    register: Any = transxnet.register_token_mixer
    with pytest.raises(ConfigError, match="there is a token_mixer 'swin' already, of transxnet.ablation.swin._build"):
        register("swin")(PoolMixer)
    register("pool", settings=PoolSettings)(PoolMixer)  # the same once more, as when a notebook's cell runs again
    with pytest.raises(ConfigError, match="letters, digits and underscores, not 'my mixer'"):
        register("my mixer")(PoolMixer)
    for cls, message in ((Changeable, "must be a frozen dataclass, not Changeable"), (3, "frozen dataclass, not 3")):
        with pytest.raises(ConfigError, match=message):
            register("mine", settings=cls)(PoolMixer)
    with pytest.raises(ConfigError, match=r"Unbounded.size must be a number with bounds \(such as Annotated\[int"):
        register("mine", settings=Unbounded)(PoolMixer)


def test_a_recipe_chooses_parts(tmp_path: Path) -> None:
    paint(tmp_path / "photos", 6)
    part = {"token_mixer": "pool", "token_mixer_settings": {"size": 1}}
    settings = {"model": "transxnet_nano", "model_settings": part, "image_size": 32, "epochs": 1, "batch_size": 4}
    recipe = tmp_path / "pool.yaml"
    recipe.write_text(json.dumps({"task": "classification", "cooldown_epochs": 0, **settings}))
    assert run("train", "--recipe", recipe, "--data", tmp_path / "photos", "--out", tmp_path / "run") == 0
    assert transxnet.load_model(tmp_path / "run").config.token_mixer_settings == PoolSettings(1)
    with pytest.raises(ConfigError, match="model_settings: token_mixer 'none' is not registered"):
        ClassificationRecipe(model="transxnet_nano", model_settings={"token_mixer": "none"})
