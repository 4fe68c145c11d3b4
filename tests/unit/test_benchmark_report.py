"""`semask report` on records of speed: tables, what must be said beside them, and plots."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context
from PIL import Image
from rich.console import Console

from semask.benchmark import table as speed
from semask.benchmark.plot import labels, points
from semask.benchmark.result import Result, read_bench
from semask.cli import bench
from semask.cli import main as cli
from semask.recipes import get_recipe
from tests.facts import missing
from tests.unit.test_record import write as write_evaluation

RECIPE = "ade20k/semask-swin-t-fpn"
ENVIRONMENT = {
    "device": "x processor, 2 threads",
    "cpu": "AMD EPYC",
    "threads": 2,
    "driver": None,
    "cuda": None,
    "cudnn": None,
    "packages": {"torch": "2.15.0"},
    "precision": {"float32_matmul": "highest"},
}


CROWDED = {**ENVIRONMENT, "cores": 2, "machine_load": 1.5}


def measured(title: str, *, speed: float = 4.0, **others: Any) -> dict[str, Any]:
    seconds = {"median": 1 / speed, "p90": 0.3, "p99": 0.4}
    values = {
        "title": title,
        "recipe": RECIPE,
        "library": "semask",
        "what": "predict",
        "size": [512, 512],
        "batch": 1,
        "dtype": "float32",
        "rounds": 20,
        "images_per_second": speed,
        "seconds": seconds,
        "time_to_first": {"median": 1.0, "min": 0.9, "max": 1.1},
        "memory": {"above": 300 * 2**20, "total": 900 * 2**20, "meter": "VmHWM"},
        "parameters": 34_656_000,
        "multiply_adds": 43_000_000_000,
        "share_of_peak": 0.5,
    }
    return values | others


def write(path: Path, *entries: dict[str, Any], environment: dict[str, Any] = ENVIRONMENT) -> str:
    record = {"kind": "semask bench", "format": 1, "environment": environment, "peak_rate": 1e11, "measured": entries}
    path.write_text(json.dumps(record))
    return str(path)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


SIDES = (
    measured(RECIPE),
    measured(f"{RECIPE} (reference)", speed=2.0, library="reference", reference=True, checkpoint_stages=[1, 2]),
    measured("timm swin (encoder alone)", speed=8.0, library="timm", parameters=27_500_000),
)


def test_a_table_holds_every_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.csv"
    assert cli.main(["report", write(tmp_path / "a.json", *SIDES), "--out", str(out)]) == 0
    ours, plain, timm = rows_of(out)
    assert [ours["model"], ours["run"], ours["size"], ours["precision"]] == [RECIPE, "predict", "512×512", "float32"]
    assert [ours["images/s"], ours["median [ms]"], ours["MiB"]] == ["4.00", "250.00", "300"]
    assert [ours["parameters [M]"], ours["multiply-adds [G]"], ours["of peak [%]"]] == ["34.7", "43.0", "50.0"]
    assert ours["machine"] == "AMD EPYC, 2 threads"
    assert plain["precision"] == "float32 + checkpointed stages 1 2"
    miou = get_recipe(RECIPE).published.miou
    assert [ours["mIoU"], plain["mIoU"], timm["mIoU"]] == [f"{miou:.2f} (published)"] * 2 + [""]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("place", "value"),
    [("threads", 4), ("cpu", "other"), ("packages", {"torch": "2.14.0"}), ("driver", "600.1"), ("cuda", "13.2")],
)
def test_figures_of_two_machines_are_never_set_beside_each_other_in_silence(
    place: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write(tmp_path / "a.json", SIDES[0])]
    paths += [write(tmp_path / "b.json", SIDES[0], environment=ENVIRONMENT | {place: value})]
    name = "torch" if place == "packages" else place
    for suffix in ("md", "tex", "csv"):
        out = tmp_path / f"table.{suffix}"
        assert cli.main(["report", *paths, "--out", str(out)]) == 0
        told = capsys.readouterr().err if suffix == "csv" else out.read_text()
        first = told if suffix == "csv" else told.strip().splitlines()[0 if suffix == "tex" else -1]
        assert missing(first, name) == []
        assert suffix != "tex" or first.startswith("% ")


def test_rows_of_several_runs_kinds_and_sizes_are_told(tmp_path: Path) -> None:
    first = read_bench(Path(write(tmp_path / "a.json", SIDES[0])))
    other = measured(RECIPE, what="train", dtype="bfloat16", size=[640, 640], rounds=7)
    both = [*first, *read_bench(Path(write(tmp_path / "b.json", other)))]
    assert speed.notes(first) == []
    notes = speed.notes(both)
    assert len(notes) == 5
    assert missing(" ".join(notes), 20) == []
    caption = speed.caption(both, [])
    assert missing(caption, 1, "AMD EPYC") == []
    assert missing(caption, "predict", "train", "512×512", "float32") == ["predict", "train", "512×512", "float32"]
    assert missing(speed.caption(first, []), "predict", "512×512", 1, "float32", "AMD EPYC") == []


def test_a_record_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "nowhere.json"]) == 2
    assert missing(capsys.readouterr().err, "'nowhere.json'", "semask evaluate", "semask bench", "--out") == []


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_narrow_terminal_shows_fewer_columns_whole(width: int) -> None:
    entry = measured(RECIPE, seconds={"median": 1.2, "p90": 1.3, "p99": 1.4, "iqr": 0.1})
    results = [Result(Path("a.json"), {**entry, "environment": ENVIRONMENT})]
    console = Console(width=width, record=True, file=io.StringIO())
    table, spared = bench.fitting_table(results, console)
    console.print(table.rich())
    text = console.export_text()
    assert "…" not in text.replace("0.90 … 1.10", "")
    shown = set(table.columns)
    assert {"model", "images/s", "median [ms]", "time ÷ first's", "MiB"} <= shown
    assert shown | set(spared) == set(speed.bench_table(results, {}).columns) - set(bench.ALIKE)
    assert bool(spared) == (width < 200)
    assert width < 80 or RECIPE in text  # on narrower ones names go on in a second line


def test_columns_of_which_nothing_is_known_are_left_out() -> None:
    entry = measured(RECIPE, seconds={"median": 1.2, "p90": 1.3, "p99": 1.4, "iqr": 0.1}, share_of_peak=None)
    titles = speed.bench_table([Result(Path("a.json"), {**entry, "environment": ENVIRONMENT})], {}).columns
    assert "of peak [%]" not in titles
    assert "multiply-adds [G]" in titles


def test_an_evaluation_beside_a_measurement_gives_its_accuracy(tmp_path: Path) -> None:
    evaluation = write_evaluation(tmp_path / "metrics.json", recipe=RECIPE)
    paths = [write(tmp_path / "a.json", *SIDES), str(evaluation)]
    assert cli.main(["report", *paths, "--out", str(tmp_path / "t.csv")]) == 0
    rows = rows_of(tmp_path / "t.csv")
    miou = 100 * json.loads(evaluation.read_text())["scores"]["miou"]
    assert [row["mIoU"] for row in rows] == [f"{miou:.2f}", f"{miou:.2f}", ""]


@pytest.mark.parametrize("by", ["miou", "parameters", "multiply-adds"])
def test_points_stand_where_the_values_are(by: Any, tmp_path: Path) -> None:
    records = [Result(tmp_path, {**side, "environment": ENVIRONMENT}) for side in SIDES]
    found = points(records, by, speed.accuracies_of(records, []))
    expected = {"miou": get_recipe(RECIPE).published.miou, "parameters": 34.656, "multiply-adds": 43.0}[by]
    assert (found[0].speed, found[0].value) == (4.0, pytest.approx(expected))
    assert found[0].measured == (by != "miou")
    assert len(found) == (2 if by == "miou" else 3)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plots_are_drawn(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / f"plot.{suffix}"
    assert cli.main(["report", write(tmp_path / "a.json", *SIDES), "--plot", str(plot)]) == 0
    assert missing(capsys.readouterr().err, 1, 3, "miou", SIDES[2]["title"]) == []
    if suffix == "png":
        with Image.open(plot) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        for colour in ((47, 111, 222), (143, 179, 240)):  # semask's and plain's
            assert (pixels == colour).all(axis=1).sum() > 50
    elif suffix == "svg":
        assert "<svg" in plot.read_text(encoding="utf-8")
    else:
        assert plot.read_bytes().startswith(b"%PDF")


def test_kinds_of_run_are_told_apart(tmp_path: Path) -> None:
    """By a marker each, in the legend too; where all are of one kind there is nothing to tell."""
    plot = tmp_path / "plot.svg"
    sides = [measured("a", what="predict"), measured("b", what="train", speed=0.5)]
    flags = ["--plot", str(plot), "--plot-by", "parameters"]
    with rc_context({"svg.fonttype": "none"}):  # words as words, not as outlines
        assert cli.main(["report", write(tmp_path / "a.json", *sides), *flags]) == 0
        assert {">predict<", ">train<"} <= set(re.findall(r">\w+<", plot.read_text(encoding="utf-8")))
        assert cli.main(["report", write(tmp_path / "b.json", sides[0], sides[0]), *flags]) == 0
        assert ">predict<" not in plot.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--plot", "a.bmp"], (".png, .svg, .pdf", "--plot", "'.bmp'")),
        (["--classes"], ("--classes", "semask bench")),
        (["--out", "a.txt"], (".md, .csv, .tex", "--out", "'.txt'")),
    ],
)
def test_what_cannot_be_reported(
    flags: list[str], told: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", write(tmp_path / "a.json", *SIDES), *flags]) == 2
    assert missing(capsys.readouterr().err, *told) == []


def test_measurements_of_one_model_are_told_apart(tmp_path: Path) -> None:
    """By what differs between them, and by nothing else."""
    sides = [measured("a"), measured("a", size=[128, 128]), measured("a", size=[128, 128], what="train"), measured("b")]
    records = read_bench(Path(write(tmp_path / "a.json", *sides)))
    assert labels(records) == ["a, predict, 512×512", "a, predict, 128×128", "a, train, 128×128", "b"]
    other = read_bench(Path(write(tmp_path / "b.json", sides[0], environment={**ENVIRONMENT, "threads": 1})))
    assert labels([*records[:1], *other]) == ["a, 2 threads", "a, 1 thread"]
    assert missing(speed.caption([*records[:1], *other], []), "AMD EPYC", "2 threads") == ["2 threads"]
    tests = [measured("a", what="evaluate", size=[], test=test) for test in ("whole", "recipe")]
    gpu = {**ENVIRONMENT, "cuda": "12.6", "device": "NVIDIA H200"}
    whole, recipe, workers = read_bench(
        Path(write(tmp_path / "c.json", *tests, measured("a", workers=4), environment=gpu))
    )
    assert labels([whole, recipe]) == ["a", "a, test recipe"]
    assert labels([whole, workers]) == ["a, evaluate", "a, predict, 512×512, 4 workers"]
    assert labels([workers, *records[:1]])[0] == "a, 4 workers, NVIDIA H200"


def test_peers_of_another_size_are_told() -> None:
    """From twice, or half, of a recipe's parameters on; what has no parameters has no size."""
    sides = [measured("a"), measured("twice", library="smp", parameters=2 * 34_656_000)]
    sides += [measured("more", library="transformers", parameters=11 * 34_656_000)]
    sides += [
        measured("less", library="timm", parameters=34_656_000 // 5),
        measured("none", library="smp", parameters=None),
    ]
    more, less = speed.notes([Result(Path("a.json"), {**side, "environment": ENVIRONMENT}) for side in sides])
    assert missing(more, "more", 11, RECIPE) == []
    assert missing(less, "less", 0.2, RECIPE) == []


def test_a_plot_says_that_its_machine_was_crowded(tmp_path: Path) -> None:
    sides = [measured("a"), measured("b", size=[64, 64])]
    records = read_bench(Path(write(tmp_path / "a.json", *sides, environment=CROWDED)))
    told = speed.caption(records, speed.notes(records))
    assert missing(told, 1.5, 2) == []
    assert len([note for note in speed.notes(records) if note in told]) == 2, "another remark has room"


def test_a_plot_that_cannot_be_written_leaves_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = write(tmp_path / "a.json", *SIDES)
    table, plot = tmp_path / "t.md", tmp_path / "a.json" / "plot.png"
    assert cli.main(["report", record, "--out", str(table), "--plot", str(plot)]) == 2
    assert missing(capsys.readouterr().err, "--plot", repr(str(plot.parent))) == []
    assert not table.exists()


def test_nothing_to_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", write(tmp_path / "a.json", SIDES[2]), "--plot", str(tmp_path / "a.png")]) == 2
    assert missing(capsys.readouterr().err, "miou", "--plot-by parameters") == []
    evaluation = write_evaluation(tmp_path / "metrics.json", recipe=RECIPE)
    assert cli.main(["report", str(evaluation), "--plot", str(tmp_path / "a.png")]) == 2
    assert missing(capsys.readouterr().err, "--plot", "semask bench") == []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ({"format": 2}, ("semask bench", 1)),
        ({"measured": 3}, ("semask bench", 1)),
        ({"environment": None}, ("semask bench", 1)),
        ({"measured": [{"title": 3}]}, ("semask bench", "'title'")),
        ({"measured": []}, ("semask bench", 1)),
        ({"measured": [measured("a", seconds={"median": "x"})]}, ("'seconds.median'",)),
        ({"measured": [measured("a", time_to_first={})]}, ("'time_to_first.median'",)),
        ({"measured": [measured("a", parameters="x")]}, ("'parameters'",)),
        ({"measured": ["x"]}, ("semask bench", "'title'")),
    ],
)
def test_spoilt_records(
    spoil: dict[str, Any], told: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(write(tmp_path / "a.json", *SIDES))
    path.write_text(json.dumps(json.loads(path.read_text()) | spoil))
    assert cli.main(["report", str(path)]) == 2
    assert missing(capsys.readouterr().err, str(path), *told) == []
