"""The configuration refuses networks that cannot be built, and says why."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from timm.layers import DropPath

import transxnet
from helpers.networks import images
from transxnet import VARIANTS, ConfigError, TransXNetConfig

NANO = VARIANTS["transxnet_nano"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": (24, 48)}, r"channels needs one value for each of the 4 stages, or one for all"),
        ({"depths": (1, 0, 1, 1)}, "depths must be whole numbers from 1 to 1,000, not 0"),
        ({"heads": (1, 2, 4, 2.5)}, "heads must be whole numbers from 1 to 1,024, not 2.5"),
        ({"expansions": True}, "expansions must be whole numbers"),
        ({"reductions": (8, 3, 2, 1)}, "stage 1: reductions must be 1 or even, not 3"),
        ({"kernel_sizes": 4}, "stage 0: kernel_sizes must be odd, not 4"),
        ({"attention_shares": 1.0}, "attention_shares must be numbers above 0 and below 1, not 1.0"),
        ({"attention_shares": (0.5, 0.0, 0.5, 0.5)}, "attention_shares must be numbers above 0 and below 1, not 0.0"),
        ({"heads": (1, 2, 5, 5)}, "stage 2: a share of 0.5 gives OSRA 48 of 96 channels, which 5 heads cannot divide"),
        ({"attention_shares": (0.9, 0.5, 0.5, 0.5)}, "stage 0: IDConv needs at least 4 channels"),
        ({"in_chans": 0}, "in_chans must be a whole number from 1 to 1,024, not 0"),
        ({"num_classes": -1}, "num_classes must be a whole number from 0 to 1,000,000, not -1"),
        ({"img_size": (224, 224, 3)}, r"img_size is one or two positive whole numbers \(height, width\)"),
        ({"img_size": 0}, "img_size must be 2 whole numbers from 1 to 16,384, not 0"),
        ({"position_bias_resize": "bilinear"}, 'position_bias_resize is "flattened" or "geometric", not \'bilinear\''),
        ({"img_size": 4096}, "position biases stored for an img_size of 4096 x 4096 take 117.0 GiB"),
        ({"channels": 16000}, "these depths, channels and expansions make about"),
        ({"drop_rate": -0.1}, "drop_rate must be a number of at least 0 and below 1"),
        ({"ffn_drop_rate": 1.5}, "ffn_drop_rate must be a number of at least 0 and below 1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be a number of at least 0 and below 1"),
        # Values of another type, as a configuration file may hold them.
        ({"num_classes": "ten"}, "num_classes"),
        ({"num_classes": 10.5}, "num_classes"),
        ({"in_chans": 1.5}, "in_chans"),
        ({"drop_rate": "high"}, "drop_rate"),
        ({"attention_shares": "half"}, "attention_shares"),
        ({"layer_scale_init": "small"}, "layer_scale_init"),
        ({"global_pool": "median"}, "global_pool"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        transxnet.create_model("transxnet_nano", **settings)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("drop_path", "no setting 'drop_path'; did you mean 'drop_path_rate'"),
        ("atention_shares", "did you mean 'attention_shares'"),
        ("colour", "no setting 'colour'; there are depths, channels"),
    ],
)
@pytest.mark.parametrize("create", [transxnet.create_model, transxnet.create_backbone])
def test_an_unknown_setting_suggests_the_nearest(create: Any, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create("transxnet_nano", **{name: 1})


def test_an_unknown_network_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="there is no network 'transxnet_tinny'; did you mean transxnet_tiny"):
        transxnet.create_model("transxnet_tinny")


def test_one_value_serves_all_stages() -> None:
    config = NANO.override(kernel_sizes=5, attention_shares=[0.5], img_size=96)
    assert config.kernel_sizes == (5, 5, 5, 5)
    assert config.attention_shares == (0.5, 0.5, 0.5, 0.5)
    assert config.img_size == (96, 96)


def test_each_stage_can_have_its_own_attention_share() -> None:
    model = transxnet.create_model("transxnet_nano", attention_shares=(0.25, 0.5, 0.75, 0.5), img_size=64).eval()
    mixer = "stages.{}.blocks.0.token_mixer.{}"
    weights = model.state_dict()
    assert [len(weights[mixer.format(stage, "attention.q.weight")]) for stage in range(4)] == [6, 24, 72, 80]
    banks = [weights[mixer.format(stage, "local_operator.weight")] for stage in range(4)]
    assert [bank.shape[1] for bank in banks] == [18, 24, 24, 80]
    with torch.inference_mode():
        assert model(images(2, 3, 64, 64)).isfinite().all()


def test_other_numbers_of_stages_can_be_built() -> None:
    sizes: dict[str, Any] = {"depths": (1, 2), "channels": (16, 32), "heads": 2, "reductions": (2, 1)}
    config = TransXNetConfig(**sizes, attention_groups=(3,), expansions=(2,), num_classes=5)
    with torch.inference_mode():
        assert transxnet.TransXNet(config).eval()(images(1, 3, 40, 48)).shape == (1, 5)


def test_stochastic_depth_rises_linearly_over_all_blocks() -> None:
    model = transxnet.create_model("transxnet_nano", drop_path_rate=0.5)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_configuration_survives_json() -> None:
    config = NANO.override(
        attention_shares=(0.25, 0.5, 0.75, 0.5), position_bias_resize="geometric", img_size=(96, 64), drop_rate=0.1
    )
    assert TransXNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_description_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="no setting 'depth'; did you mean 'depths'"):
        TransXNetConfig.from_dict({**NANO.to_dict(), "depth": 3})
