"""Preprocessing settings of checkpoints and exported files, under timm's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transxnet.checkpoints.values import MAX_SIDE, items, number, text, whole
from transxnet.errors import ConfigError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")

_MIN_SIDE = 32
_MAX_RESIZED = 2 * MAX_SIDE  # images are resized to the input size over crop_pct, then cropped
_COLORS = 3  # of timm's defaults, which networks with other input channels have too


def checked_preprocessing(values: Any, channels: int) -> dict[str, Any]:
    """Validate settings of timm's evaluation transform.

    Args:
        values: Settings from a file. Names that are not timm's are ignored.
        channels: Input channels of the network.

    Returns:
        The known settings; lists as tuples.

    Raises:
        ConfigError: If one has the wrong type, length or range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"the preprocessing must be a mapping of names to values, not {type(values).__name__}")
    return {name: check(values[name], channels) for name, check in _CHECKS.items() if values.get(name) is not None} | (
        _checked_resizing(values)
    )


def _input_size(value: Any, channels: int) -> tuple[int, int, int]:
    given, height, width = items("input_size", value, 3)
    if given not in (channels, _COLORS) or isinstance(given, bool):
        raise ConfigError(f"input_size must begin with the network's {channels} channels, not {given!r:.40}")
    return (
        channels,
        whole("the height in input_size", height, _MIN_SIDE, MAX_SIDE),
        whole("the width in input_size", width, _MIN_SIDE, MAX_SIDE),
    )


def _mean(value: Any, channels: int) -> tuple[float, ...]:
    return tuple(number("mean", one, -1e6, 1e6) for one in items("mean", value, channels, _COLORS, 1))


def _std(value: Any, channels: int) -> tuple[float, ...]:
    return tuple(number("std", one, 1e-6, 1e6) for one in items("std", value, channels, _COLORS, 1))


def _checked_resizing(values: Mapping[str, Any]) -> dict[str, float]:
    """``crop_pct``, which determines the size of resized images."""
    if values.get("crop_pct") is None:
        return {}
    share = number("crop_pct", values["crop_pct"], 0.1, 2)
    side = max(values["input_size"][1:]) if values.get("input_size") is not None else _MIN_SIDE
    if side / share > _MAX_RESIZED:
        raise ConfigError(f"a crop_pct of {share:g} resizes images of {side:,} to over {_MAX_RESIZED:,} pixels a side")
    return {"crop_pct": share}


_CHECKS: dict[str, Callable[[Any, int], Any]] = {
    "input_size": _input_size,
    "mean": _mean,
    "std": _std,
    "interpolation": lambda value, _: text("interpolation", value, INTERPOLATIONS),
    "crop_mode": lambda value, _: text("crop_mode", value, CROP_MODES),
}
