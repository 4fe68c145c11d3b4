"""Ablation tables: what every row changes, and a table from the command line to its file."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from semask import recipes
from semask.cli.ablate import parse
from semask.cli.main import main
from semask.models.build import build_on_meta
from semask.models.flops import parameters
from semask.recipes.ablations import SEGMENTER_BASES, SEMANTIC_BASES, STUDIES, make_table
from semask.recipes.encoders import StageProbe
from semask.training.ablation import plan, slug
from semask.training.module import SegmentationModule
from tests.facts import facts, missing

TINY = [
    "--train.steps",
    "2",
    "--train.batch-size",
    "2",
    "--optim.warmup-steps",
    "1",
    "--data.scene-count",
    "2",
    "--workers",
    "0",
]


def changes(ours: Any, theirs: Any, place: str = "") -> dict[str, Any]:
    """Return the fields in which a row's recipe differs from its base; options of another kind as a whole."""
    if not dataclasses.is_dataclass(ours) or type(ours) is not type(theirs):
        return {} if ours == theirs else {place: ours}
    found: dict[str, Any] = {}
    for field in dataclasses.fields(ours):
        found |= changes(getattr(ours, field.name), getattr(theirs, field.name), f"{place}.{field.name}".lstrip("."))
    return found


@pytest.mark.parametrize("name", STUDIES)
def test_every_table_builds_over_every_base(name: str) -> None:
    for data, base in STUDIES[name].bases.items():
        if (name, data) in {("data-share", "scenes"), ("patch-size", "camvid")}:  # refused, see below
            continue
        table = make_table(name, recipes.get_recipe(base))
        assert len(table.rows) > 1
        assert len({row.label for row in table.rows}) == len({slug(row.label) for row in table.rows}) == len(table.rows)
        assert len({row.recipe for row in table.rows}) == len(table.rows), "two rows are the same"
        if data == "scenes":
            for row in table.rows:
                build_on_meta(row.recipe)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "table3",
            [{"model.encoder.semantic": None}, {"model.encoder.semantic.attention": "self"}, {}],
        ),
        (
            "table4",
            [
                {},
                {"model.encoder.semantic.gain": "one"},
                {"model.encoder.name": "swin_small_patch4_window7_224.ms_in1k"},
                {
                    "model.encoder.name": "swin_small_patch4_window7_224.ms_in1k",
                    "model.encoder.semantic.gain": "one",
                },
            ],
        ),
        (
            "table5",
            [
                {"model.encoder.semantic": None},
                {"model.encoder.semantic": StageProbe()},
                {"model.encoder.semantic": StageProbe(reads="queries")},
                {"loss.prior_weight": 0.0},
                {},
            ],
        ),
    ],
)
def test_rows_of_the_paper_change_one_thing(name: str, expected: list[dict[str, Any]]) -> None:
    base = recipes.get_recipe("ade20k/semask-swin-t-fpn")
    assert [changes(row.recipe, base) for row in make_table(name, base).rows] == expected


def test_published_sizes_of_table_3() -> None:
    """33, 36 and 35 million parameters: self-attention in place of the semantic one is larger."""
    rows = make_table("table3", recipes.get_recipe("ade20k/semask-swin-t-fpn")).rows
    assert [round(parameters(build_on_meta(row.recipe)) / 1e6) for row in rows] == [33, 36, 35]


def test_published_scores_are_the_papers() -> None:
    base = recipes.get_recipe("ade20k/semask-swin-t-fpn")
    assert [row.published for row in make_table("table4", base).rows] == [42.06, 41.11, 45.92, 45.00]
    assert [row.published for row in make_table("table5", base).rows] == [41.48, 41.52, 40.81, 41.72, 42.06]
    rows = make_table("regularisation", recipes.get_recipe("ade20k/seg-s-16")).rows
    # the paper says that stochastic depth gains 0.36 over none
    published = [row.published for row in rows if row.published is not None]
    assert published[1] - published[0] == pytest.approx(0.36)


