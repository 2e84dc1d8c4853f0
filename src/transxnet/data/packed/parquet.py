"""Images in local Parquet files, in the format of data sets on the Hugging Face Hub."""

from __future__ import annotations

import glob
import importlib
import io
import logging
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from transxnet.data.findings import Findings
from transxnet.data.images.reading import BadImageError, decode_image, read_image
from transxnet.data.names import is_file
from transxnet.data.packed.parquet_labels import class_indices, class_labels, class_names, one_column
from transxnet.data.splits import TRAIN, VALIDATION, part_files, part_folders, part_of_folder, remark_parts
from transxnet.errors import DataError
from transxnet.extras import load
from transxnet.files import check_regular, read_json, reading, reason

_IMAGES = ("image", "img", "picture", "jpg", "png", "webp")
_BINARY = ("binary", "large_binary", "binary_view")
_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_ADVICE = "download it again"
_BATCH = 64  # rows read at a time to find the damaged file


@dataclass(frozen=True)
class ParquetSource:
    """Rows of a table, each with an image and its class.

    Attributes:
        class_names: Names of the classes.
        column: The table's image column, memory-mapped.
        rows: (n), row indices in the table.
        classes: (n), class indices.
        files: Names of the files of the table.
        ends: The row at which each file ends.
        root: The data set's folder.
    """

    class_names: Sequence[str]
    column: Any
    rows: npt.NDArray[np.int64]
    classes: npt.NDArray[np.intc]
    files: Sequence[str]
    ends: Sequence[int]
    root: Path
    targets: Sequence[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", array("i", self.classes.astype(np.intc).tobytes()))

    def name(self, index: int) -> str:
        row = int(self.rows[index])
        file = bisect_right(self.ends, row)
        return f"{self.files[file]}:{row - (self.ends[file - 1] if file else 0)}"

    def load(self, index: int) -> Image.Image:
        name = self.name(index)
        try:
            (value,) = self.column[int(self.rows[index])].values()
        except Exception as error:  # the library can raise anything
            raise BadImageError(name, f"damaged ({reason(error)})") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return decode_image(name, content)
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            return read_image(self._below(name, value["path"]))
        raise BadImageError(name, "the row has no image")

    def _below(self, name: str, path: str) -> Path:
        """The file that a row names, which must be in the data set's folder."""
        root = self.root.resolve()
        try:
            file = (root / path).resolve()
        except (OSError, ValueError) as error:
            raise BadImageError(name, f"the row's path is invalid: {path[:80]!r}") from error
        if not file.is_relative_to(root):
            raise BadImageError(name, f"the row names a file outside {self.root}: {path[:80]!r}")
        return file

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, indices: npt.NDArray[np.intp]) -> ParquetSource:
        return replace(self, rows=self.rows[indices], classes=self.classes[indices])

    def relabelled(self, class_names: Sequence[str], indices: Sequence[int]) -> ParquetSource:
        return replace(self, class_names=tuple(class_names), classes=np.asarray(indices, np.intc)[self.classes])


def open_parquet(root: Path, findings: Findings | None = None) -> dict[str, ParquetSource]:
    """Open the parts "train" and "val" of a folder of Parquet files, or one written by ``save_to_disk``.

    Returns an empty dictionary for other folders. Parquet files are copied once into the cache of the
    library ``datasets`` for random access. Nothing is downloaded.

    Args:
        root: The folder.
        findings: Receives remarks.

    Raises:
        DataError: If the files are damaged or have no labelled images.
        MissingExtraError: If ``datasets`` is not installed.
    """
    findings = Findings() if findings is None else findings
    files = part_files(root, ".parquet", findings)
    saved = {} if files else _saved(root, findings)
    if not files and not saved:
        return {}
    library = load(str(root), "parquet", "datasets")
    try:
        with _quiet():
            return _sources(root, library, _from_files(library, files) if files else _from_disk(library, saved))
    except DataError:
        raise
    except Exception as error:  # the library can raise anything
        raise DataError(f"{root} cannot be read ({reason(error.__cause__ or error)})") from error


_Tables = dict[str, tuple[Any, list[str], list[int]]]


