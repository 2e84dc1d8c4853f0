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
    def create(cls, path: str | None, name: str) -> RunFolder:
        """A new folder: the one given, or one under ``runs/`` named after the time and the data.

        Raises:
            ConfigError: If the folder holds a run already, or cannot be made.
        """
        target = Path(path) if path else Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
        if (target / "config.yaml").exists():
            raise ConfigError(f"{target} holds a run already; choose another folder, or remove that one")
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the run folder {target}: {error.strerror}") from error
        return cls(target)

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
