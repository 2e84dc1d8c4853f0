"""Networks under one budget: significance of differences, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from helpers.commands import paint, run
from transxnet.classification.recipe import ClassificationRecipe
from transxnet.research.compare import Comparison, Contender, as_markdown, conclusion, welch_p_value

QUICK = ("--recipe", "digits", "--epochs", 1, "--image-size", 32, "--batch-size", 4, "--ema-decay", 0)


def test_p_values() -> None:
    apart, mixed = ((0.95, 0.96, 0.97), (0.80, 0.81, 0.82)), ((0.94, 0.95, 0.99), (0.93, 0.96, 0.98))
    assert welch_p_value(*apart) < 1e-3 and 0.5 < welch_p_value(*mixed) < 1
    assert welch_p_value(*mixed) == pytest.approx(welch_p_value(*mixed[::-1]))
    assert welch_p_value((0.9, 0.9), (0.9, 0.9)) == 1.0
    assert welch_p_value((0.9, 0.9), (0.8, 0.8)) == 0.0


def test_the_conclusion_names_significant_differences() -> None:
    contenders = (
        Contender("first", (0.95, 0.96, 0.97), 1_000_000, (1.0, 1.0, 1.0)),
        Contender("alike", (0.94, 0.96, 0.98), 1_000_000, (1.0, 1.0, 1.0), 1.0),
        Contender("worse", (0.80, 0.81, 0.82), 1_000_000, (1.0, 1.0, 1.0), 0.001),
    )
    comparison = Comparison(ClassificationRecipe(), (0, 1, 2), (1437, 360), contenders)
    printed = conclusion(comparison)
    assert printed.startswith("1 of 2 networks differ from first by no more than the noise of 3 seeds")
    assert "Different: worse (-15.00)" in printed and "0.28 points" in printed
    row = "| `alike` | 1.00 M | 94.00, 96.00, 98.00 | 96.00 | 2.00 | within the noise (p = 1.00) |"
    assert row in as_markdown(comparison)


def test_the_command_trains_resumes_and_refuses_another_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(tmp_path / "photos", 10)
    arguments = ("compare", "transxnet_nano", "transxnet_nano_table6_dwconv", "--data", tmp_path / "photos", *QUICK,
                 "--seeds", 2, "--out", tmp_path / "out")  # fmt: skip
    assert run(*arguments, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [len(one["top1"]) for one in result["networks"]] == [2, 2]
    assert result["networks"][0]["p_value"] is None and 0 <= result["networks"][1]["p_value"] <= 1
    with Image.open(tmp_path / "out/comparison.png") as picture:
        assert picture.width > 600
    weights = tmp_path / "out/transxnet_nano/seed0/weights.safetensors"
    before = weights.stat().st_mtime_ns
    assert run(*arguments) == 0  # runs are not repeated
    assert weights.stat().st_mtime_ns == before
    assert "seeds" in capsys.readouterr().out
    assert run(*arguments, "--lr", 0.1) == 2
    assert "another budget" in capsys.readouterr().err
    summary = tmp_path / "out/transxnet_nano/seed1/summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "training_images": 99}))
    assert run(*arguments) == 2
    assert "the data changed between the runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("networks", "message"),
    [(("transxnet_nanoo",), "did you mean transxnet_nano"), (("table4",), "no network 'table4'")],
)
def test_mistakes(networks: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", *networks, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
