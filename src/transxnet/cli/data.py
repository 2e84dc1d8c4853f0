"""``transxnet data``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transxnet.bounds import ImageCount, Megabytes, SceneSide, Seed, Workers
from transxnet.cli.parsing import CommandParser, add_crowds, image_progress
from transxnet.cli.streams import error_console, table_console
from transxnet.console import Table, escape
from transxnet.data.data_set_check import DataCheck, DataReport
from transxnet.data.dense_data_check import DenseCheck, is_annotated
from transxnet.data.packed.manifest import Manifest
from transxnet.data.packed.sharding import plan_shards, write_shards
from transxnet.errors import ConfigError
from transxnet.extras import require
from transxnet.files import user_path
from transxnet.output_paths import check_apart, output_folder

_OVERVIEW = """\
usage: transxnet data shard FOLDER OUT [options]
       transxnet data check PATH [options]
       transxnet data scenes OUT [options]

Data sets of many images.

commands:
  shard   pack a folder of images into tar files, which disks and networks read faster
  check   decode every image of a folder, of shards or of Parquet files, and list the broken ones;
          check annotations of boxes or pixels too
  scenes  write the embedded scenes as a folder in the formats of COCO and ADE20K

`transxnet data shard --help`, `check --help` and `scenes --help` list the options.

examples:
  transxnet data check photos
  transxnet data scenes scenes
  transxnet data shard imagenet imagenet-shards
  transxnet train --data imagenet-shards
"""

_ABOUT_SHARD = """\
Write a folder of images (train/ and val/ with a folder for each class, or the class folders
themselves) as tar files in the style of WebDataset: the images' own bytes, in a shuffled order,
with the class index beside each. --data accepts the result like the folder: the same images, in the
same order, with the same classes. Run it again after an interruption: complete shards are kept.
Exits with 1 if files could not be read; they are reported and left out."""
_EXAMPLES_SHARD = """\
  transxnet data shard imagenet imagenet-shards
  transxnet data shard photos photo-shards --shard-mb 100
"""

_ABOUT_CHECK = """\
Decode every image of a folder of images, of tar shards or of Parquet files, and compare shards with
their digests. In a folder in COCO's or ADE20K's layout, annotations are checked too. Exits with 0
if all is well, with 1 if something is broken or left out."""
_EXAMPLES_CHECK = """\
  transxnet data check imagenet --workers 8
  transxnet data check imagenet-shards --workers 8 --json
  transxnet data check coco --workers 8
"""

_ABOUT_SCENES = """\
Write the embedded scenes: handwritten digits on photographs, all of which install with scikit-learn
and scikit-image, as a folder in the formats of COCO and of ADE20K. --data accepts it for detection
and for segmentation; it also shows the layout for a data set of your own."""
_EXAMPLES_SCENES = """\
  transxnet data scenes scenes
  transxnet data scenes few --train 40 --val 10 --height 256 --width 320 --seed 1
"""


def run(arguments: Sequence[str]) -> int:
    """Find the command of the two, and run it."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_OVERVIEW)
        return 0
    commands = {"shard": _shard, "check": _check, "scenes": _scenes}
    if arguments[0] not in commands:
        raise ConfigError(f"there is no command {arguments[0]!r}; there are {', '.join(commands)}")
    return commands[arguments[0]](arguments[1:])


def _shard(arguments: Sequence[str]) -> int:
    parser = CommandParser("data shard", _ABOUT_SHARD, _EXAMPLES_SHARD)
    parser.usage = "transxnet data shard FOLDER OUT [options]"
    parser.add_argument("folder", type=str, help="a folder of images")
    parser.add_argument("out", type=str, help="the folder to write to; new, or with a part of the shards")
    parser.add_number("--shard_mb", Megabytes, default=1000, help="size of a shard in MB")
    about_seed = "seed of the order, and of what is held out if there is no val/"
    parser.add_number("--seed", Seed, default=0, help=about_seed)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse(arguments)
    folder, out = user_path(options.folder), user_path(options.out)
    check_apart(out, [folder])
    plan = plan_shards(str(folder), max(1, round(options.shard_mb * 1e6)), options.seed)
    for line in plan.findings.lines():
        error_console().print(f"data: {line}", markup=False)
    with image_progress() as progress:
        task = progress.add_task("writing", total=plan.images)
        manifest, kept = write_shards(plan, out, lambda count: progress.advance(task, count))
    skipped = {name: reason for record in manifest.shards for name, reason in record.skipped.items()}
    console = error_console()
    for name, reason in skipped.items():
        console.print(f"left out {name}: {reason}", markup=False)
    if options.json:
        sys.stdout.write(json.dumps(_written(manifest, out, kept, skipped), indent=2) + "\n")
    else:
        _print_written(manifest, out, kept, skipped)
    return 1 if skipped else 0


def _written(manifest: Manifest, out: Path, kept: int, skipped: dict[str, str]) -> dict[str, object]:
    parts = {
        part: {
            "images": sum(record.images for record in manifest.shards if record.part == part),
            "shards": sum(record.part == part for record in manifest.shards),
            "bytes": sum(record.bytes for record in manifest.shards if record.part == part),
        }
        for part in ("train", "val")
    }
    return {"out": str(out), "classes": len(manifest.classes), "parts": parts, "kept": kept, "skipped": skipped}


