"""``transxnet convert``."""

from __future__ import annotations

from collections.abc import Sequence

from transxnet.checkpoints.writing import save_model
from transxnet.cli.parsing import CommandParser, add_force
from transxnet.console import SafeConsole
from transxnet.errors import ConfigError
from transxnet.files import user_path
from transxnet.output_paths import output_file
from transxnet.text import counted
from transxnet.zoo import create_model, load_model

_ABOUT = """\
Convert a released checkpoint to a safetensors file with its configuration. The file is read
without executing anything in it, and every entry must be used."""
_EXAMPLES = """\
  transxnet convert transx-t.pth.tar transxnet_tiny.safetensors
"""


def run(arguments: Sequence[str]) -> int:
    """Parse, convert and print what was written."""
    parser = CommandParser("convert", _ABOUT, _EXAMPLES)
    parser.usage = "transxnet convert CHECKPOINT OUT [options]"
    parser.add_argument("checkpoint", type=str, help="a released file, one of ours, or a URL")
    parser.add_argument("out", type=str, help="the file to write, ending in .safetensors")
    parser.add_argument("--model", type=str, help="name of the network, if it does not follow from the sizes")
    add_force(parser)
    options = parser.parse(arguments)
    out = user_path(options.out)
    if out.suffix != ".safetensors":
        raise ConfigError(f"the output must end in .safetensors, not {out.name}")
    out = output_file(out, inputs=[options.checkpoint], force=options.force)
    if options.model:
        model = create_model(options.model, checkpoint=options.checkpoint)
    else:
        model = load_model(options.checkpoint)
    save_model(model, out)
    name = vars(model)["pretrained_cfg"]["architecture"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console = SafeConsole(highlight=False, soft_wrap=True)
    console.print(f"{out}: {name}, {counted(model.num_classes, 'class')}, {parameters:,} parameters", markup=False)
    return 0
