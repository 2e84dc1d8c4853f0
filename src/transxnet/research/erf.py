"""Averaging effective receptive fields over images, in a resumable run."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from transxnet.bounds import BatchSize, checked
from transxnet.data.examples import Example
from transxnet.data.images.reading import BadImageError
from transxnet.data.loader import Advance
from transxnet.data.transforms import evaluation_transform
from transxnet.errors import DataError
from transxnet.files import check_regular, replacing
from transxnet.research.networks import Network, moved, stage_maps
from transxnet.research.receptive_field import SHARES, Rule, contribution, middle, square, square_area, square_side
from transxnet.version import __version__


@dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of one stage of a network.

    Attributes:
        network: The network.
        stage: Number of the stage, from 1.
        values: (H, W), the mean contribution of each pixel over the images.
        images: Number of images.
    """

    network: Network
    stage: int
    values: npt.NDArray[np.float64]
    images: int

    @property
    def middle(self) -> tuple[int, int]:
        """The pixel (row, column) with half of the contribution on either side."""
        return middle(self.values)

    def square(self, side: int) -> tuple[slice, slice]:
        """The rows and columns of a square around the middle, within the image."""
        return square(self.values, side)

    def squares(self) -> list[tuple[float, int, float]]:
        """For each of :data:`SHARES`: the share, the square's side in pixels, its share of the area."""
        sides = [square_side(self.values, share) for share in SHARES]
        return [(share, side, square_area(self.values, side)) for share, side in zip(SHARES, sides, strict=True)]


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
        stages: Numbers of the stages, from 1, increasing.
        rule: Which outputs and gradients count.
        batch_size: Images in a batch.
        device: PyTorch's name of a device.
        save_seconds: Seconds between two saves of the sums.
    """

    stages: tuple[int, ...]
    rule: Rule = "relu"
    batch_size: int = 1
    device: str = "cpu"
    save_seconds: float = 10.0

    def __post_init__(self) -> None:
        checked("batch_size", self.batch_size, BatchSize)


@dataclass
class _Sums:
    """Sums over the images so far."""

    fields: npt.NDArray[np.float64]  # (stages, H, W)
    done: int = 0  # processed images, bad ones included
    bad: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        with replacing(path) as temporary:
            np.savez(temporary, fields=self.fields, done=self.done, bad=json.dumps(self.bad))

    @classmethod
    def load(cls, path: Path, shape: tuple[int, ...], images: int) -> _Sums | None:
        """Load the sums; None if there are none, or they do not fit the shape and number of images."""
        try:
            check_regular(path)
            with np.load(path) as stored:
                sums = cls(stored["fields"], int(stored["done"]), dict(json.loads(str(stored["bad"]))))
        except Exception:  # noqa: BLE001 (a damaged file only costs time)
            return None
        fits = sums.fields.shape == shape and sums.fields.dtype == np.float64 and 0 <= sums.done <= images
        return sums if fits else None


def measure(
    network: Network,
    examples: Sequence[Example],
    settings: Settings,
    *,
    state: Path | None = None,
    advance: Advance = lambda _: None,
) -> tuple[list[ReceptiveField], dict[str, str]]:
    """Average the effective receptive fields of a network's stages over images.

    Args:
        network: The network, which is moved to the device.
        examples: The images, which are preprocessed as for the network's evaluation.
        settings: The settings.
        state: File for the sums, from which a killed run resumes with bit-identical results. It is not
            removed. :func:`state_path` names it after networks, images and settings.
        advance: Called with the number of images just processed.

    Returns:
        A field for each stage, and name and reason for each unreadable image.

    Raises:
        DataError: If no image can be read.
    """
    shape = (len(settings.stages), *network.input_size[1:])
    sums = (_Sums.load(state, shape, len(examples)) if state else None) or _Sums(np.zeros(shape))
    advance(sums.done)
    model = moved(network.model.eval(), settings.device).requires_grad_(False)
    saved = time.monotonic()
    try:
        for start in range(sums.done, len(examples), settings.batch_size):
            batch = examples[start : start + settings.batch_size]
            _add(sums, model, batch, settings)
            if state and time.monotonic() - saved >= settings.save_seconds:
                sums.save(state)
                saved = time.monotonic()
            advance(len(batch))
    finally:
        if state and sums.done > len(sums.bad):
            sums.save(state)
    used = sums.done - len(sums.bad)
    if not used:
        name, reason = next(iter(sums.bad.items()), ("", "none was given"))
        raise DataError(f"none of {len(examples)} images can be used; the first is {name} ({reason})")
    means = sums.fields / used
    fields = [ReceptiveField(network, stage, mean, used) for stage, mean in zip(settings.stages, means, strict=True)]
    return fields, sums.bad


def _add(sums: _Sums, model: nn.Module, examples: Sequence[Example], settings: Settings) -> None:
    """Add a batch, atomically."""
    transform = evaluation_transform(vars(model)["pretrained_cfg"])
    images, bad = [], {}
    for example in examples:
        try:
            images.append(transform(example.read()))
        except BadImageError as error:
            bad[error.path] = error.reason
    if images:
        batch = torch.stack(images).to(settings.device)
        added = contribution(lambda given: stage_maps(model, given, settings.stages), batch, settings.rule)
        sums.fields = sums.fields + np.stack([stage.numpy() for stage in added])
    sums.bad |= bad
    sums.done += len(examples)


def state_path(out: Path, network: Network, examples: Sequence[Example], settings: Settings) -> Path:
    """The file for a run's sums, beside its result; its name depends on everything that affects them."""
    weights = hashlib.sha256()
    for name, tensor in network.model.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    files = [(example.name, *_stamp(Path(example.name))) for example in examples]
    about: Mapping[str, Any] = {
        "versions": (__version__, torch.__version__),
        "network": (network.name, weights.hexdigest(), repr(vars(network.model)["pretrained_cfg"])),
        "settings": (settings.stages, settings.rule, settings.batch_size, settings.device),
        "files": files,
    }
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    return out.with_name(f"{out.stem}.{digest}.partial.npz")


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return found.st_size, found.st_mtime_ns