def _sources(root: Path, library: Any, tables: _Tables) -> dict[str, ParquetSource]:
    labels = {part: class_labels(root, table) for part, (table, _, _) in tables.items()}
    names = class_names(root, list(labels.values()))
    sources = {}
    for part, (table, origin, ends) in tables.items():
        column = _image_column(root, table)
        if isinstance(table.features[column], library.Image):
            table = table.cast_column(column, library.Image(decode=False))
        classes = class_indices(root, labels[part], names)
        if not len(classes):
            raise DataError(f"{root} has no rows for {part}")
        images = table.select_columns([column]).with_format(None)
        images.data.validate(full=True)  # the offsets of the rows' bytes
        sources[part] = ParquetSource(names, images, np.arange(len(classes)), classes, origin, ends, root)
    return sources


def _from_files(library: Any, files: Mapping[str, Sequence[Path]]) -> _Tables:
    arrow = importlib.import_module("pyarrow.parquet")
    tables: _Tables = {}
    for part, paths in files.items():
        counts = [_row_count(arrow, path) for path in paths]
        full = [str(path.resolve()) for path, count in zip(paths, counts, strict=True) if count]
        if not full:
            raise DataError(f"{paths[0].parent} has no rows for {part}")
        try:
            table = library.Dataset.from_parquet(list(map(glob.escape, full)), split=part)
        except Exception:
            for path in paths:  # the library does not name the damaged one
                with reading(path, DataError, _ADVICE), arrow.ParquetFile(path) as file:
                    list(map(len, file.iter_batches(_BATCH)))
            raise
        tables[part] = table, [str(path) for path in paths], list(accumulate(counts))
    return tables


def _row_count(arrow: Any, path: Path) -> int:
    with reading(path, DataError, _ADVICE):
        size = check_regular(path)
        rows = int(arrow.read_metadata(path).num_rows)
        if not 0 <= rows <= size:
            raise ValueError(f"it claims {rows:,} rows in {size:,} bytes")
    return rows


def _saved(root: Path, findings: Findings) -> dict[str, Path]:
    """Find the folders of the parts written by ``save_to_disk``; empty for other folders.

    Paths out of a folder, and files that would block, are refused.

    Raises:
        DataError: If the files that describe the tables cannot be read, or there is no "train" or "val".
    """
    if is_file(root / _STATE) and is_file(root / _INFO):
        _check_saved(root)
        return {"train": root}
    if not is_file(root / _SPLITS):
        return {}
    with reading(root / _SPLITS, DataError):
        splits = read_json(root / _SPLITS)["splits"]
        if not isinstance(splits, list):
            raise ValueError("its splits are not a list")
    folders = [root / name for name in splits if isinstance(name, str)]
    train, validation = (part_folders(folders, names) for names in (TRAIN, VALIDATION))
    found = {part: chosen[0] for part, chosen in (("train", train), ("val", validation)) if chosen}
    words = [(str(part_of_folder(path.name)), f"the part {path.name}") for path in validation]
    remark_parts(findings, words, has_train=bool(train))
    if not found:
        raise DataError(f"{root} has no split named {',  '.join((*TRAIN, *VALIDATION))}")
    for folder in found.values():
        _check_saved(folder)
    return found


def _check_saved(folder: Path) -> None:
    with reading(folder / _STATE, DataError):
        for entry in read_json(folder / _STATE)["_data_files"]:
            name = entry["filename"]
            if Path(name).name != name:
                raise ValueError(f"it names a file outside its folder: {name[:80]!r}")
            check_regular(folder / name)
    with reading(folder / _INFO, DataError):
        read_json(folder / _INFO)


def _from_disk(library: Any, folders: Mapping[str, Path]) -> _Tables:
    tables: _Tables = {}
    for part, folder in folders.items():
        table = library.load_from_disk(str(folder.resolve()))
        tables[part] = table, [str(folder)], [len(table)]
    return tables


@contextmanager
def _quiet() -> Iterator[None]:
    """Show the library's progress only on a terminal, and not its log, which repeats its errors."""
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _image_column(root: Path, table: Any) -> str:
    features = table.features
    found = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    found = found or [name for name, feature in features.items() if isinstance(feature, dict) and "bytes" in feature]
    found = found or [name for name, feature in features.items() if getattr(feature, "dtype", "") in _BINARY]
    return one_column(root, "images", _IMAGES, found, list(features))
