"""Names of classes in any script, drawn without a warning."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from matplotlib import font_manager
from PIL import Image

from transxnet.plotting import fonts
from transxnet.plotting.overlays import draw_classes, draw_objects, save_sheet
from transxnet.plotting.run_figures import Prediction, save_samples

NAMES = ["猫", "حصان", "हिन्दी", "byte\udcff", "two\nlines", "$a_b^c$", "👩‍💻 emoji"]


def only(family: str) -> str:
    return font_manager.findfont(family)


def test_sheets_of_names_in_any_script_warn_of_nothing(tmp_path: Path) -> None:
    image, colors = Image.new("RGB", (60, 40)), [(200, 0, 0)] * len(NAMES)
    found = {
        "boxes": torch.tensor([[1.0, 1, 30, 30]] * len(NAMES)),
        "labels": torch.arange(len(NAMES)),
        "scores": torch.ones(len(NAMES)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_samples([Prediction(image, name, NAMES[0], 0.5) for name in NAMES], tmp_path / "a.png", NAMES[0])
        classes = torch.arange(len(NAMES)).repeat(40, 9)[:, :60]
        pictures = [draw_objects(image, found, NAMES, colors), draw_classes(image, classes, NAMES, colors)]
        save_sheet(pictures, ["truth", "found"], NAMES[0], tmp_path / "b.png")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("a.png", "b.png"))


def test_an_installed_font_is_found_for_characters_that_the_usual_one_lacks() -> None:
    usual, other = fonts.usual_file(), only("STIXGeneral")
    extra = max(set(font_manager.get_font(other).get_charmap()) - set(font_manager.get_font(usual).get_charmap()))
    text = f"a{chr(extra)}"
    found = fonts.fonts_for(text)
    assert len(found) == 2 and found[0] == usual
    assert extra in font_manager.get_font(found[1]).get_charmap()
    assert fonts.drawable(text) == text and len(fonts.families_for(text)) == 2
    assert fonts.drawable(text, usual) == f"aU+{extra:04X}"
    assert fonts.font_for([text] * 3) in found


def test_characters_of_no_font_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: (fonts.usual_file(),))
    assert fonts.drawable("猫 cat") == "U+732B cat"
    assert fonts.fonts_for("猫 cat") == [fonts.usual_file()]
