"""The folder that a training run leaves behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from transxnet.errors import ConfigError
from transxnet.files import write_text


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder."""

    path: Path

    @classmethod
    def choose(cls, path: str | None, name: str) -> RunFolder:
        """The folder given, or one under ``runs/`` named after the time and the data; not made yet.

        Raises:
            ConfigError: If the folder holds a run already.
        """
        target = Path(path) if path else Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
        if (target / "config.yaml").exists():
            raise ConfigError(f"{target} holds a run already; choose another folder, or remove that one")
        return cls(target)

    def make(self) -> None:
        """Make the folder; raises ConfigError if that cannot be done."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the run folder {self.path}: {error.strerror}") from error

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def samples(self) -> Path:
        return self.path / "samples.png"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_text(self.summary, json.dumps(summary, indent=2) + "\n")
