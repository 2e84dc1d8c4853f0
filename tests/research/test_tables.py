"""The paper's tables with our counts, computed and printed."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest

from helpers.commands import error_line, run
from transxnet.ablation import ROWS
from transxnet.config import VARIANTS
from transxnet.research.tables import Line, PaperTable, paper_data, paper_tables, with_counts

DENSE = {  # G by the paper's rule and M parameters of the three variants, on each task
    "ImageNet-1K": (("1.762", "12.835"), ("4.537", "26.864"), ("8.264", "48.009")),
    "RetinaNet": (("186.562", "22.440"), ("242.425", "36.602"), ("317.387", "58.007")),
    "Mask R-CNN": (("204.940", "32.501"), ("261.028", "46.520"), ("336.093", "67.559")),
    "ADE20K": (("121.397", "16.600"), ("178.831", "30.619"), ("255.697", "51.658")),
}
LARGE = ("TransXNet-S", "TransXNet-B")
ABLATIONS = {  # G and M on ImageNet-1K, then on ADE20K
    "table5/sep_conv": "1.624 10.870 119.713 14.608",
    "table5/sra": "1.952 16.234 126.571 19.973",
    "table5/swin": "2.038 13.615 130.514 17.353",
    "table5/mixing_block": "2.021 13.640 130.015 17.378",
    "table5/acmix": "2.146 13.855 131.405 17.593",
    "table5/d_mixer": "1.556 11.443 118.016 15.181",
    "table6/dwconv": "1.779 12.531 121.969 16.296",
    "table6/dyconv": "1.752 12.697 121.387 16.462",
    "table6/window_attention": "1.874 13.258 124.388 17.023",
    "table6/d_dwconv": "1.753 14.232 121.388 17.997",
    "table6/idconv": "1.762 12.835 121.397 16.600",
    "table7/none": "1.653 12.471 119.303 16.236",
    "table7/1_3": "1.689 12.592 119.874 16.357",
    "table7/3": "1.707 12.653 120.255 16.418",
    "table7/1_3_5": "1.719 12.693 120.508 16.458",
    "table7/1_3_5_7": "1.762 12.835 121.397 16.600",
    "table7/1_3_5_7_9": "1.816 13.016 122.519 16.781",
    "table8/0.25": "1.723 12.539 120.326 16.304",
    "table8/0.5": "1.762 12.835 121.397 16.600",
    "table8/0.75": "1.840 13.641 123.173 17.406",
    "table9/nsr": "1.797 13.372 122.236 17.137",
    "table9/nsr_dpe": "1.854 13.561 123.426 17.326",
    "table9/dpe_osr": "1.856 13.591 123.457 17.356",
    "table9/dpe_osr_ste": "1.762 12.835 121.397 16.600",
}


@pytest.fixture(scope="module", params=["in part", pytest.param("whole", marks=pytest.mark.slow)])
def counted(request: pytest.FixtureRequest) -> list[PaperTable]:
    """All tables with our counts; in part: one detector of each kind and no ablations on ADE20K."""
    tables = paper_tables(range(1, 10))
    if request.param != "whole":
        kept = [[line for line in one.lines if is_quick(line, one.number)] for one in tables]
        tables = [dataclasses.replace(one, lines=tuple(lines)) for one, lines in zip(tables, kept, strict=True)]
    return with_counts(tables)


def is_quick(line: Line, table: int) -> bool:
    detector = line.task in ("RetinaNet", "Mask R-CNN")
    return line.task == "ImageNet-1K" or (table <= 4 and not (detector and line.label in LARGE))


def lines_of(tables: list[PaperTable], **wanted: str) -> list[Line]:
    lines = [line for table in tables for line in table.lines]
    return [line for line in lines if all(getattr(line, name) == value for name, value in wanted.items())]


def ours(line: Line) -> tuple[str, str]:
    return f"{line.macs.ours:.3f}", f"{line.parameters.ours:.3f}"


@pytest.mark.parametrize("task", DENSE)
def test_the_variants_on_every_task(counted: list[PaperTable], task: str) -> None:
    found = [lines_of(counted, label=f"TransXNet-{name}", task=task) for name in "TSB"]
    assert found[0] and bool(found[1]) == bool(found[2])
    for lines, expected in zip(found, DENSE[task], strict=True):
        assert all(ours(line) == expected for line in lines)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_ablations(counted: list[PaperTable], name: str) -> None:
    table, network = [part for part in counted if part.number == ROWS[name].table], ROWS[name].network()
    found = [number for line in lines_of(table, network=network) for number in ours(line)]
    assert len(found) in (2, 4)
    assert found == ABLATIONS[name].split()[: len(found)]


def test_all_but_two_numbers_round_to_the_printed_ones(counted: list[PaperTable]) -> None:
    wrong = [
        (line.network, line.task, quantity, bool(line.misprint))
        for table in counted
        for line in table.lines
        for quantity in ("macs", "parameters")
        if not getattr(line, quantity).agrees
    ]
    assert wrong == [
        ("transxnet_tiny_table5_sep_conv", "ImageNet-1K", "parameters", True),
        ("transxnet_tiny_table6_dyconv", "ImageNet-1K", "parameters", True),
    ]


def test_all_macs_exceed_the_papers_rule(counted: list[PaperTable]) -> None:
    for name, macs in zip("TSB", (1.807, 4.607, 8.353), strict=True):
        assert {line.all_macs for line in lines_of(counted, label=f"TransXNet-{name}", task="ImageNet-1K")} == {macs}
    for line in lines_of(counted, task="RetinaNet"):
        assert line.all_macs is None or line.all_macs > float(line.macs.ours or 0) * 1.1  # attention at 800 x 1280


def test_shipped_data_are_complete() -> None:
    assert [len(paper_data(number)) for number in (2, 3, 4)] == [49, 49, 25]
    table2 = {row["model"]: row for row in paper_data(2)}
    assert list(table2["Swin-T"].values()) == ["Swin-T", "Transformer", "224", "29.0", "4.5", "81.3", "69.7"]
    assert table2["SLaK-T"]["top1_v2"] == ""
    mask = next(row for row in paper_data(3) if (row["model"], row["detector"]) == ("TransXNet-T", "Mask R-CNN"))
    assert (mask["ap"], mask["mask_ap75"], mask["ap_s"]) == ("44.5", "43.8", "")
    assert paper_data(4)[-1] == {"model": "TransXNet-B", "macs_g": "256", "params_m": "51.7", "miou": "49.9"}


# The command


def test_tables_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tables", "VI", "2") == 0
    printed = capsys.readouterr().out
    assert printed.index("Table II:") < printed.index("Table VI:")
    dyconv = next(line for line in printed.splitlines() if line.startswith("DyConv"))
    assert dyconv.split() == ["DyConv", "ImageNet-1K", "1.8", "1.752", "-0.048", "1.797", "12.3*", "12.697", "+0.397",
                              "80.7"]  # fmt: skip
    words = " ".join(printed.split())
    assert "* DyConv: The paper prints 12.3 M" in words and "none was measured here" in words
    assert max(map(len, printed.splitlines())) <= 100


def test_table_1_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tables", 1, "--format", "markdown") == 0
    printed = capsys.readouterr().out
    base = VARIANTS["transxnet_base"]
    assert f"E {'-'.join(map(str, base.expansions))}" in printed
    assert "| TransXNet-B | ImageNet-1K | 8.3 | 8.264 | -0.036 | 8.353 | 48.0 | 48.009 | +0.009 |" in printed


@pytest.mark.parametrize(("name", "options"), [("a.csv", ()), ("a.txt", ("--format", "csv"))])
def test_csv_has_one_number_per_line(
    name: str, options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tables", 9, 4, "--out", tmp_path / name, *options) == 0
    assert f"{name} written" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((tmp_path / name).read_text())))
    (nsr,) = (r for r in rows if (r["row"], r["task"], r["quantity"]) == ("NSR", "ADE20K", "macs"))
    assert (nsr["table"], nsr["network"], nsr["paper"], nsr["ours"], nsr["difference"]) == (
        "9", "transxnet_tiny_table9_nsr", "122.2", "122.236", "0.036"
    )  # fmt: skip
    (miou,) = (r for r in rows if (r["row"], r["quantity"]) == ("Swin-T", "miou"))
    assert (miou["paper"], miou["ours"], miou["network"]) == ("41.5", "", "")


def test_json_names_the_misprint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tables", 5, "--format", "json") == 0
    numbers = json.loads(capsys.readouterr().out)["numbers"]
    noted = [(n["row"], n["quantity"], n["paper"], n["ours"]) for n in numbers if n["note"]]
    assert noted == [("Sep Conv", "parameters", 11.4, 10.87)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["10"], "no table '10'; it has 1 to 9, also written I to IX"),
        (["five"], "no table 'five'"),
        (["5", "--format", "latex"], "--format is terminal, markdown, csv or json, not 'latex'"),
        (["5", "--out", "a.pdf"], "--out ends in .md, .csv or .json, not a.pdf"),
        (["5", "--out", "a.md", "--format", "terminal"], "leave --out out"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_line(["tables", *arguments], tmp_path, capsys)
