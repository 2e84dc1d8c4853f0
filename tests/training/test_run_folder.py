"""Which run `--resume auto` resumes: the newest unfinished one of the same data, by its name and its recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from transxnet.training.run_folder import RunFolder


def make_run(name: str, data: str, *, finished: bool = False) -> str:
    folder = Path("runs", name)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"task: classification\ndata: '{data}'\n")
    if finished:
        (folder / "summary.json").write_text("{}")
    return name


@pytest.mark.parametrize("data", ["photos", "pics [v2]", "a*b?", "ph.tos", "my-photos", "x/photos"])
def test_names_are_compared_and_not_matched(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunFolder.unfinished(data) is None
    others = ["my-photos", "photos", "pics v", "pics [v2]", "aXbY", "a*b?", "phatos", "ph.tos", "y/photos"]
    for index, other in enumerate(name for name in others if name != data):
        make_run(f"20260102-00000{index}-{Path(other).name}", other)
    assert RunFolder.unfinished(data) is None
    own = make_run(f"20260101-000000-{Path(data).name}", data)
    make_run(f"20260103-000000-{Path(data).name}", data, finished=True)
    found = RunFolder.unfinished(f"./{data}/")
    assert found is not None and found.path.name == own