def _print_written(manifest: Manifest, out: Path, kept: int, skipped: dict[str, str]) -> None:
    table = Table("part", "images", "shards", "MB", box=None)
    parts = _written(manifest, out, kept, skipped)["parts"]
    assert isinstance(parts, dict)
    for part, counted in parts.items():
        table.add_row(part, str(counted["images"]), str(counted["shards"]), f"{counted['bytes'] / 1e6:.1f}")
    console = table_console()
    console.print(table)
    left_out = f", {len(skipped)} left out" if skipped else ""
    again = f", {kept} of {len(manifest.shards)} shards were there already" if kept else ""
    console.print(f"{out}: {len(manifest.classes)} classes{again}{left_out}", markup=False)


def _check(arguments: Sequence[str]) -> int:
    parser = CommandParser("data check", _ABOUT_CHECK, _EXAMPLES_CHECK)
    parser.usage = "transxnet data check PATH [options]"
    parser.add_argument("path", type=str, help="a folder of images, of tar shards or of Parquet files")
    about_zero = "in labels of pixels, 0 means none, as in ADE20K"
    parser.add_argument("--reduce_zero_label", action="store_true", help=about_zero)
    add_crowds(parser)
    parser.add_number("--workers", Workers, default=0, help="processes that decode (default: 0, the main one)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse(arguments)
    if is_annotated(options.path):
        return _check_annotated(options)
    check = DataCheck(options.path)
    with image_progress() as progress:
        task = progress.add_task("checking", total=check.steps)
        findings = check.run(options.workers, lambda count: progress.advance(task, count))
    if options.json:
        sys.stdout.write(_found(findings) + "\n")
    else:
        _print_found(findings)
    return 0 if findings.sound else 1


def _found(findings: DataReport) -> str:
    parts = {part: {name: vars(count) for name, count in counts.items()} for part, counts in findings.parts.items()}
    content = {"data": findings.description.to_dict(), "parts": parts, "broken": dict(findings.broken)}
    return json.dumps(content, indent=2)


def _print_found(findings: DataReport) -> None:
    table = Table("part", "class", "images", "broken", box=None)
    for part, counts in findings.parts.items():
        for name, count in counts.items():
            table.add_row(part, escape(name), str(count.images), str(count.broken or ""))
    console = table_console()
    for line in findings.description.lines():
        console.print(line, markup=False, soft_wrap=True)
    console.print(table)
    for name, reason in findings.broken.items():
        console.print(f"broken {name}: {reason}", markup=False, soft_wrap=True)
    images = sum(count.images for counts in findings.parts.values() for count in counts.values())
    left_out = sum(findings.description.findings.counts.values())
    also = f", {left_out:,} left out" if left_out else ""
    console.print(f"{images} images, {len(findings.broken) or 'nothing'} broken{also}")


def _check_annotated(options: Any) -> int:
    require('"transxnet data check" of annotations', "dense")
    check = DenseCheck(options.path, reduce_zero_label=options.reduce_zero_label, crowds=options.crowds)
    with image_progress() as progress:
        task = progress.add_task("checking", total=check.steps)
        findings = check.run(options.workers, lambda count: progress.advance(task, count))
    if options.json:
        parts = {name: {"images": images, "objects": objects} for name, (images, objects) in findings.parts.items()}
        content: dict[str, Any] = {"data": findings.description.to_dict(), "parts": parts}
        content |= {"annotations": findings.annotations, "broken": dict(findings.broken)}
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return 0 if findings.sound else 1
    console = table_console()
    for line in findings.description.lines():
        console.print(line, markup=False, soft_wrap=True)
    for name, reason in findings.broken.items():
        console.print(f"broken {name}: {reason}", markup=False, soft_wrap=True)
    console.print(f"{len(findings.broken) or 'nothing'} broken")
    return 0 if findings.sound else 1


def _scenes(arguments: Sequence[str]) -> int:
    parser = CommandParser("data scenes", _ABOUT_SCENES, _EXAMPLES_SCENES)
    parser.usage = "transxnet data scenes OUT [options]"
    parser.add_argument("out", type=str, help="the folder to write to")
    parser.add_number("--train", ImageCount, default=4800, help="number of training images")
    parser.add_number("--val", ImageCount, default=120, help="number of validation images")
    parser.add_number("--height", SceneSide, default=128, help="of a landscape image, in pixels")
    parser.add_number("--width", SceneSide, default=160, help="of a landscape image, in pixels")
    parser.add_number("--seed", Seed, default=0, help="seed of the scenes")
    options = parser.parse(arguments)
    out = output_folder(options.out)
    require('"transxnet data scenes"', "dense")
    from transxnet.data.scenes import write_scenes  # with scikit-image

    with image_progress() as progress:
        task = progress.add_task("writing", total=options.train + options.val)
        write_scenes(
            out,
            train=options.train,
            validation=options.val,
            size=(options.height, options.width),
            seed=options.seed,
            advance=lambda count: progress.advance(task, count),
        )
    table_console().print(f"{out}: {options.train} training images, {options.val} validation images", markup=False)
    return 0
