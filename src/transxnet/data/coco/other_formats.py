"""Recognising formats of annotated objects by the beginning of a file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from transxnet.data.names import is_file, is_folder
from transxnet.data.splits import TRAIN, VALIDATION
from transxnet.files import open_regular

COCO = "COCO"
COCO_NAME = re.compile(r"^instances.*\.json$|coco.*\.json$", re.IGNORECASE)
"""Names that only COCO's files have."""

_HEAD = 2**18  # bytes that are looked at
_FILES = 50  # entries of a folder that are looked at
_KEYS = re.compile(r'"(images|annotations|categories)"\s*:\s*\[')
_PARTS = (*TRAIN, *VALIDATION)
_FOLDERS = ("", "images", "annotations", "Annotations", "ann", "labels", "JPEGImages", *_PARTS)


@dataclass(frozen=True)
class ForeignAnnotations:
    """A format of annotations that is not read.

    Attributes:
        tool: The tool that writes it.
        advice: How to convert it.
    """

    tool: str
    advice: str

    @property
    def refusal(self) -> str:
        """Predicate of a message about a file."""
        return f"is {self.tool}, which is not read; {self.advice}"


_LABELME = ForeignAnnotations(
    "a file of labelme (one for each image)",
    "convert them to one COCO file for all images, such as with labelme2coco",
)
_LABEL_STUDIO = ForeignAnnotations("Label Studio's own JSON", "export the project as COCO")
_VIA = ForeignAnnotations("a project of VGG Image Annotator", "export it as COCO")
_CREATE_ML = ForeignAnnotations("a file of CreateML", "export the annotations as COCO")
_RESULTS = ForeignAnnotations(
    "a list of detections in COCO's results format", "give the file with images, annotations and categories"
)
_VOC = ForeignAnnotations("a file of Pascal VOC (one for each image)", "convert them to one COCO file for all images")
_CVAT = ForeignAnnotations("CVAT's own XML", "export the task as COCO")
_DATUMARO = ForeignAnnotations("Datumaro's own JSON", "convert it to COCO")
_SUPERVISELY = ForeignAnnotations("a file of Supervisely (one for each image)", "export the project as COCO")
_YOLO = ForeignAnnotations("a file of YOLO", "convert the labels to one COCO file for all images")


def format_of(path: Path) -> str | ForeignAnnotations | None:
    """The format of a JSON or XML file by its first bytes: COCO, another one, or None."""
    try:
        with open_regular(path) as file:
            content = file.read(_HEAD)
    except OSError:
        return None
    text = content.decode("utf-8-sig", errors="ignore").replace("\0", "").lstrip()
    if path.suffix.lower() == ".xml":
        if "<annotations" in text:
            return _CVAT if "<image" in text or "<track" in text else None
        return _VOC if "<annotation" in text and "<object" in text else None
    if text.startswith("["):
        return _format_of_list(text)
    if '"shapes"' in text and re.search('"(version|flags|imagePath)"', text):
        return _LABELME
    if '"_via_settings"' in text or ('"regions"' in text and '"filename"' in text):
        return _VIA
    if '"classTitle"' in text and '"objects"' in text:
        return _SUPERVISELY
    if '"items"' in text and '"categories"' in text and '"images"' not in text:
        return _DATUMARO
    keys = set(_KEYS.findall(text))
    return COCO if text.startswith("{") and len(keys) >= (1 if len(content) == _HEAD else 2) else None


def _format_of_list(text: str) -> ForeignAnnotations | None:
    if '"coordinates"' in text and '"annotations"' in text:
        return _CREATE_ML
    if '"image_id"' in text and '"score"' in text:
        return _RESULTS
    if ('"annotations"' in text and '"result"' in text) or '"annotation_id"' in text:
        return _LABEL_STUDIO
    return None


def foreign_annotations(root: Path) -> tuple[Path, ForeignAnnotations] | None:
    """A file of annotated objects in a format that is not read, with the format; None if there is none.

    The folder itself and the usual ones for images, annotations and parts are searched.
    """
    folders = [root / name for name in _FOLDERS]
    folders += [root / above / part for above in ("images", "labels") for part in _PARTS]
    folders += [root / part / below for part in _PARTS for below in ("images", "labels")]
    for folder in dict.fromkeys(folders):
        for path in _first_files(folder):
            if path.suffix.lower() in (".json", ".xml"):
                kind = format_of(path)
                if isinstance(kind, ForeignAnnotations):
                    return path, kind
            elif folder.name in ("labels", *_PARTS) and _is_yolo(path):
                return path, _YOLO
    return None


def _first_files(folder: Path) -> list[Path]:
    """Some files of a folder; none if it cannot be listed."""
    if not is_folder(folder):
        return []
    try:
        with os.scandir(folder) as entries:
            files = [Path(entry.path) for entry in islice(entries, 20 * _FILES) if not entry.name.startswith(".")]
    except OSError:
        return []
    described = [path for path in files if path.suffix.lower() in (".json", ".xml", ".txt")]
    return sorted(path for path in described if is_file(path))[:_FILES]


def _is_yolo(path: Path) -> bool:
    """Whether a text file's first line is a class index and numbers from 0 to 1."""
    if path.suffix.lower() != ".txt":
        return False
    try:
        with open_regular(path) as file:
            words = file.readline(1000).split()
        values = [float(word) for word in words]
    except (OSError, ValueError):
        return False
    return len(values) >= 5 and words[0].isdigit() and all(0 <= value <= 1 for value in values[1:])
