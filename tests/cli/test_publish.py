"""``transxnet publish``: folders for the Hugging Face Hub, and the model cards in them."""

from __future__ import annotations

import errno
import json
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
from transxnet.api.run_facts import find_facts
from transxnet.checkpoints.writing import description
from transxnet.classification.recipe import ClassificationRecipe
from transxnet.detection.recipe import DetectionRecipe
from transxnet.text import printable

NAMES = ["a: b, https://x.y www.x.y @z", "|x|", "<script>alert(1)</script>", "two\nlines", "\U0001f600 猫", "\udcff",
         "# [x](y) ![](z)", "`$_*~&amp;", "---", "n" * 300]  # fmt: skip
SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "img_size": 32}
SUMMARY: dict[str, Any] = {
    "headline": "test accuracy 75.00%", "top1": 0.75, "top5": None, "validation_images": 4, "epochs": 3, "steps": 12,
    "images_per_step": 8, "learning_rate": 0.001, "seconds": 61.0, "skipped_steps": 2,
    "bad_images": {"/home/someone/photos/x.png": "damaged"}, "versions": {"python": "3.11.7", "torch": "2.9.1"},
}  # fmt: skip


def write_run(folder: Path, network: Any, recipe: Any, summary: dict[str, Any], names: list[str]) -> Path:
    """A run folder as training leaves it, without the training."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(recipe.to_yaml())
    parts = [
        {"name": "training", "origin": f"{recipe.data}/train", "images": 20, "unit": "images",
         "counts": {name: index for index, name in enumerate(names)}},
        {"name": "validation", "origin": f"a fifth of {recipe.data}/{'part ' * 20}, held out", "images": 4,
         "unit": "images", "counts": dict.fromkeys(names, 1)},
    ]  # fmt: skip
    (folder / "data.json").write_text(json.dumps({"layout": "class folders", "parts": parts, "problems": {"empty": 3}}))
    (folder / "summary.json").write_text(json.dumps(summary))
    transxnet.save_model(network, folder / "weights.safetensors")
    for name in ("samples.png", "curves.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of a classifier with odd class names, on data in somebody's folder."""
    monkeypatch.chdir(tmp_path)
    network = nano(**SMALL)
    network.pretrained_cfg["label_names"] = NAMES
    recipe = ClassificationRecipe(
        data="/home/someone/my photos", checkpoint="https://me:secret@host/w.pth?key=1", ema_decay=0.9, wandb="private"
    )
    return write_run(tmp_path / "run", network, recipe, SUMMARY, NAMES)


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
    for said in ("| top-1 accuracy | 75.00% |", "hf-hub:someone/flowers", "decay 0.9", "torch 2.9.1", "empty: 3",
                 "3 epochs, 12 steps of 8 images", "2 steps", "part , held out |", "1 image could not be read",
                 "Weights: cc-by-4.0", "![Curves of the training run](curves.png)"):  # fmt: skip
        assert said in text, said
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


@pytest.mark.parametrize(
    ("checkpoint", "published"),
    [
        ("https://Me:secret@Host.org:8443/w.pth?key=1#part", "https://Host.org:8443/w.pth"),
        ("http://[::1]:80/w.pth", "http://[::1]:80/w.pth"),
        ("http://[bad/w.pth", "http://[bad/w.pth"),
        ("file:///home/jane%20doe/w.pth", "w.pth"),
        ("/home/jane doe/w.pth", "w.pth"),
    ],
)
def test_addresses_are_published_without_what_is_private(checkpoint: str, published: str, finished: Path) -> None:
    recipe = ClassificationRecipe(data="photos", checkpoint=checkpoint)
    (finished / "config.yaml").write_text(recipe.to_yaml())
    assert find_facts(finished).recipe["checkpoint"] == published


@pytest.mark.parametrize(
    ("origin", "published"),
    [
        ("a fifth of /home/jane doe/x/train, held out", "a fifth of train, held out"),
        ("COCO (/mnt/doe, jane/coco)", "COCO (coco)"),
        ("~jane/x", "x"),
        ("C:\\Users\\jane doe\\x", "x"),
        ("/data/set/train", "set/train"),
        ("/data/settings of jane/train", "train"),
        ("train/a b", "train/a b"),
    ],
)
def test_folders_are_left_out_of_texts(origin: str, published: str, finished: Path) -> None:
    (finished / "config.yaml").write_text(ClassificationRecipe(data="/data/set").to_yaml())
    (finished / "data.json").write_text(json.dumps({"parts": [{"origin": origin}]}))
    assert find_facts(finished).data == {"parts": [{"origin": published}]}


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


def test_a_folder_is_replaced_only_if_forced(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transxnet.publish(finished, "out")
    Path("out/mine.txt").write_text("mine")
    assert run("publish", finished, "out", "--no-pictures", "--json") == 2
    assert "--force" in capsys.readouterr().err and Path("out/samples.png").exists()
    assert run("publish", finished, "out", "--no-pictures", "--json", "--force") == 0
    printed = json.loads(capsys.readouterr().out)
    names = ["README.md", "config.json", "model.safetensors", "recipe.yaml"]
    assert printed["files"] == names and printed["classes"] == len(NAMES)
    assert sorted(path.name for path in Path("out").iterdir()) == sorted([*names, "mine.txt"])
    assert "samples.png" not in Path("out/README.md").read_text(encoding="utf-8")


def test_files_of_others_stay(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    (finished / "weights.safetensors").rename("plain.safetensors")
    for name in ("README.md", "recipe.yaml", "samples.png"):
        Path("out", name).write_text("mine: recipe.yaml samples.png")
    assert run("publish", "plain.safetensors", "out", "--force") == 0
    assert "samples.png was in the folder and stays" in capsys.readouterr().err
    for name in ("recipe.yaml", "samples.png"):
        assert Path("out", name).read_text() == "mine: recipe.yaml samples.png"
    assert run("publish", "plain.safetensors", "out", "--force") == 0  # a card that does not list them
    assert Path("out/samples.png").exists()


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ("config.yaml", "other holds a training run"),
        ("weights.safetensors", "holds weights.safetensors, which would be loaded instead of model.safetensors"),
        ("config.json/", "config.json is a folder, not a file that can be replaced"),
        ("samples.png/", "samples.png is a folder, not a file that can be replaced"),
    ],
)
def test_a_folder_that_cannot_be_published_into(
    held: str, message: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transxnet.publish(finished, "other")
    if held.endswith("/"):
        Path("other", held[:-1]).unlink()
        Path("other", held).mkdir()
    else:
        Path("other", held).write_bytes((finished / held).read_bytes())
    before = contents(Path("other"))
    assert run("publish", finished, "other", "--force", "--license", "mit") == 2
    line = capsys.readouterr().err
    assert message in line and len(line.strip().splitlines()) == 1
    assert contents(Path("other")) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() if path.is_file() else b"" for path in folder.iterdir()}


def test_a_full_disk_is_no_fault_of_the_pictures(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run("publish", finished, "out") == 2
    line = capsys.readouterr().err
    assert "samples.png: No space left on device" in line and "cannot be read" not in line
    assert not Path("out").exists()


def test_an_error_leaves_nothing_behind(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transxnet.api.publishing.model_card", lambda about: 1 / 0)
    for folder in ("out", "there"):
        Path("there").mkdir(exist_ok=True)
        before = sorted(Path().rglob("*"))
        with pytest.raises(ZeroDivisionError):
            transxnet.publish(finished, folder)
        assert sorted(Path().rglob("*")) == before
