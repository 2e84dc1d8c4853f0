"""The folder that a training run leaves behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from transxnet.errors import ConfigError
from transxnet.files import write_text
from transxnet.training.recipe import Recipe


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
            raise ConfigError(
                f"{target} holds a run already; --resume auto goes on with it; or choose another folder, or remove it"
            )
        return cls(target)

    @classmethod
    def unfinished(cls, path: str | None, name: str) -> RunFolder:
        """The folder given, or the newest one under ``runs/`` for this data that has no result yet, or a new one."""
        if path:
            return cls(Path(path))
        found = sorted(Path("runs").glob(f"*-{name}"), key=lambda folder: folder.name)
        open_ = [
            folder for folder in found if (folder / "config.yaml").exists() and not (folder / "summary.json").exists()
        ]
        return cls(open_[-1]) if open_ else cls.choose(None, name)

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
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

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

    def write_config(self, recipe: Recipe) -> None:
        write_text(self.config, recipe.to_yaml())

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_text(self.summary, json.dumps(summary, indent=2) + "\n")
