"""Checkpoints with false metadata or sizes: a one-line error that names the file, and no large allocation."""

from __future__ import annotations

import _codecs
import collections
import io
import json
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import transxnet
from helpers.forked import outcomes
from helpers.networks import first_stages, lively_dense, nano
from transxnet.checkpoints.writing import description

HUGE = 10**9
DEEP = "[" * 100_000
Changes = dict[str, tuple[Callable[[dict[str, Any]], Any], str]]


def small() -> transxnet.TransXNet:
    return nano(**first_stages(2))


def write(model: Any, metadata: str, path: Path) -> Path:
    """Write a network with other metadata."""
    path.write_bytes(safetensors.torch.save(model.state_dict(), {"format": "pt", "transxnet": metadata}))
    return path


def changed(metadata: str, change: Callable[[dict[str, Any]], Any]) -> str:
    values = json.loads(metadata)
    change(values)
    return json.dumps(values)


def config(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda about: about["config"].update(values)


def cfg(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda about: about["pretrained_cfg"].update(values)


SIZES: Changes = {
    "depths": (config(depths=[HUGE, 1]), r"has depths \[1000000000, 1\], but its tensors have \[1, 1\]"),
    "many depths": (config(depths=[1] * 10**6), "has depths a list of 1,000,000 values, but its tensors have"),
    "channels": (config(channels=[24, HUGE]), r"has channels \[24, 1000000000\], but its tensors have \[24, 48\]"),
    "classes": (config(num_classes=HUGE), "num_classes"),
    "inputs": (config(in_chans=HUGE), "in_chans"),
    "image": (config(img_size=[HUGE, HUGE]), "img_size|no network can have"),
    "another image": (config(img_size=[96, 96]), "img_size, heads and reductions would need a stages.0.position_bias"),
    "kernels": (config(kernel_sizes=[HUGE + 1] * 2), "kernel_sizes|no network can have"),
    "another kernel": (config(kernel_sizes=[7, 5]), "its kernel_sizes, .* would need"),
    "expansions": (config(expansions=[HUGE, 3]), "expansions|no network can have"),
    "heads": (config(heads=[12, 2]), "heads and reductions would need"),
    "groups": (config(attention_groups=[HUGE, 2]), "attention_groups"),
    "reductions": (config(reductions=[2 * HUGE, 4]), "reductions|no network can have"),
    "shares": (config(attention_shares=[0.25, 0.5]), "attention_shares"),
    "scales": (config(ffn_scales=[1] * 10**6), "ffn_scales|no network can have"),
    "another scale": (config(ffn_scales=[1, 3, 5]), "ffn_scales would need"),
    "encoding": (config(position_encoding="none"), "does not fit|unexpected"),
    "no such setting": (config(dephts=1), "no setting 'dephts'"),
    "a mixture": (config(token_mixer=["d_mixer"]), "token_mixer .* is not registered"),
    "another's part": (
        config(token_mixer="mine"),
        "token_mixer 'mine' is not registered: import the module",
    ),
    "settings of none": (config(ffn_settings={"size": HUGE}), "ffn_settings must be null, because the ffn 'ms_ffn'"),
}

KINDS: dict[str, tuple[str, str]] = {
    "a list": ("[]", "it is not a JSON object, but"),
    "null": ("null", "it is not a JSON object, but null"),
    "a number": ("7", "it is not a JSON object, but 7"),
    "a text": ('"config"', "it is not a JSON object"),
    "half": ('{"config": ', "cannot be read"),
    "empty": ("{}", "it lacks 'architecture'"),
    "deep": (DEEP, "it is nested too deeply"),
    "deep inside": ('{"architecture": "", "config": ' + DEEP, "it is nested too deeply"),
    "digits": ('{"architecture": ' + "7" * 10_000 + "}", "cannot be read"),
    "long": (json.dumps("x" * 2**24), "it has more than 16,777,216 characters"),
}

VALUES: Changes = {
    "architecture": (lambda about: about.update(architecture=7), "architecture must be one of"),
    "architecture of a list": (lambda about: about.update(architecture=["transxnet_nano"]), "architecture must be"),
    "configuration": (lambda about: about.update(config=[1]), "config must be an object"),
    "no configuration": (lambda about: about.update(config=None), "config must be an object, not null"),
    "preprocessing": (lambda about: about.update(pretrained_cfg="none"), "pretrained_cfg must be an object"),
    "head": (lambda about: about.update(head=[1]), "head must be an object"),
    "depths": (config(depths=None), "has depths null"),
    "share": (config(attention_shares=[float("nan")] * 2), "attention_shares"),
    "size": (cfg(input_size=[3, HUGE, 224]), "the height in input_size must be a whole number from 32 to 16,384"),
    "small size": (cfg(input_size=[3, 224, 1]), "the width in input_size must be"),
    "flat size": (cfg(input_size=224), "input_size must be a list of 3 values"),
    "channels of the size": (cfg(input_size=[HUGE, 224, 224]), "must begin with the network's 3 channels"),
    "mean": (cfg(mean=[0.5, None, 0.5]), "mean must be a number"),
    "short mean": (cfg(mean=[0.5, 0.5]), "mean must be a list of 3 or 1 values"),
    "deviation": (cfg(std=[0.2, 0.0, 0.2]), "std must be a number from 1e-06"),
    "infinite deviation": (cfg(std=[1e400, 1, 1]), "std must be a number"),
    "interpolation": (cfg(interpolation="newest"), "interpolation must be one of nearest, bilinear"),
    "interpolation of a list": (cfg(interpolation=[]), "interpolation must be one of"),
    "crop": (cfg(crop_pct=1e-9), "crop_pct must be a number from 0.1"),
    "crop of NaN": (cfg(crop_pct=float("nan")), "crop_pct must be a number"),
    "large crop": (cfg(crop_pct=0.2, input_size=[3, 16_000, 32]), "over 32,768 pixels"),
    "crop mode": (cfg(crop_mode="corner"), "crop_mode must be one of center, squash, border"),
    "classes": (cfg(num_classes=11), "pretrained_cfg has 11 classes, the configuration 10"),
    "names": (cfg(label_names="abc"), "label_names must be a list of 0 or 10 values"),
    "too few names": (cfg(label_names=["a", "b"]), "label_names must be a list of 0 or 10 values"),
    "names of numbers": (cfg(label_names=list(range(10))), r"label_names\[0\] must be text, not 0"),
}


def test_metadata_is_compared_with_the_tensors_before_allocation(tmp_path: Path) -> None:
    model = small()
    metadata = description(model)
    cases = {f"size {name}": (changed(metadata, change), message) for name, (change, message) in SIZES.items()}
    cases |= {f"kind {name}": case for name, case in KINDS.items()}
    cases |= {f"value {name}": (changed(metadata, change), message) for name, (change, message) in VALUES.items()}
    files = [write(model, text, tmp_path / f"{name}.safetensors") for name, (text, _) in cases.items()]
    torch.save({"state_dict": model.state_dict(), "transxnet": cases["size depths"][0]}, tmp_path / "size depths.ckpt")
    torch.save({"state_dict": model.state_dict(), "transxnet": {"config": 7}}, tmp_path / "kind of a pickle.ckpt")
    cases |= {"again": cases["size depths"], "not a text": ("", "it is not text, but a mapping")}
    files += [tmp_path / "size depths.ckpt", tmp_path / "kind of a pickle.ckpt"]
    check(files, [message for _, message in cases.values()])


def check(files: list[Path], messages: list[str], function: str = "load_model", **settings: Any) -> None:
    """Each file is refused with a one-line error that names it and the reason."""
    lines = outcomes([(function, {"checkpoint": str(path), **settings}) for path in files])
    for path, message, line in zip(files, messages, lines, strict=True):
        assert line.startswith((str(path), f"checkpoint {path}")), (path.name, line[:300])
        assert "\n" not in line and len(line) < 1000
        assert re.search(message, line), (path.name, line)


def head(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda about: about["head"].update(values)


HEADS: Changes = {
    "kind": (head(kind="yolo"), "holds a 'yolo'; known are retinanet"),
    "kind of a list": (head(kind=["mask_rcnn"]), r"holds a \['mask_rcnn'\]"),
    "another kind": (head(kind="semantic_fpn"), "gives kind semantic_fpn, but its tensors have retinanet"),
    "classes": (head(num_classes=HUGE, label_names=[]), "num_classes must be a whole number from 1 to 1,000,000"),
    "other classes": (head(num_classes=4, label_names=[]), "gives num_classes 4, but its tensors have 3"),
    "channels": (head(pyramid_channels=HUGE), "pyramid_channels must be"),
    "other channels": (head(pyramid_channels=8), "gives pyramid_channels 8, but its tensors have 16"),
    "no channels": (head(pyramid_channels=0), "pyramid_channels must be"),
    "normalised": (head(normalised=True), "gives normalised True, but its tensors have False"),
    "names": (head(label_names=["a"]), "label_names must be a list of 0 or 3 values"),
    "ids": (head(category_ids=[1.5, 2, 3]), "category_ids must be a whole number"),
    "few ids": (head(category_ids=[1]), "category_ids must be a list"),
    "colours": (head(colors=[[0, 0, 256]] * 3), "colors must be a whole number from 0 to 255"),
    "few colours": (head(colors=[[0, 0, 0]]), "colors must be a list of 0 or 3 values"),
    "short": (head(short=0), "short must be a whole number from 1"),
    "long": (head(long=HUGE), "long must be a whole number"),
    "short and long": (head(short=200, long=100), "short must be at most long"),
    "proposals": (head(proposals=HUGE), "proposals must be"),
    "an unknown field": (head(anchors=3), "a head has no 'anchors'"),
    "no kind": (lambda about: about["head"].pop("kind"), "it lacks 'kind'"),
    "depths": (config(depths=[HUGE] * 4), "has depths"),
    "image": (config(img_size=[HUGE] * 2), "img_size|no network can have"),
}


def test_a_detectors_metadata_is_compared_with_its_tensors(tmp_path: Path) -> None:
    model = lively_dense("retinanet")
    metadata = description(model)
    files = [
        write(model, changed(metadata, change), tmp_path / f"{name}.safetensors") for name, (change, _) in HEADS.items()
    ]
    check(files, [message for _, message in HEADS.values()], "load_detector")


# Tensors


class Rebuilt:
    """A tensor that claims any shape over a few stored values."""

    def __init__(self, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> None:
        self.claims = offset, size, stride

    def __reduce__(self) -> tuple[Any, ...]:
        values = torch.arange(4.0).untyped_storage()
        storage = torch.storage.TypedStorage(wrap_storage=values, dtype=torch.float32, _internal=True)
        return torch._utils._rebuild_tensor_v2, (storage, *self.claims, False, collections.OrderedDict())


class Called:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def doubled(times: int) -> Any:
    """Bytes that are doubled repeatedly when unpickled."""
    value: Any = Called(_codecs.encode, "x" * 1000, "latin1")
    for _ in range(times):
        value = Called(_codecs.encode, value, "hex")
    return value


NAME = "stages.1.blocks.0.ffn.norm.weight"
SPARSE = torch.eye(144).to_sparse()

TENSORS: dict[str, tuple[Any, str]] = {
    "a repeated row": (torch.arange(3.0).expand(10**10, 3), f"{NAME} claims 120,000,000,000 bytes"),
    "a repeated value": (torch.ones(1).expand(144), rf"{NAME} repeats its values by strides \(0,\)"),
    "more than is stored": (Rebuilt((10**10,), (1,)), f"{NAME} claims 40,000,000,000 bytes"),
    "a little more than is stored": (Rebuilt((144,), (1,)), "truncated or not a checkpoint"),
    "another start": (Rebuilt((3,), (1,), 10**10), "truncated or not a checkpoint"),
    "a start before": (Rebuilt((3,), (1,), -10), "truncated or not a checkpoint"),
    "sparse": (SPARSE, f"'{NAME}' is a sparse tensor"),
    "sparse rows": (torch.eye(144).to_sparse_csr(), f"'{NAME}' is a sparse tensor"),
    "quantised": (torch.quantize_per_tensor(torch.ones(144), 0.1, 0, torch.qint8), f"'{NAME}' is a quantised tensor"),
    "nested": (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), f"'{NAME}' is a nested tensor"),
    "without values": (torch.empty(144, device="meta"), f"'{NAME}' is a meta tensor"),
    "complex": (torch.ones(144, dtype=torch.complex64), f"{NAME} is a complex tensor"),
    "whole numbers": (torch.ones(144, dtype=torch.int64), f"{NAME} is int64, but the network needs floating"),
    "truth values": (torch.ones(144, dtype=torch.bool), f"{NAME} is bool"),
    "NaN": (torch.full((144,), float("nan")), f"{NAME} has 144 values of 144 that are NaN"),
    "infinite": (torch.ones(144).index_fill(0, torch.tensor(3), float("inf")), f"{NAME} has 1 values of 144 that are"),
    "too large": (torch.ones(144, dtype=torch.float64) * 1e300, f"{NAME} has 144 values .* too large for float32"),
    "no dimensions": (torch.tensor(1.0), f"{NAME}"),
    "bytes of any number": (Called(bytearray, 10**10), "would run code .*bytearray"),
    "texts that double": (doubled(40), r"would run code \(_codecs\.encode\)"),
    "text": ("weights", f"{NAME} are not tensors"),
    "a number": (7, f"{NAME} are not tensors"),
}


@pytest.mark.filterwarnings("ignore")
def test_tensors_of_other_kinds_or_sizes_are_refused_by_name(tmp_path: Path) -> None:
    weights = small().state_dict()
    files, messages = [], []
    for name, (value, message) in TENSORS.items():
        files.append(tmp_path / f"{name}.pth")
        torch.save(weights | {NAME: value}, files[-1])
        messages.append(message)
    old = {_: TENSORS[_] for _ in ("a repeated row", "more than is stored", "sparse", "bytes of any number", "NaN")}
    for name, (value, message) in old.items():
        files.append(tmp_path / f"{name}, old.pth")
        torch.save(weights | {NAME: value}, files[-1], _use_new_zipfile_serialization=False)
        messages.append(message)
    renamed = {
        "a variance": ("stages.0.blocks.0.ffn.norm", {"running_var": torch.full((72,), -1.0)}, "negative variance"),
        "half a step": ("stages.0.blocks.0.ffn.norm", {"num_batches_tracked": torch.tensor(0.5)}, "not an integer"),
        "steps back": ("stages.0.blocks.0.ffn.norm", {"num_batches_tracked": torch.tensor(-1)}, "negative counter"),
        "classifier": ("head.fc", {"weight": torch.empty(HUGE, 0)}, "weight .* for"),
        "stem": ("stem.conv", {"weight": torch.empty(24, HUGE, 0, 7)}, "weight .* for"),
        "bias": ("stages.0.position_bias", {"table": torch.empty(1, 0, 10**8, 4)}, "fit no square image"),
    }
    for name, (module, values, message) in renamed.items():
        files.append(tmp_path / f"{name}.pth")
        torch.save({**weights, **{f"{module}.{entry}": value for entry, value in values.items()}}, files[-1])
        messages.append(message)
    check(files, messages, "create_model", name="transxnet_nano", **first_stages(2))


# Files


def rewritten(content: bytes, change: Callable[[str, bytes], bytes], **settings: Any) -> bytes:
    """A zip archive with other contents of its parts."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", **settings) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return file.getvalue()


def header(tensors: dict[str, Any], length: int | None = None) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def test_files_of_other_kinds_and_sizes_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(small().state_dict(), buffer)
    whole = buffer.getvalue()
    contents = {
        "bomb.pth": rewritten(whole, lambda name, part: bytes(2**26) if name.endswith("/0") else part,
                              compression=zipfile.ZIP_DEFLATED),
        "long pickle.pth": rewritten(whole, lambda name, part: part + bytes(2**25) if ".pkl" in name else part),
        "other size.pth": rewritten(whole, lambda name, part: part[:-4] if name.endswith("/0") else part),
        "huge header.safetensors": header({}, 2**62),
        "huge tensor.safetensors": header({"a": {"dtype": "F32", "shape": [10**10], "data_offsets": [0, 4 * 10**10]}}),
        "huge shape.safetensors": header({"a": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 4]}}),
        "deep.safetensors": struct.pack("<Q", len(DEEP)) + DEEP.encode(),
        "parts.pth": b"\x80\x02" + b"](" * 600_000 + b".",
        "memo.pth": b"\x80\x02]r\xff\xff\xff\xff.",
        "bytes.pth": b"\x80\x05\x96" + struct.pack("<Q", 10**11) + b".",
        "strings.pth": b"\x80\x02X\xff\xff\xff\xff.",
    }  # fmt: skip
    if torch.__version__ < "2.10":  # it does not compare a tensor's size with its part's
        del contents["other size.pth"]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "run").mkdir()
    for name in ("pipe.pth", "pipe.safetensors", "run/weights.safetensors"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zeros.pth").symlink_to("/dev/zero")
    expected = dict.fromkeys(contents, "is truncated or not a checkpoint") | {
        "bomb.pth": "its parts claim 6.,...,... bytes, more than the file has",
        "pipe.pth": "it is a pipe or a device, not a regular file",
        "pipe.safetensors": "it is a pipe or a device, not a regular file",
        "run": "it is a pipe or a device",
        "zeros.pth": "it is a pipe or a device, not a regular file",
    }
    check([tmp_path / name for name in expected], list(expected.values()))


def test_invalid_names_are_one_line_errors() -> None:
    for name in ("x" * 300, "~nobody-at-all/x.pth", "", "a\0b", "/dev", "http://", "ftp://somewhere/weights.pth"):
        with pytest.raises(transxnet.TransXNetError) as caught:
            transxnet.load_model(name)
        assert "\n" not in str(caught.value)


# Number types


def test_other_number_types_are_converted(tmp_path: Path) -> None:
    model = small()
    weights = model.state_dict()
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        stored["stages.0.blocks.0.ffn.norm.num_batches_tracked"] = torch.tensor(7.0)
        torch.save(stored, tmp_path / "other.pth")
        loaded = transxnet.create_model("transxnet_nano", checkpoint=tmp_path / "other.pth", **first_stages(2))
        for name, tensor in loaded.state_dict().items():
            assert tensor.dtype == weights[name].dtype
            assert torch.equal(tensor, stored[name].to(tensor.dtype))
