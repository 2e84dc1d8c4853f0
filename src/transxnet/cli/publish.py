"""``transxnet publish``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from transxnet.api.publishing import publish
from transxnet.cli.parsing import CommandParser, add_force
from transxnet.cli.streams import note, say
from transxnet.text import counted

_ABOUT = """\
Write a network as a folder for the Hugging Face Hub: the weights, config.json as timm writes it,
and a model card from the run's settings, data and scores. timm, transformers and this package load
the folder. Nothing is uploaded: the command that would is printed."""
_EXAMPLES = """\
  transxnet publish runs/photos photo-classes --license cc-by-4.0
  transxnet publish runs/photos photo-classes --repo user/photo-classes --no-pictures
  transxnet publish runs/photos/checkpoints/best.ckpt best
  transxnet predict cat.jpg --checkpoint photo-classes
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, write the folder, and print what it holds."""
    parser = CommandParser("publish", _ABOUT, _EXAMPLES)
    parser.usage = "transxnet publish RUN FOLDER [options]"
    add = parser.add_argument
    add("run", type=str, metavar="RUN", help="a run folder, or a checkpoint of a classifier, detector or segmenter")
    add("folder", type=str, metavar="FOLDER", help="the folder to write")
    add("--license", type=str, help="identifier of the weights' licence on the Hub, such as apache-2.0 or cc-by-4.0 "
        "(default: the card states none)")  # fmt: skip
    add("--repo", type=str, metavar="USER/NAME", help="name that the network will have on the Hub, for the code in the "
        "card")  # fmt: skip
    add("--dataset", type=str, action="append", default=[], metavar="NAME", help="name on the Hub of the data that it "
        "was trained on; repeatable")  # fmt: skip
    add("--no_pictures", action="store_true", help="leave out samples.png, which shows images of the data, and "
        "curves.png")  # fmt: skip
    add("--json", action="store_true", help="print the result as JSON")
    add_force(parser)
    options = parser.parse(arguments)
    published = publish(
        options.run,
        options.folder,
        license=options.license,
        repo=options.repo,
        datasets=options.dataset,
        pictures=not options.no_pictures,
        force=options.force,
    )
    if options.json:
        sys.stdout.write(json.dumps(published.to_dict(), indent=2) + "\n")
        return 0
    classes = f", {counted(published.classes, 'class')}" if published.classes else ""
    say(f"{published.folder}: {published.architecture}, {published.task}{classes}")
    for name in published.files:
        say(f"  {name:<18} {(published.folder / name).stat().st_size / 1e3:9,.1f} kB")
    for remark in published.remarks:
        note(f"note: {remark}")
    say(f"nothing was uploaded; this command would: {published.upload}")
    return 0
