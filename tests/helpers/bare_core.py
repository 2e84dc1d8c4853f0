"""A program that uses what works without any extra, and asks for what does not.

Its arguments are an empty folder and the modules of the extras, which it hides; in an environment without them there
is nothing to hide.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image


class Finder(PathFinder):
    """Finds modules, but not the hidden ones, and remembers which of these were looked for."""

    hidden: frozenset[str] = frozenset()
    wanted: ClassVar[list[str]] = []

    @classmethod
    def find_spec(cls, name: str, *where: Any) -> Any:
        if name.partition(".")[0] not in cls.hidden:
            return super().find_spec(name, *where)
        cls.wanted.append(name)
        return None


def picture(folder: Path, name: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((48, 40), 80).convert("RGB").save(path)
    return str(path)


def use_library(folder: Path) -> None:
    import timm
    import torch

    import transxnet
    from transxnet.api.results import Classification

    image = picture(folder, "photos/leaf/1.png")
    picture(folder, "photos/rose/1.png")
    model = timm.create_model("transxnet_nano", num_classes=2).eval()
    vars(model)["pretrained_cfg"] |= {"label_names": ["leaf", "rose"], "input_size": (3, 64, 64)}
    transxnet.save_model(model, folder / "nano.safetensors")
    torch.save({"state_dict": model.state_dict()}, folder / "nano.pth")
    same = transxnet.create_model("transxnet_nano", checkpoint=folder / "nano.pth", num_classes=2).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images)
        for other in (same, transxnet.load_model(folder / "nano.safetensors").eval(), transxnet.fuse(model)):
            torch.testing.assert_close(other(images), expected, rtol=1e-3, atol=1e-4)
    for fuse in (False, True):
        (prediction,) = transxnet.Predictor(folder / "nano.safetensors", fuse=fuse)([image])
        assert isinstance(prediction, Classification) and set(prediction.classes) == {"leaf", "rose"}
    for name, create in (("mask_rcnn", transxnet.create_detector), ("semantic_fpn", transxnet.create_segmenter)):
        network: Any = create(name, backbone="transxnet_nano", num_classes=3, pyramid_channels=16)
        network.head_description = dataclasses.replace(network.head_description, short=80, long=160)
        transxnet.save_model(network, folder / f"{name}.safetensors")
    found: Any = transxnet.Predictor(folder / "mask_rcnn.safetensors", min_score=0.0)(image)
    assert found.coco and {"bbox", "segmentation"} < set(found.coco[0])
    found = transxnet.Predictor(folder / "semantic_fpn.safetensors")(image)
    assert found.shares


def command(*arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command line."""
    from transxnet.cli.main import main

    status = 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main(list(map(str, arguments)))
        except SystemExit as exit_:
            status = int(exit_.code or 0)
    return status, out.getvalue(), err.getvalue()


def use_commands(folder: Path) -> None:
    photos, network = folder / "photos", ("--checkpoint", folder / "nano.safetensors")
    bench = ("transxnet_nano", "--rounds", 1, "--min-seconds", 0, "--batch-size", 1, "--image-size", 32)
    for arguments, printed in (
        (("--version",), "transxnet"),
        (("--help",), "commands:"),
        (("bench", *bench), "transxnet_nano  eager fp32"),
        (("convert", folder / "nano.pth", folder / "a.safetensors", "--model", "transxnet_nano"), "2 classes"),
        (("data", "check", photos), "2 images, nothing broken"),
        (("eval", "--data", photos, *network, "--per-class"), " class  images  top-1\n leaf   1       "),
        (("models", "--help"), "transxnet models --json"),
        (("predict", photos, *network, "--out", folder / "a.csv"), "leaf/1.png  "),
        (("predict", photos / "leaf", "--checkpoint", folder / "mask_rcnn.safetensors", "--json"), '"objects"'),
        (("tables", "--help"), "transxnet tables 5 6"),
    ):
        status, out, err = command(*arguments)
        assert (status, err) == (0, ""), (arguments, status, err)
        assert printed in out, (arguments, out)
    status, out, err = command("publish", folder / "nano.safetensors", folder / "published")
    assert status == 0 and "nothing was uploaded" in out, (out, err)


def miss_extras(folder: Path) -> None:
    """Every command line that needs an extra says so in one line."""
    photos, network = folder / "photos", folder / "nano.safetensors"
    boxes = folder / "boxes/annotations.json"
    boxes.parent.mkdir()
    boxes.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    tables = folder / "tables/train-0.parquet"
    tables.parent.mkdir()
    tables.write_bytes(b"PAR1")
    (folder / "a.onnx").write_bytes(b"0")
    for subject, extra, arguments in (
        ('"transxnet train"', "train", ("train", "--help")),
        ('"transxnet compare"', "train", ("compare", "table5", "--out", folder / "compared")),
        ("digits", "train", ("eval", "--data", "digits", "--checkpoint", network)),
        ('"transxnet erf"', "analysis", ("erf", photos)),
        ('"transxnet gradcam"', "analysis", ("gradcam", photos)),
        ('"transxnet plot"', "analysis", ("plot", "accuracy")),
        ('"transxnet serve"', "serve", ("serve", "--help")),
        ('"transxnet bench --plot"', "analysis", ("bench", "--plot", folder / "speed.png")),
        ("transxnet predict", "dense",
         ("predict", photos, "--checkpoint", folder / "mask_rcnn.safetensors", "--out", folder / "answers")),
        ("transxnet eval", "dense", ("eval", "--data", photos, "--checkpoint", folder / "mask_rcnn.safetensors")),
        ("transxnet eval", "dense", ("eval", "--data", photos, "--checkpoint", folder / "semantic_fpn.safetensors")),
        ('"transxnet data scenes"', "dense", ("data", "scenes", folder / "scenes")),
        ('"transxnet data check"', "dense", ("data", "check", boxes.parent)),
        ("transxnet data", "parquet", ("data", "check", tables.parent)),
        ("transxnet export", "export", ("export", network, "--format", "onnx", "--out", folder / "b.onnx")),
        ("transxnet export", "export", ("export", network, "--format", "openvino", "--out", folder / "b.xml")),
        ("transxnet predict", "export", ("predict", photos, "--checkpoint", folder / "a.onnx")),
    ):  # fmt: skip
        status, out, err = command(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), (arguments, status, out, err)
        assert subject in err and err.endswith(f'needs the extra "{extra}": pip install "transxnet[{extra}]"\n'), err

    from transxnet import MissingExtraError, train

    message = ""
    try:
        train()
    except MissingExtraError as error:
        message = str(error)
    assert message == 'transxnet.train needs the extra "train": pip install "transxnet[train]"'


def main() -> None:
    folder, Finder.hidden = Path(sys.argv[1]), frozenset(sys.argv[2:])
    sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
    import timm  # noqa: F401 (with PyTorch, which looks for some of them)

    Finder.wanted.clear()
    import transxnet  # noqa: F401

    assert not Finder.wanted, Finder.wanted
    assert "pandas" not in sys.modules
    use_library(folder)
    use_commands(folder)
    miss_extras(folder)


if __name__ == "__main__":
    main()
