"""Looking through PyTorch's exported programs before they are loaded."""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

from transxnet.checkpoints.archives import open_archive, read_part
from transxnet.checkpoints.pickles import check_pickle
from transxnet.errors import CheckpointError
from transxnet.inference.formats import METADATA_FILE

# Files that our writer makes, below the archive's own folder.
_LAYOUT = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|extra/" + re.escape(METADATA_FILE) + r"|archive_format"
    r"|archive_version|byteorder|\.data/(version|serialization_id)"
)
_INPUTS = re.compile(r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment"
                     r"|\.data/serialization_id)")  # fmt: skip


def check_program(path: Path) -> str | None:
    """Refuse a program with anything that our writer never writes, such as pickled constants.

    ``torch.export.load`` unpickles some parts freely. The program itself is not looked at: one that is
    not trusted must not be loaded at all.

    Returns:
        The file's description; None if it has none.

    Raises:
        CheckpointError: If there is something else in it.
        Exception: Of any class, if it is damaged.
    """
    with open_archive(path) as archive:
        folder = archive.namelist()[0].partition("/")[0] + "/"
        parts = {name.removeprefix(folder): name for name in archive.namelist()}
        for part, name in parts.items():
            if not name.startswith(folder) or not _LAYOUT.fullmatch(part):
                raise CheckpointError(f"{path} has a part that `transxnet export` does not write: {name!r:.100}")
        for kind in ("weights", "constants"):
            config = json.loads(read_part(archive, parts[f"data/{kind}/model_{kind}_config.json"]))
            _check_values(archive, config["config"], f"{folder}data/{kind}/", path)
        if "data/sample_inputs/model.pt" in parts:
            _check_inputs(read_part(archive, parts["data/sample_inputs/model.pt"]), path)
        metadata = parts.get(f"extra/{METADATA_FILE}")
        return read_part(archive, metadata).decode() if metadata else None


def _check_values(archive: zipfile.ZipFile, config: dict[str, Any], folder: str, path: Path) -> None:
    for name, value in config.items():
        if value["use_pickle"] is not False:
            raise CheckpointError(f"{path} holds {name!r:.100} as a pickle, which could run code; export it again")
        stored = archive.getinfo(folder + value["path_name"]).file_size
        count = math.prod(size["as_int"] for size in value["tensor_meta"]["sizes"])
        if not 0 <= count <= stored:  # a value has at least a byte
            raise CheckpointError(f"{path}: {name!r:.100} states {count:,} values in {stored:,} bytes")


def _check_inputs(content: bytes, path: Path) -> None:
    """The example inputs are a file of PyTorch's of its own, inside the archive."""
    file = io.BytesIO(content)
    with open_archive(file, path) as archive:
        for name in archive.namelist():
            if not _INPUTS.fullmatch(name):
                raise CheckpointError(f"{path} has example inputs with a part {name!r:.100}")
    check_pickle(file, path)
