"""Every number of every recipe, configuration and command has bounds; a recipe's file may hold anything."""

from __future__ import annotations

import datetime
import importlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
import yaml

import transxnet
from helpers.commands import error_line
from transxnet.bounds import Bound, Share, checked, kinds_of
from transxnet.cli.command import CommandParser, first_options
from transxnet.cli.main import COMMANDS
from transxnet.cli.train import parse_recipe
from transxnet.config import VARIANTS, TransXNetConfig
from transxnet.data.dense_transforms import DetectionAugmentation, SegmentationAugmentation
from transxnet.data.examples import open_examples
from transxnet.data.loader import BadImages, worker_settings
from transxnet.data.packed.sharding import plan_shards
from transxnet.data.scenes import write_scenes
from transxnet.data.transforms import Augmentation
from transxnet.errors import ConfigError
from transxnet.research.bench import measure_speed
from transxnet.research.networks import open_networks
from transxnet.tasks import TASKS, recipe_class
from transxnet.training.recipe_file import MAX_BYTES, MAX_LEVELS, dump_yaml, load_yaml

pytestmark = pytest.mark.timeout(300)

HUGE = (10**30, 10**5000)
CLASSES = (*map(recipe_class, TASKS), Augmentation, SegmentationAugmentation, DetectionAugmentation, TransXNetConfig)


def bound_of(kind: Any) -> tuple[type, Bound] | None:
    """The number in a type, whatever it is wrapped in."""
    if get_origin(kind) is Annotated:
        number, bound = get_args(kind)
        return number, bound
    found = [bound_of(inner) for inner in get_args(kind) if inner is not Ellipsis]
    return next((one for one in found if one), None)


def is_number(kind: Any) -> bool:
    """Whether there is a number in a type, with bounds or without."""
    if get_origin(kind) is Annotated:
        return is_number(get_args(kind)[0])
    return kind in (int, float) or any(is_number(inner) for inner in get_args(kind))


def outside(number: type, bound: Bound) -> list[float]:
    """Numbers of a type just out of its range, far out of it, and none at all."""
    step = 1 if number is int else 1e-6
    below = bound.low if bound.above else bound.low - step
    above = bound.high if bound.below else bound.high + step * max(1.0, bound.high)
    return [number(below), number(above), math.nan, math.inf, -math.inf, *HUGE]


FIELDS = [(cls, name) for cls in CLASSES for name, kind in kinds_of(cls).items() if is_number(kind)]


def make(cls: type, name: str, value: Any) -> object:
    if cls is TransXNetConfig:
        return VARIANTS["transxnet_nano"].override(**{name: value})
    return cls(**{name: value})


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_a_field_refuses_numbers_out_of_its_range_and_what_is_no_number(cls: type, name: str) -> None:
    kind = kinds_of(cls)[name]
    found = bound_of(kind)
    assert found is not None, f"{cls.__name__}.{name} has no bounds"
    number, bound = found
    default = getattr(VARIANTS["transxnet_nano"] if cls is TransXNetConfig else cls(), name)
    several = default if isinstance(default, tuple) else None
    wrong: list[Any] = ["1", True, {}, datetime.date(2020, 1, 1), *([1.0] if number is int else [])]
    for bad in [*outside(number, bound), *wrong]:
        with pytest.raises(ConfigError, match=name) as raised:
            make(cls, name, bad if several is None else (bad, *several[1:]))
        assert len(str(raised.value)) < 300
    for end in (bound.low, bound.high):
        fits = not (bound.above if end == bound.low else bound.below)
        assert bound.holds(number(end)) == fits
        assert bound.holds(number(bound.low + (bound.high - bound.low) / 2))


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_refuses_other_kinds(cls: type) -> None:
    for name in kinds_of(cls):
        with pytest.raises(ConfigError, match=name):
            make(cls, name, object())


# What a command needs beside the option in question.
NEEDED = {
    "predict": ["x.jpg"], "eval": ["--data", "digits"], "compare": ["transxnet_nano", "--out", "x"],
    "export": ["x", "--format", "onnx", "--out", "x.onnx"], "plot": ["accuracy"], "convert": ["a", "b"],
    "publish": ["a", "b"],
    "data shard": ["a", "b"], "data check": ["a"], "data scenes": ["a"],
    **{f"train --task {task}": [] for task in TASKS},
}  # fmt: skip
LINES = [line for command in COMMANDS for line in ([one for one in NEEDED if one.split()[0] == command] or [command])]


