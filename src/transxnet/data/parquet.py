"""Images in local Parquet files, as data sets of the Hugging Face Hub have them."""

from __future__ import annotations

import importlib
import io
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from timm.utils.misc import natural_key

from transxnet.data.images import BadImageError, decode_image, read_image
from transxnet.data.parts import TRAIN, VALIDATION, part_files
from transxnet.errors import DataError

_IMAGES = ("image", "img", "picture", "jpg", "png", "webp")
_LABELS = ("label", "labels", "fine_label", "target", "cls", "class")


@dataclass(frozen=True)
class ParquetSource:
    """Rows of a table, each with an image and its class.

    Attributes:
        class_names: Names of the classes.
        rows: The table's image column, memory-mapped.
        places: (n), rows in the table.
        numbers: (n), class indices.
        files: Names of the files that the table was read from.
        ends: The row at which each file ends.
    """

    class_names: Sequence[str]
    rows: Any
    places: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.intc]
    files: Sequence[str]
    ends: Sequence[int]
    targets: Sequence[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", array("i", self.numbers.astype(np.intc).tobytes()))

    def name(self, index: int) -> str:
        row = int(self.places[index])
        file = bisect_right(self.ends, row)
        return f"{self.files[file]}:{row - (self.ends[file - 1] if file else 0)}"

    def load(self, index: int) -> Image.Image:
        (value,) = self.rows[int(self.places[index])].values()
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return decode_image(self.name(index), content)
        if isinstance(value, dict) and value.get("path"):
            return read_image(value["path"])
        raise BadImageError(self.name(index), "the row holds no image")

    def subset(self, places: npt.NDArray[np.intp]) -> ParquetSource:
        return replace(self, places=self.places[places], numbers=self.numbers[places])

    def relabelled(self, class_names: Sequence[str], indices: Sequence[int]) -> ParquetSource:
        return replace(self, class_names=tuple(class_names), numbers=np.asarray(indices, np.intc)[self.numbers])


def open_parquet(root: Path) -> dict[str, ParquetSource]:
    """The parts "train" and "val" of a folder of Parquet files, or of one that ``save_to_disk`` wrote.

    Nothing, if the folder is neither. Parquet files are copied once into the cache of the library
    ``datasets``, where rows can be read in any order. The network is not used.

    Args:
        root: The folder.

    Raises:
        DataError: If ``datasets`` is not installed, or the files are damaged or hold no labelled images.
    """
    files = part_files(root, ".parquet")
    saved = all((root / name).is_file() for name in ("state.json", "dataset_info.json"))
    if not files and not saved and not (root / "dataset_dict.json").is_file():
        return {}
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(f'{root} needs a library: pip install "transxnet[parquet]"') from error
    try:
        with _quiet():
            tables = _from_files(library, files) if files else _from_disk(library, root)
    except Exception as error:  # the library raises what its parts raise
        reason = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"{root} cannot be read ({reason})") from error
    labels = {part: _labels(root, table) for part, (table, _, _) in tables.items()}
    names = _class_names([labelled for labelled, _ in labels.values()], [known for _, known in labels.values()])
    sources = {}
    for part, (table, origin, ends) in tables.items():
        column = _image_column(root, table)
        if isinstance(table.features[column], library.Image):
            table = table.cast_column(column, library.Image(decode=False))
        numbers = _numbers(root, labels[part][0], names)
        rows = table.select_columns([column])
        sources[part] = ParquetSource(names, rows, np.arange(len(numbers)), numbers, origin, ends)
    return sources


_Tables = dict[str, tuple[Any, list[str], list[int]]]


def _from_files(library: Any, files: Mapping[str, Sequence[Path]]) -> _Tables:
    counted = importlib.import_module("pyarrow.parquet").read_metadata
    tables: _Tables = {}
    for part, paths in files.items():
        ends = list(accumulate(counted(path).num_rows for path in paths))
        table = library.Dataset.from_parquet([str(path.resolve()) for path in paths], split=part)
        tables[part] = table, [str(path) for path in paths], ends
    return tables


def _from_disk(library: Any, root: Path) -> _Tables:
    loaded = library.load_from_disk(str(root))
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    chosen = {
        part: next((splits[name] for name in names if name in splits), None)
        for part, names in (("train", TRAIN), ("val", VALIDATION))
    }
    return {part: (table, [f"{root}/{part}"], [len(table)]) for part, table in chosen.items() if table is not None}


@contextmanager
def _quiet() -> Iterator[None]:
    """The library's progress on a terminal only."""
    if sys.stderr.isatty():
        yield
        return
    with redirect_stderr(io.StringIO()):
        yield


def _image_column(root: Path, table: Any) -> str:
    features = table.features
    fits = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    fits = fits or [name for name, feature in features.items() if isinstance(feature, dict) and "bytes" in feature]
    fits = fits or [name for name, feature in features.items() if getattr(feature, "dtype", "") == "binary"]
    return _one(root, "images", _IMAGES, fits, list(features))


def _labels(root: Path, table: Any) -> tuple[list[Any], list[str] | None]:
    """What the rows say of their class, and the names where the table has them."""
    features = table.features
    fits = [name for name, feature in features.items() if hasattr(feature, "names") and hasattr(feature, "str2int")]
    fits = fits or [name for name in _LABELS if name in features]
    column = _one(root, "classes", _LABELS, fits, list(features))
    values = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    return values, getattr(features[column], "names", None)


def _one(root: Path, what: str, usual: Sequence[str], fits: Sequence[str], columns: Sequence[str]) -> str:
    if len(fits) == 1:
        return fits[0]
    for name in usual:
        if name in fits:
            return name
    raise DataError(f"{root} has no column of {what} named {', '.join(usual)}; its columns are {', '.join(columns)}")


def _class_names(values: Sequence[Sequence[Any]], known: Sequence[list[str] | None]) -> tuple[str, ...]:
    if known[0] is not None:
        return tuple(known[0])
    present = {value for part in values for value in part if value is not None}
    if all(isinstance(value, int) for value in present):
        return tuple(str(index) for index in range(max(present, default=-1) + 1))
    return tuple(sorted(map(str, present), key=natural_key))


def _numbers(root: Path, values: Sequence[Any], names: Sequence[str]) -> npt.NDArray[np.intc]:
    position = {name: index for index, name in enumerate(names)}
    numbers = [value if isinstance(value, int) else position.get(value, -1) for value in values]
    bad = [row for row, number in enumerate(numbers) if not 0 <= number < len(names)]
    if bad:
        raise DataError(f"{root}: {len(bad)} rows have no class, the first is row {bad[0]} ({values[bad[0]]!r})")
    return np.asarray(numbers, np.intc)
