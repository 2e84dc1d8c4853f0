"""``transxnet publish``: folders for the Hugging Face Hub, and the model cards in them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

import transxnet
from helpers.commands import run
from helpers.networks import images, lively_dense, nano, same
from helpers.permissions import binding_permissions
from helpers.published_runs import NAMES, SMALL, SUMMARY, classifier_run, write_run
from transxnet.checkpoints.writing import description
from transxnet.detection.recipe import DetectionRecipe
from transxnet.text import printable


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of a classifier, in the working folder."""
    monkeypatch.chdir(tmp_path)
    return classifier_run(tmp_path / "run")


def card_of(folder: Path) -> Any:
    return ModelCard.load(folder / "README.md")


def texts(folder: Path) -> str:
    files = (path for path in folder.iterdir() if path.suffix in (".md", ".json", ".yaml"))
    return "".join(path.read_text(encoding="utf-8") for path in files)


def test_a_run_becomes_a_folder_with_a_card(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--license", "cc-by-4.0", "--repo", "someone/flowers", "--dataset", "someone/photos")
    assert run("publish", finished, "out", *options) == 0
    printed = capsys.readouterr()
    assert {path.name for path in Path("out").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "recipe.yaml", "samples.png", "curves.png"
    }  # fmt: skip
    assert "nothing was uploaded; this command would: hf upload someone/flowers" in printed.out
    assert "samples.png shows images of the data" in printed.err and "licence" not in printed.err
    data = card_of(Path("out")).data.to_dict()
    assert (data["license"], data["library_name"], data["datasets"]) == ("cc-by-4.0", "timm", ["someone/photos"])
    assert (data["pipeline_tag"], data["metrics"]) == ("image-classification", ["accuracy"])
    (result,) = data["model-index"][0]["results"]
    assert (data["model-index"][0]["name"], result["metrics"][0]["value"]) == ("flowers", 0.75)
    text = card_of(Path("out")).text
    for line in ("| top-1 accuracy | 75.00% |", "hf-hub:someone/flowers", "decay 0.9", "torch 2.9.1", "empty: 3",
                 "3 epochs, 12 steps of 8 images", "2 steps", "part , held out |", "1 image could not be read",
                 "Weights: cc-by-4.0", "![Curves of the training run](curves.png)"):  # fmt: skip
        assert line in text, line
    loaded = transxnet.load_model("out")
    assert list(loaded.pretrained_cfg["label_names"]) == NAMES
    assert same(loaded, transxnet.load_model(finished).state_dict())


def test_nothing_private_is_published(finished: Path) -> None:
    transxnet.publish(finished, "out")
    found = texts(Path("out"))
    for private in ("someone", "secret", "key=1", "private", str(finished.parent)):
        assert private not in found, private
    assert "my photos" in found and "https://host/w.pth" in found


def test_names_are_only_text_in_a_card(finished: Path) -> None:
    transxnet.publish(finished, "out")
    tokens = MarkdownIt("commonmark").enable("table").parse(card_of(Path("out")).text)
    inner = [child for token in tokens for child in token.children or ()]
    assert not [token for token in [*tokens, *inner] if token.type.startswith("html")]
    assert {token.attrs["href"] for token in inner if token.type == "link_open"} == {
        "https://arxiv.org/abs/2310.19380", "recipe.yaml"
    }  # fmt: skip
    cells = ["".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"]
    for name in NAMES:
        shown = printable(name)
        assert (shown if len(shown) <= 80 else f"{shown[:80]}…") in cells, name
    assert r"https\://x.y www\.x.y \@z" in card_of(Path("out")).text  # which other renderers link


def test_odd_values_in_the_files_of_a_run_are_left_out(finished: Path) -> None:
    (finished / "data.json").write_text(
        '{"parts": [3, {"counts": [1], "images": "<b>"}], "problems": [1], "layout": {}}'
    )
    (finished / "summary.json").write_text('{"top1": "<b>", "epochs": NaN, "bad_images": 3, "versions": [1]}')
    transxnet.publish(finished, "out")
    text = card_of(Path("out")).text
    assert "<b>" not in text and "No scores were measured" in text


def test_the_code_in_a_card_runs(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = transxnet.publish(finished, "flowers")
    Image.effect_noise((50, 40), 80).convert("RGB").save("image.jpg")
    codes = re.findall(r"^```python\n(.*?)^```", card_of(published.folder).text, re.DOTALL | re.MULTILINE)
    assert len(codes) == 3
    for code in codes:
        if "transformers import" not in code:  # which is imported in another test
            exec(compile(code, "card", "exec"), {})
    answer, predicted = capsys.readouterr().out.splitlines()
    assert eval(predicted)["answers"][0]["class"].encode().decode() in answer or "\\udcff" in predicted


CHECKPOINTS: dict[str, Callable[[Path], str]] = {
    "the run has no scores": lambda run: (run / "summary.json").unlink() or str(run),  # type: ignore[func-returns-value]
    "a run in training": lambda run: unfinished(run),
    "a checkpoint of a run": lambda run: move(run / "weights.safetensors", run / "checkpoints/best.ckpt", copy=True),
    "a folder of the Hub": lambda run: str(transxnet.publish(run, run.parent / "hub").folder),
}


def move(source: Path, target: Path, *, copy: bool = False) -> str:
    """The weights as a checkpoint of a run."""
    network = transxnet.load_model(source)
    target.parent.mkdir()
    torch.save({"state_dict": network.state_dict(), "transxnet": description(network)}, target)
    if not copy:
        source.unlink()
    return str(target)


def unfinished(run: Path) -> str:
    (run / "summary.json").unlink()
    move(run / "weights.safetensors", run / "checkpoints/last.ckpt")
    return str(run)


@pytest.mark.parametrize(
    ("kind", "remark"),
    [
        ("the run has no scores", "the training run had not finished: these are its weights"),
        ("a run in training", "the training run had not finished: these are the weights of last.ckpt"),
        ("a checkpoint of a run", "the scores of best.ckpt were not measured"),
        ("a folder of the Hub", "no scores are known for these weights"),
    ],
)
def test_scores_are_only_those_of_the_weights(kind: str, remark: str, finished: Path) -> None:
    expected = transxnet.load_model(finished).eval()
    published = transxnet.publish(CHECKPOINTS[kind](finished), "out")
    (found,) = (one for one in published.remarks if remark in one)
    card = card_of(published.folder)
    assert f"- {found[0].upper()}{found[1:]}." in card.text or kind == "a folder of the Hub"
    assert "No scores were measured" in card.text and card.data.eval_results is None
    assert ("samples.png" in published.files) == (kind == "the run has no scores")
    with torch.inference_mode():
        batch = images(1, 3, 32, 32)
        assert torch.equal(transxnet.load_model("out").eval()(batch), expected(batch))


@pytest.mark.parametrize("kind", ["mask_rcnn", "semantic_fpn"])
def test_a_dense_run_is_published(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rest = {name: value for name, value in SUMMARY.items() if name != "top1"}
    scores: dict[str, Any] = {"box": {"AP": 0.5, "AP50": 0.75}, "mask": {"AP": 0.25, "AP50": None}}
    scores = scores if kind == "mask_rcnn" else {"mIoU": 0.5, "mAcc": 0.75, "aAcc": 0.875}
    write_run(tmp_path / "run", lively_dense(kind), DetectionRecipe(data="coco"), rest | scores, ["a", "b", "c"])
    published = transxnet.publish("run", "out")
    data = card_of(published.folder).data.to_dict()
    assert (data["library_name"], "license" in data) == ("transxnet", False)
    values = [one["value"] for one in data["model-index"][0]["results"][0]["metrics"]]
    assert values == ([0.5, 0.75, 0.25] if kind == "mask_rcnn" else [0.5, 0.75, 0.875])
    assert transxnet.Predictor("out").class_names == ("a", "b", "c")
    assert 'transxnet.Predictor("out")' in card_of(published.folder).text and "timm.create" not in texts(
        published.folder
    )


@pytest.mark.parametrize(
    ("settings", "folder", "where"),
    [
        ({"in_chans": 2}, "a (b)", "Run the code in this folder."),  # a name that is not for code
        ({"in_chans": 1}, "plain", "Run the code in the folder that contains this one."),
        ({"num_classes": 0}, "a (b)", "Run the code in this folder."),
    ],
)
def test_the_code_follows_the_network(
    settings: dict[str, Any], folder: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    transxnet.save_model(nano(**SMALL, **settings), "weights.safetensors")
    transxnet.publish("weights.safetensors", folder)
    text = card_of(Path(folder)).text
    assert where in text
    os.chdir(folder if "this folder" in where else ".")
    Image.effect_noise((50, 40), 80).convert("RGB").save("image.jpg")
    for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if "in_chans" not in settings or settings["in_chans"] == 1 or "Predictor" not in code:
            exec(compile(code, "card", "exec"), {})
    assert "transformers import" not in text


def without_weights(run: Path) -> None:
    (run / "weights.safetensors").unlink()


def cut(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: len(content) // 2])

    return change


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, ("nowhere", "out"), "nowhere does not exist"),
        (None, (".", "out"), "it holds runs such as run"),
        (None, ("run", "run/out"), "lies in it"),
        (None, ("run", "."), "give another folder for the output"),
        (None, ("run", "run"), "give another folder"),
        (None, ("run/weights.safetensors", "run/out"), "lies in it"),
        (None, ("run", "out", "--license", "apache2"), "did you mean apache-2.0?"),
        (None, ("run", "out", "--license", "mine"), "give other"),
        (None, ("run", "out", "--repo", "a/b/c"), "repo is a name such as user/network"),
        (None, ("run", "out", "--dataset", "my photos"), "a name such as user/images"),
        (None, ("a.onnx", "out"), "is an exported file"),
        (without_weights, ("run", "out"), "run has no weights yet"),
        (cut("weights.safetensors"), ("run", "out"), "weights.safetensors"),
        (cut("summary.json"), ("run", "out"), "summary.json cannot be read"),
        (cut("data.json"), ("run", "out"), "data.json cannot be read"),
        (lambda run: (run / "config.yaml").write_text("task: [\n"), ("run", "out"), "config.yaml"),
        (lambda run: (run / "summary.json").write_text("[1]"), ("run", "out"), "it is not a JSON object"),
    ],
)
def test_a_mistake_is_one_line(
    change: Any, arguments: tuple[str, ...], message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if change:
        change(finished)
    before = sorted(Path().rglob("*"))
    assert run("publish", *arguments) == 2
    line = capsys.readouterr().err
    assert message in line and len(line.strip().splitlines()) == 1
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("closed", "message"),
    [
        ("run", "config.yaml cannot be read: Permission denied"),
        ("run/weights.safetensors", "weights.safetensors cannot be read: Permission denied"),
        ("run/summary.json", "summary.json cannot be read: Permission denied"),
        ("run/samples.png", "samples.png cannot be read: Permission denied"),
        ("parent", "parent/out cannot be written: Permission denied"),
    ],
)
def test_what_this_user_may_not_touch_is_named(
    closed: str, message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("parent").mkdir()
    mode = Path(closed).stat().st_mode
    Path(closed).chmod(0o500 if closed == "parent" else 0)
    with binding_permissions():
        status = run("publish", finished, "parent/out")
    Path(closed).chmod(mode)
    line = capsys.readouterr().err
    assert status == 2 and message in line and len(line.strip().splitlines()) == 1
    assert not list(Path("parent").iterdir())