@pytest.fixture
def parser_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], CommandParser]:
    """The parser that a command makes."""

    class Made(Exception):  # noqa: N818
        pass

    def stop(parser: CommandParser, arguments: Sequence[str]) -> None:
        raise Made(parser)

    def find(line: str) -> CommandParser:
        command, *rest = line.split()
        with monkeypatch.context() as patch:
            patch.setattr(CommandParser, "parse", stop)
            with pytest.raises(Made) as made:
                importlib.import_module(f"transxnet.cli.{command}").run(
                    [*rest, *(["-h"] if command == "train" else [])]
                )
        parser: CommandParser = made.value.args[0]
        return parser

    return find


@pytest.mark.parametrize("line", LINES)
def test_an_option_refuses_numbers_out_of_its_range(line: str, parser_of: Callable[[str], CommandParser]) -> None:
    parser = parser_of(line)
    needed = NEEDED.get(line, [])
    for action in parser._actions:
        kind = parser.kinds.get(action.dest, getattr(action, "_typehint", action.type))
        if not is_number(kind):
            continue
        assert action.dest in parser.kinds, f"{line}: --{action.dest} has no bounds"
        found = bound_of(parser.kinds[action.dest])
        assert found is not None
        texts = [*(str(number) for number in outside(*found)[:3]), ".inf", str(10**30), "9" * 5000]
        if action.dest == "epochs" or len(parser.kinds) < 10:
            texts += [".nan", "-.inf", "three", "[[[", "{a: 1}", "true", ""]
        option, pair = f"--{action.dest.replace('_', '-')}", get_origin(kind) is tuple
        for text in texts:
            with pytest.raises(ConfigError, match=f"^{option} must be .* number") as raised:
                parser.parse([*needed, f"{option}=[{text}, {text}]" if pair else f"{option}={text}"])
            assert len(str(raised.value)) < 300 and "\n" not in str(raised.value)


def mistake_in(content: str | bytes, folder: Path, *options: str) -> str:
    """The error for a recipe's file with this content."""
    path = folder / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as raised:
        parse_recipe(["--recipe", str(path), *options])
    error = str(raised.value)
    assert str(path) in error and "\n" not in error and len(error) < 400
    return error