def test_runs_go_seed_by_seed_and_are_judged_at_the_end(tmp_path: Path) -> None:
    table = make_table("table3", recipes.get_recipe("scenes/semask-micro-fpn"))
    runs = plan(table, (3, 1), tmp_path)
    assert [(run.seed, run.row) for run in runs] == [(3, 0), (3, 1), (3, 2), (1, 0), (1, 1), (1, 2)]
    assert len({run.folder for run in runs}) == 6
    assert {run.recipe.train.eval_every for run in runs} == {650}
    assert len({dataclasses.replace(run.recipe.train, seed=0) for run in runs}) == 1
    for seeds in ((), (1, 1), (-1,)):
        with pytest.raises(ValueError, match=facts(list(seeds), "--seeds 0 1 2")):
            plan(table, seeds, tmp_path)


def test_a_table_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table"
    command = ["ablate", "table4", "--seeds", "0", "1", "--out", str(out), *TINY]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert re.search(r"\b4\b.*\b4\b.*λ.*\b1\n", first)
    record = json.loads((out / "table.json").read_text(encoding="utf-8"))
    assert (record["seeds"], record["steps"], record["reference"]) == ([0, 1], 2, "λ learned")
    one, other = record["rows"]
    gaps = [b - a for a, b in zip(one["miou"], other["miou"], strict=True)]
    assert other["difference"] == pytest.approx(sum(gaps) / 2)
    assert one["difference"] is None
    text = (out / "table.md").read_text(encoding="utf-8")
    assert f"{100 * other['mean']:.2f} ± " in text
    scores = {path.parent: json.loads(path.read_text(encoding="utf-8"))["miou"] for path in out.glob("*/*/score.json")}
    assert sorted(scores.values()) == sorted([*one["miou"], *other["miou"]])
    assert not list(out.glob("*/*/last*")), "weights and optimiser states are kept twice"

    # Another seed trains what is missing and nothing else; another budget is no part of this table.
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/*/score.json")}
    assert main(["ablate", "table4", "--seeds", "1", "0", "2", "--out", str(out), *TINY]) == 0
    again = capsys.readouterr().out
    assert again.count(" 1/2 ") == 2, "trained anew"
    assert all(re.search(rf"\b{number}\b.*\b6\b.*λ", again) for number in range(1, 7))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(json.loads((out / "table.json").read_text(encoding="utf-8"))["rows"][0]["miou"]) == 3
    assert main([*command, "--train.steps", "3"]) == 2
    assert (
        missing(capsys.readouterr().err, str(out / "1-lambda-learned" / "seed-0"), "train.steps", 2, 3, "--overwrite")
        == []
    )


@pytest.mark.parametrize("done", [0, 1])
def test_a_run_that_was_cut_short_goes_on_and_the_finished_ones_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """Cut short in the second run's first step, which begins anew, or in its second, with a checkpoint before it."""
    out = tmp_path / "table"
    command = ["ablate", "table4", "--seeds", "0", "--out", str(out), *TINY]
    step, calls = SegmentationModule.training_step, itertools.count()

    def interrupted(self: SegmentationModule, *arguments: Any) -> Any:
        if next(calls) == 2 + done:
            raise FloatingPointError("the loss is nan")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationModule, "training_step", interrupted)
        assert main(command) == 1
    (finished,) = out.glob("*/*/score.json")
    before = finished.stat().st_mtime_ns
    assert len(list(out.glob("*/*/recipe.json"))) == 2
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("step 1/2 ") == 1 - done
    assert finished.stat().st_mtime_ns == before
    assert len(list(out.glob("*/*/score.json"))) == 2


