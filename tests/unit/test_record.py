"""Records, what compares them, and tables of them."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from semask.cli import main as cli
from semask.evaluation import MetricAccumulator
from semask.evaluation.comparison import compare
from semask.evaluation.metrics.bootstrap import statistics
from semask.evaluation.record import arrays, measured, read_record, write_record
from semask.evaluation.report import evaluation_table
from tests.facts import facts, missing

CLASSES = ("sky", "road & <b>kerb</b>", "car")


def write(
    path: Path, *, seed: int = 0, skill: float = 0.8, images: int = 12, sha256: str = "ab" * 32, **values: object
) -> Path:
    """Write the record of a model that is right in a share of the pixels."""
    random = np.random.default_rng(5)
    accumulator = MetricAccumulator(3)
    for number in range(images):
        truth = random.integers(0, 3, (20, 30)).astype(np.uint8)
        right = np.random.default_rng((seed, number)).random((20, 30)) < skill
        guess = np.where(right, truth, random.integers(0, 3, (20, 30))).astype(np.uint8)
        accumulator.update(f"{number:03}", torch.from_numpy(guess), torch.from_numpy(truth), torch.full((20, 30), 0.9))
    seen = {"mode": "whole", "scales": [1.0], "flip": False, "base_scale": None}
    record = {
        "recipe": "ade20k/semask-swin-t-fpn",
        "checkpoint": {"path": "x", "sha256": "0123456789abcdef"},
        "data": {"split": "validation", "images": images, "sha256": sha256},
        "images": images,
        "protocol": {"name": "semask-ss", "seen": seen, "data": {}, "test": {}},
        **measured(accumulator, CLASSES, resamples=100),
        **values,
    }
    write_record(path, record, arrays(accumulator))
    return path


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.json")
    record = read_record(tmp_path)
    assert record.path == path
    assert record.values == json.loads(path.read_text())
    assert record.names == tuple(f"{number:03}" for number in range(12))
    found = statistics(record.counts, np.ones((1, 12)))
    assert found["miou"][0] == pytest.approx(record.values["scores"]["miou"])
    with np.load(tmp_path / "metrics.npz") as stored:
        assert stored["confusion"].sum() == 12 * 600
        assert stored["image_miou"].shape == (12,)


def test_the_better_model_is_found_and_the_same_one_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = write(tmp_path / "worse.json", skill=0.7)
    better = write(tmp_path / "better.json", skill=0.8)
    out = tmp_path / "deep" / "comparison.json"
    assert cli.main(["compare", str(worse), str(better), "--out", str(out), "--resamples", "300"]) == 0
    printed = capsys.readouterr().out
    [verdict] = [line for line in printed.splitlines() if missing(line, "mIoU", 12) == []]
    assert missing(verdict, "A", "B") == ["A"]
    found = json.loads(out.read_text())
    scores = [json.loads(path.read_text())["scores"] for path in (worse, better)]
    value, low, high = found["difference"]["miou"]
    assert value == pytest.approx(scores[1]["miou"] - scores[0]["miou"])
    assert 0 < low < value < high
    for row, ours, theirs in zip(found["classes"], scores[0]["classes"], scores[1]["classes"], strict=True):
        assert (row["a"], row["b"]) == (pytest.approx(ours["iou"]), pytest.approx(theirs["iou"]))
        assert row["difference"][0] == pytest.approx(theirs["iou"] - ours["iou"])
    page = out.with_suffix(".html").read_text()
    assert "road &amp; &lt;b&gt;kerb" in page
    assert "<b>kerb" not in page
    assert cli.main(["compare", str(better), str(better)]) == 0
    assert missing(capsys.readouterr().out.splitlines()[-1], "A", "B", "mIoU") == ["A", "B"]


def test_one_image_has_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a.json", images=1), write(tmp_path / "b.json", images=1, seed=1)
    found = compare(read_record(a), read_record(b))
    assert found["difference"]["miou"] is None
    assert cli.main(["compare", str(a), str(b)]) == 0
    assert missing(capsys.readouterr().out.splitlines()[-1], "mIoU", 1) == []


def test_other_data_and_other_protocols_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, other = write(tmp_path / "a.json"), write(tmp_path / "other.json", sha256="cd" * 32)
    assert cli.main(["compare", str(a), str(other), "--out", str(tmp_path / "c.json")]) == 2
    assert missing(capsys.readouterr().err, a, other, 12, "validation", "sha256", "abababababab", "cdcdcdcdcdcd") == []
    values = json.loads(a.read_text())
    values["protocol"]["seen"] |= {"flip": True, "window": [512, 512]}
    (tmp_path / "flipped.json").write_text(json.dumps(values))
    shutil.copy(tmp_path / "a.npz", tmp_path / "flipped.npz")
    assert cli.main(["compare", str(a), str(tmp_path / "flipped.json"), "--out", str(tmp_path / "c.json")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert missing(message, "--test.flip", "False", "True") == []
    assert "--test.window" not in message
    assert not (tmp_path / "c.json").exists()


def test_renamed_classes_are_compared_and_swapped_ones_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    a = write(tmp_path / "a.json")
    for name, names, status in (("sea", ("sky", "sea", "car"), 0), ("swap", ("sky", "car", CLASSES[1]), 2)):
        values = json.loads(a.read_text())
        for row, new in zip(values["scores"]["classes"], names, strict=True):
            row["name"] = new
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
        shutil.copy(tmp_path / "a.npz", tmp_path / f"{name}.npz")
        assert cli.main(["compare", str(a), str(tmp_path / f"{name}.json")]) == status
    assert missing(caplog.text, 1, repr(CLASSES[1]), "'sea'") == []
    assert missing(capsys.readouterr().err, 1, repr(CLASSES[1]), "'car'") == []


def test_folders_without_a_record_are_left_out_of_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name / "best").mkdir(parents=True)
    write(tmp_path / "b/best/metrics.json")
    paths = [str(tmp_path / name / "best") for name in ("a", "b", "c")]
    assert cli.main(["report", *paths]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert missing(caplog.text, 2, 3, paths[0], paths[2]) == []
    assert paths[1] not in caplog.text
    assert cli.main(["report", paths[0], paths[2]]) == 2
    assert missing(capsys.readouterr().err, paths[0], "semask evaluate") == []
    # a file that is named and absent is a mistake
    assert cli.main(["report", paths[1], str(tmp_path / "absent.json")]) == 2


def test_models_of_other_input_scales_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a.json"), write(tmp_path / "b.json", skill=0.9)
    values = json.loads(b.read_text())
    values["protocol"]["seen"] |= {"base_scale": [512, 128], "mode": "sliding", "window": [64, 64]}
    b.write_text(json.dumps(values))
    assert cli.main(["compare", str(a), str(b), "--out", str(tmp_path / "c.json")]) == 0
    assert missing(capsys.readouterr().out, "base_scale", "None", [512, 128], "mode", "whole", "sliding") == []
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["input_scale"]["base_scale"] == [None, [512, 128]]
    assert found["difference"]["miou"][1] > 0


def test_rows_of_a_report_are_runs_and_their_differences(tmp_path: Path) -> None:
    records = []
    for name, crop, root in (("small", [64, 64], "x"), ("large", [256, 256], "y")):
        settings = {"data": {"crop": crop, "root": root, "flip": 0.5}, "optim": {"lr": 0.1}}
        checkpoint = {"path": f"runs/{name}/best", "sha256": "ab" * 32}
        records.append(read_record(write(tmp_path / f"{name}.json", checkpoint=checkpoint, settings=settings)))
    table = evaluation_table(records)
    assert [row[0] for row in table.rows] == ["small", "large"]
    assert table.columns[-1] == "differs in"
    assert [row[-1] for row in table.rows] == ["data.crop [64, 64]", "data.crop [256, 256]"]


def test_what_is_no_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=facts(repr(str(tmp_path / "metrics.json")), "semask evaluate CHECKPOINT")):
        read_record(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=facts(tmp_path / "a.json", "JSON")):
        read_record(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"recipe": "x", "scores": {}}')
    with pytest.raises(ValueError, match=facts(tmp_path / "a.json", "semask evaluate", "images")):
        read_record(tmp_path / "a.json")
    write(tmp_path / "b.json")
    (tmp_path / "b.npz").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=facts(tmp_path / "b.npz", "b.json")):
        read_record(tmp_path / "b.json")
    for content in (b"", (tmp_path / "a.json").read_bytes()):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(ValueError, match=facts(tmp_path / "b.npz", "b.json")):
            read_record(tmp_path / "b.json")
    (tmp_path / "b.npz").unlink()
    with pytest.raises(ValueError, match=facts(tmp_path / "b.npz", "b.json")):
        read_record(tmp_path / "b.json")


@pytest.mark.parametrize("place", ["data", "checkpoint", "protocol", "images", "scores"])
def test_a_record_with_a_part_missing_or_of_another_kind_is_refused(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.json")
    values = json.loads(path.read_text())
    changed = [{key: value for key, value in values.items() if key != place}]
    changed += [{**values, place: 3}] if place != "images" else []
    for record in (*changed, []):
        path.write_text(json.dumps(record))
        for command in (["report", str(path)], ["compare", str(path), str(path)]):
            assert cli.main(command) == 2
            assert missing(" ".join(capsys.readouterr().err.split()), path, "semask evaluate") == []


def test_counts_of_another_evaluation_are_refused(tmp_path: Path) -> None:
    """Beside the scores of the one, compare would report the differences of the other."""
    path = write(tmp_path / "a.json")
    write(tmp_path / "b.json", skill=0.3)
    shutil.copy(tmp_path / "b.npz", tmp_path / "a.npz")
    with pytest.raises(ValueError, match=facts(tmp_path / "a.npz", "a.json")):
        read_record(path)
    counts = {name: np.zeros((12, 5)) for name in ("intersection", "predicted", "labelled")}
    np.savez(tmp_path / "a.npz", image_names=np.array([str(i) for i in range(12)]), **counts)
    with pytest.raises(ValueError, match=facts(tmp_path / "a.npz", (12, 5))):
        read_record(path)


def test_arrays_that_claim_too_much_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.json")
    monkeypatch.setattr("semask.evaluation.record.MAX_TABLES", 1000)
    with pytest.raises(ValueError, match=facts(path.with_suffix(".npz"), 1000)):
        read_record(path)


def test_tables_in_three_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(write(tmp_path / "a.json")), str(write(tmp_path / "b_1.json", skill=0.5, recipe="my | own=x"))]
    assert cli.main(["report", *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = json.loads(Path(paths[0]).read_text())
    assert lines[2].startswith(
        f"| x | ade20k/semask-swin-t-fpn | 01234567 | semask-ss | validation abababab | 12 | {100 * scores['scores']['miou']:.2f} |"
    )
    assert "| 42.06 |" in lines[2], "SeMask Table 2"
    assert lines[3].startswith("| x | my \\| own=x |")
    for suffix in (".csv", ".tex", ".md"):
        assert cli.main(["report", *paths, "--out", str(tmp_path / f"table{suffix}")]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert rows[0]["mIoU"] == f"{100 * scores['scores']['miou']:.2f}"
    assert rows[1]["published"] == ""
    assert r"95 \% " in (tmp_path / "table.tex").read_text()
    capsys.readouterr()
    assert cli.main(["report", *paths, "--classes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[2]
        == "| sky | "
        + " | ".join(f"{100 * json.loads(Path(path).read_text())['scores']['classes'][0]['iou']:.2f}" for path in paths)
        + " |"
    )


def test_odd_names_break_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = r"=1|a_{b}$ ^~\x"
    path = str(write(tmp_path / "a.json", recipe=odd))
    printed = {}
    for suffix in (".md", ".csv", ".tex"):
        out = tmp_path / f"table{suffix}"
        assert cli.main(["report", path, "--classes", "--out", str(out)]) == 0
        printed[suffix] = out.read_text()
    assert {line.count(" | ") for line in printed[".md"].splitlines()} == {1}
    assert next(csv.reader(io.StringIO(printed[".csv"]))) == ["class", f"'{odd}"]
    assert r"=1|a\_\{b\}\$ \textasciicircum{}\textasciitilde{}\textbackslash{}x \\" in printed[".tex"]
    assert r"road \& <b>kerb</b>" in printed[".tex"]


def test_a_comparison_goes_to_json_and_names_are_shown_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "[a].json", recipe="[/b] :car:")
    assert cli.main(["compare", str(path), str(path)]) == 0
    printed = capsys.readouterr().out
    assert "[/b] :car:" in printed
    assert "[a].json" in printed
    (tmp_path / "folder.json").mkdir()
    for out in ("page.html", "metrics", "folder.json"):
        assert cli.main(["compare", str(path), str(path), "--out", str(tmp_path / out)]) == 2
        assert missing(" ".join(capsys.readouterr().err.split()), "--out", ".json", repr(str(tmp_path / out))) == []
    assert not (tmp_path / "page.html").exists()


def test_tables_that_cannot_be_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.json")
    assert cli.main(["report", str(path), "--out", str(tmp_path / "a.docx")]) == 2
    assert missing(capsys.readouterr().err, ".md, .csv, .tex", "--out", "'.docx'") == []
    assert cli.main(["report"]) == 2
    assert missing(capsys.readouterr().err, "semask evaluate", "semask bench") == []
    values = json.loads(path.read_text())
    values["scores"]["classes"][0]["name"] = "heaven"
    (tmp_path / "b.json").write_text(json.dumps(values))
    shutil.copy(tmp_path / "a.npz", tmp_path / "b.npz")
    assert cli.main(["report", str(path), str(tmp_path / "b.json"), "--classes"]) == 2
    assert missing(" ".join(capsys.readouterr().err.split()), tmp_path / "b.json", path) == []


def test_a_paper_s_figure_stands_beside_its_own_protocol_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.json")
    values = json.loads(path.read_text())
    for protocol, split, figure in (
        ("semask-ss", "validation", "42.06"),
        ("semask-ms", "validation", "43.36"),
        ("segmenter-ss", "validation", ""),
        (None, "validation", ""),
        ("semask-ss", "training", ""),
    ):
        values["protocol"]["name"], values["data"]["split"] = protocol, split
        path.write_text(json.dumps(values))
        assert cli.main(["report", str(path)]) == 0
        heads, _, cells = capsys.readouterr().out.splitlines()
        assert ("published" in heads) == bool(figure)
        assert not figure or f"| {figure} |" in cells


def test_sizes_of_other_limits_are_not_called_small_and_large(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.json")
    values = json.loads(path.read_text())
    values["sizes"]["thresholds"] = [5, 9]
    path.write_text(json.dumps(values))
    assert cli.main(["report", str(path)]) == 0
    assert "small" not in capsys.readouterr().out