MISTAKES: list[tuple[str | bytes, str]] = [
    ("epochs: 2020-01-01", "epochs must be a whole number from 1 to 100,000, not '2020-01-01'"),
    ("epochs: [1]", "epochs must be a whole number from 1 to 100,000, not [1]"),
    ("epochs:", "epochs must be a whole number from 1 to 100,000, not null"),
    ("epochs: 1.0", "epochs must be a whole number from 1 to 100,000, not 1.0"),
    ("epochs: yes", "epochs must be a whole number from 1 to 100,000, not true"),
    ("epochs: 1" + "0" * 30, "epochs must be a whole number from 1 to 100,000, not 1000000"),
    ("epochs: " + "9" * 3000, "not a number of about 3,00"),
    ("epochs: " + "9" * 10_000, "(10,000 characters)"),
    ("lr: .nan", "lr must be a number above 0 and up to 1,000, not nan"),
    ("lr: -.inf", "lr must be a number above 0 and up to 1,000, not -inf"),
    ("lr: fast", "lr must be a number above 0 and up to 1,000, not 'fast'"),
    ("precision: 32", 'precision must be "auto", "32", "bf16-mixed" or "16-mixed", not 32'),
    ("data: 3", "data must be text, not 3 (put it in quotation marks)"),
    ('data: "\\0"', "data must be text"),
    ("compile: 1", 'compile must be "network", "blocks", true or false, not 1'),
    ("augmentation: 3", "augmentation must be a mapping of names to values, not 3"),
    ("augmentation: {hflip: 2}", "augmentation.hflip must be a number from 0 to 1, not 2"),
    ("augmentation: {crop_scale: [1]}", "augmentation.crop_scale must be 2 numbers above 0 and up to 1, not 1 val"),
    ("augmentation: {auto_augment: rand-n1000000}", "auto_augment allows numbers up to 1,000"),
    ("augmentation: {class_path: os.system}", "there is no setting 'augmentation.class_path'"),
    ("epoch: 3", "there is no setting 'epoch'; did you mean epochs"),
    ("out: here", "there is no setting 'out'"),
    ("epochs: 1\nepochs: 2", "line 2: 'epochs' is given twice"),
    ("1: 2", "'1' as a key is not text"),
    ("task: cooking", 'task must be "classification", "detection" or "segmentation", not \'cooking\''),
    ("task: detection\nmilestones: [1, x]", "milestones must be whole numbers from 0 to 100,000, not 'x'"),
    ("task: detection\nmilestones: [" + "1," * 2000 + "]", "at most 1,000, not 2,000 values"),
    ("task: detection\nbackbone_settings: {depths: 1000000000}", "depths must be whole numbers from 1 to 1,000"),
    ("task: detection\nlong: 100\nshort: 200", "long must be at least short"),
    ("epochs: !!python/object/apply:os.mkdir [made]", "is not for plain data"),
    ("- epochs", "it has no settings"),
    ("epochs", "it has no settings"),
    ("", "it has no settings"),
    ("epochs: 1\n---\nepochs: 2", "line 2: expected a single document"),
    ("epochs:\n\t- 1", "line 2: found character '\\t'"),
    ("epochs: [1", "line 1: "),
    (b"\xff\xfe", "not UTF-8"),
    (b"epochs: \0", "control characters"),
    (b"#" * (MAX_BYTES + 1), "more than 1,048,576 bytes"),
    ("epochs: " + "[" * 100_000, "nested more than 20 levels deep"),
    ("\n".join(" " * level + "a:" for level in range(1000)), "nested more than 20 levels deep"),
    ("a: &a [a]\n" + "".join(f"k{i}: &k{i} [*{f'k{i - 1}' if i else 'a'}]\n" for i in range(50)), "levels deep"),
    ("a: &a [x,x,x]\n" + "".join(
        f"k{i}: &k{i} [{','.join([f'*k{i - 1}' if i else '*a'] * 9)}]\n" for i in range(15)), "than 10,000 values"),
    ("a: &a [*a]", "holds itself"),
    ("a: [" + "1," * 20_000 + "]", "than 10,000 values"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_recipe_s_file_with_a_mistake_is_answered_in_a_line(
    content: str | bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in mistake_in(content, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_what_is_no_regular_file_is_no_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, message in (("pipe", "not a regular file"), ("folder", "no recipe"), ("n" * 5000, "no recipe")):
        with pytest.raises(ConfigError, match=message):
            parse_recipe(["--recipe", str(tmp_path / name)])
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "it is a pipe" in error_line(["train", "--recipe", str(tmp_path / "pipe")], empty, capsys)
    compared = ["compare", "transxnet_nano", "--out", "x", "--recipe"]
    assert "it is a pipe" in error_line([*compared, str(tmp_path / "pipe")], empty, capsys)
    assert "is a recipe for detection" in error_line([*compared, "scenes/retinanet"], empty, capsys)
    (tmp_path / "config.yaml").write_text("task: classification\nlr: [1]")  # as of a run folder
    assert "config.yaml: lr must be" in error_line(["train", "--resume", str(tmp_path)], empty, capsys)


def test_nothing_is_lost_between_a_recipe_and_its_file(tmp_path: Path) -> None:
    texts = ["1e5", "010", "1:30", "2020-01-01", "yes", "null", "\udcff", "a\nb", "\x85", "😀", "1_0", "=", "<<", "-"]
    assert load_yaml(dump_yaml({"texts": texts})) == {"texts": texts}
    levels = "a: " + "[" * (MAX_LEVELS - 1) + "]" * (MAX_LEVELS - 1)
    assert json.dumps(load_yaml(levels)).count("[") == MAX_LEVELS - 1
    assert load_yaml("a: &a {b: 1e-3}\nc: {<<: *a, d: .5}") == {"a": {"b": 1e-3}, "c": {"b": 1e-3, "d": 0.5}}
    (tmp_path / "mine.yaml").write_text("lr: 1\naugmentation: {crop_scale: [1, 1]}\ndata: '😀'")
    recipe = parse_recipe(["--recipe", str(tmp_path / "mine.yaml"), "--augmentation.hflip", "0.25"])
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert parse_recipe(["--recipe", str(tmp_path / "again.yaml")]) == recipe
    assert yaml.safe_load(recipe.to_yaml())["augmentation"]["hflip"] == 0.25
    assert (recipe.lr, recipe.data) == (1.0, "😀")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe"], "--recipe needs a value"),
        (["train", "--recipe="], "--recipe needs a value"),
        (["train", "--recipe", "--epochs", "1"], "--recipe needs a value"),
        (["train", "--resume"], "--resume needs a value"),
        (["train", "--out"], "--out needs a value"),
        (["train", "--epo", "1"], "nrecognized arguments: --epo"),
        (["train", "--augmentation", "mine.yaml"], "--augmentation is not an option by itself"),
        (["train", "--devices", "1000000"], "devices must be a whole number from 1 to 128"),
        (["train", "--devices", "9" * 5000], "devices is a number above 0"),
        (["train", "--epochs", "[" * 60_000], "--epochs must be a whole number from 1 to 100,000, not '[[[["),
        (["train", "--epochs", "{a: &a [x,x,x,x,x,x,x,x,x], " + ", ".join(
            f"k{i}: &k{i} [{','.join([f'*k{i - 1}' if i else '*a'] * 9)}]" for i in range(9)) + "}"],
         "--epochs must be a whole number from 1 to 100,000, not '{a: &a"),
        (["train", "--epochs", "!!int"], "--epochs must be a whole number from 1 to 100,000, not ''"),
        (["train", "--epochs=010"], "--epochs must be a whole number from 1 to 100,000, not '010'"),
        (["bench", "--batch-size", "1", "!!int", "--rounds", "1"], "--batch-size must be a whole number from 1 to"),
        (["train", "--model", "null"], "without a checkpoint to follow"),
        (["train", "--precision", "64"], '--precision must be "auto", "32", "bf16-mixed" or "16-mixed", not \'64\''),
        (["train", "--image-size", "x"], "--image-size must be a whole number from 32 to 16,384, or null, not 'x'"),
        (["train", "--task", "detection", "--recipe", "scenes/retinanet", "--backbone-settings", "[[["],
         "--backbone-settings must be a mapping of names to values, not '[[['"),
        (["compare", "transxnet_nano", "--out", "x", "--recipe="], "--recipe needs a value"),
        (["compare", "transxnet_nano", "--out", "x", "--seed", "4294967295"], "the last seed must be"),
        (["erf", "--model", "transxnet_nano", "--stage", "9" * 5000], "has stages 1 to 4"),
    ],
)  # fmt: skip
def test_mistakes_in_options_are_a_line(
    arguments: Sequence[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = error_line(arguments, tmp_path, capsys)
    assert message in printed and len(printed) < 600


def test_arguments_after_two_dashes_remain_as_they_are(parser_of: Callable[[str], CommandParser]) -> None:
    options = parser_of("predict").parse(["--batch-size", "2", "--", "--dash-ed.png", "--top"])
    assert (options.images, options.batch_size) == (["--dash-ed.png", "--top"], 2)
    assert first_options(["--out", "a", "--", "--out"], "out") == ({"out": "a"}, False)


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, *HUGE, "2", True], ids=range(8))
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("batch_size", lambda bad, out: measure_speed([], bad)),
        ("rounds", lambda bad, out: measure_speed([], 1, rounds=bad)),
        ("train", lambda bad, out: write_scenes(out, train=bad)),
        ("size", lambda bad, out: write_scenes(out, size=(bad, 64))),
        ("shard_bytes", lambda bad, out: plan_shards(str(out), bad)),
        ("limit", lambda bad, out: open_examples([], bad)),
        ("image_size", lambda bad, out: open_networks(["transxnet_nano"], image_size=bad)),
        ("num_classes", lambda bad, out: transxnet.create_detector("retinanet", num_classes=bad)),
        ("pyramid_channels", lambda bad, out: transxnet.create_segmenter(pyramid_channels=bad)),
        ("calibration_images",
         lambda bad, out: transxnet.export(transxnet.TransXNet(VARIANTS["transxnet_nano"]).eval(), out / "a.onnx",
                                           calibration_images=bad)),
        ("opset", lambda bad, out: transxnet.export(transxnet.TransXNet(VARIANTS["transxnet_nano"]).eval(),
                                                    out / "a.onnx", opset=bad)),
        ("workers", lambda bad, out: worker_settings(bad or -1)),
        ("max_bad", lambda bad, out: BadImages(1, bad or -1)),
    ],
)  # fmt: skip
def test_functions_refuse_what_commands_refuse(
    name: str, call: Callable[[Any, Path], object], bad: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be"):
        call(bad, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_value_is_returned_as_its_type_has_it() -> None:
    assert checked("share", 1, Share) == 1.0 and isinstance(checked("share", 1, Share), float)
    assert checked("shares", [1, 0], tuple[Share, Share]) == (1.0, 0.0)
    assert checked("share", None, Share | None) is None
    assert checked("outer", {"hflip": 1}, DetectionAugmentation) == {"hflip": 1.0}
    with pytest.raises(ConfigError, match="outer.hflip must be a number from 0 to 1, not 2"):
        checked("outer", {"hflip": 2}, DetectionAugmentation)