def test_a_row_that_cannot_be_is_told_before_any_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--out", str(tmp_path / "t"), "--from-scratch"]
    assert main(["ablate", "table5", "--data", "ade20k/semask-segformer-b4", *flags]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert missing(told, "Swin", "'mit_b4'", "--model.encoder.semantic.reads") == []
    assert main(["ablate", "table4", "--data", "ade20k", *flags[:2], "--model.encoder.weights", "t.pth"]) == 2
    assert missing(capsys.readouterr().err, "swin_small_patch4_window7_224.ms_in1k", "--model.encoder.weights") == []
    assert not (tmp_path / "t").exists()


def test_from_scratch_is_part_of_the_recipe() -> None:
    _, settings, base = parse(["scratch", "--data", "ade20k", "--from-scratch"])
    assert base.model.encoder.weights is None
    assert not settings.run.from_scratch
    assert [row.label.split(",")[0] for row in make_table("scratch", base).rows] == ["from scratch", "from scratch"]


def test_every_row_says_what_it_varies() -> None:
    """Even where the flags say otherwise."""
    base = parse(["table4", "--model.encoder.semantic.gain", "one"])[2]
    assert [row.recipe.model.encoder.semantic.gain for row in make_table("table4", base).rows] == ["learned", "one"]
    base = parse(["table3", "--model.encoder.semantic.attention", "self"])[2]
    rows = make_table("table3", base).rows
    assert [row.recipe.model.encoder.semantic.attention for row in rows[1:]] == ["self", "semantic"]


def test_a_dry_run_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "table5", "--dry-run", "--out", str(tmp_path / "x")]) == 0
    told = capsys.readouterr().out
    assert missing(told, 15, 650) == []
    assert "42.06" not in told, "a figure of another model"
    assert not (tmp_path / "x").exists()
    assert main(["ablate", "table5", "--data", "ade20k", "--dry-run"]) == 0
    assert "42.06" in capsys.readouterr().out


def test_the_overview_names_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in STUDIES)


def test_data_is_a_dataset_a_recipe_or_a_folder(tmp_path: Path) -> None:
    assert parse(["table3"])[2].name == SEMANTIC_BASES["scenes"]
    assert parse(["decoder", "--data", "ade20k"])[2].name == SEGMENTER_BASES["ade20k"]
    assert parse(["table3", "--data", "ade20k/semask-swin-b-fpn"])[2].name == "ade20k/semask-swin-b-fpn"
    own = parse(["table3", "--data", str(tmp_path), "--optim.lr", "0.5"])[2]
    assert (own.name, own.data.root, own.optim.lr) == ("folder/semask-swin-t-fpn", str(tmp_path), 0.5)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tabel3"], ("'tabel3'", "'table3'")),
        (["--seeds", "1"], ("semask ablate TABLE", "'--seeds'", "table3")),
        (["table3", "--data"], ("--data", "scenes", "ade20k")),
        (["table3", "--data", "mars"], ("'mars'", "table3", "scenes, camvid")),
        (["table3", "--data", "ade20k/swin-t-fpn"], ("table3", "ade20k/swin-t-fpn")),
        (
            ["decoder", "--data", "ade20k/swin-t-fpn"],
            ("decoder", "ade20k/swin-t-fpn", "semantic_fpn", "segmenter_linear", "ade20k/seg-s-16"),
        ),
        (["data-share"], ("scenes", "--data camvid")),
        (["table3", "--train.seed", "4"], ("--seeds 0 1 2", "--train.seed")),
        (["table3", "--resume", "latest"], ("--resume",)),
        (["table3", "--train.eval-every", "7"], ("--train.eval-every",)),
        (
            ["patch-size", "--data", "camvid"],
            ("'vit_small_patch14_dinov2.lvd142m'", "ade20k/seg-s-16", "--model.encoder.weights None"),
        ),
    ],
)
def test_what_cannot_be_is_told(
    arguments: list[str], told: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablate", *arguments]) == 2
    assert missing(" ".join(capsys.readouterr().err.split()), *told) == []
