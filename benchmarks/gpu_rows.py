"""Rows of measurements with deadlines, written as they come: JSON, then a Markdown table and a picture."""

from __future__ import annotations

import gc
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Values = dict[str, Any]


class Rows:
    """Measurements of one run.

    Args:
        folder: ``gpu.json``, ``gpu.md`` and ``gpu.png`` are written there.
        seconds: Of the whole run; rows that would come later are left out.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.began = time.perf_counter()
        self.seconds = seconds
        self.rows: list[Values] = []
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.began)

    def measure(self, section: str, name: str, call: Callable[[], Values], limit: float = 20) -> Values | None:
        """Measure a row within ``limit`` seconds; it is left out if fewer than a third of them are left.

        Returns:
            Its values; None if it failed or was left out, which the row says.
        """
        values: Values | None = None
        began = time.perf_counter()
        if self.left < limit / 3:
            self._note(section, name, {"left out": "no time"})
            return None
        previous = signal.signal(signal.SIGALRM, _late)
        limit = limit if torch.cuda.is_available() else 10 * limit  # a dry run is slow
        signal.setitimer(signal.ITIMER_REAL, max(min(limit, self.left), 0.1))
        try:
            values = call()
        except Exception as error:  # noqa: BLE001 (the other rows are still wanted)
            lines = str(error).splitlines() or [""]
            self._note(section, name, {"error": f"{type(error).__name__}: {lines[0][:160]}"})
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if values is not None:
            self._note(section, name, values | {"took s": round(time.perf_counter() - began, 1)})
        return values

    def _note(self, section: str, name: str, values: Values) -> None:
        self.rows.append({"section": section, "name": name, **values})
        print(f"[{time.perf_counter() - self.began:6.1f} s] {section:9s} {name:52s} {_text(values)}", flush=True)
        (self.folder / "gpu.json").write_text(json.dumps(self.rows, indent=1), encoding="utf-8")

    def finish(self) -> None:
        """Write the table and, if matplotlib is installed, the picture."""
        lines = ["| | | |", "|---|---|---|"]
        for row in self.rows:
            values = {name: value for name, value in row.items() if name not in ("section", "name", "took s")}
            lines.append(f"| {row['section']} | {row['name']} | {_text(values)} |")
        (self.folder / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._draw()

    def _draw(self) -> None:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return
        rows = [row for row in self.rows if "images/s" in row][::-1]
        if rows:
            figure = Figure(figsize=(9, 0.3 * len(rows) + 1), layout="constrained")
            axes = figure.add_subplot()
            axes.barh([f"{row['section']}: {row['name']}" for row in rows], [row["images/s"] for row in rows])
            axes.set_xlabel("images per second")
            figure.savefig(self.folder / "gpu.png", dpi=120)


def _late(*_: Any) -> None:
    raise TimeoutError("the row's deadline")


def _text(values: Values) -> str:
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
