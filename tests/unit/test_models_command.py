from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tools.write_models import DATASETS, page

from semask import recipes
from semask.cli import main as cli
from semask.cli.models import Row, rows_of, table
from semask.recipes import Published
from semask.recipes.catalogue import MEASURED, Entry, catalogue
from tests.facts import missing

ROOT = Path(__file__).parents[2]


def test_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--filter", "ade20k semask swin-t-fpn", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == "ade20k/semask-swin-t-fpn"
    assert row["crop"] == [512, 512]
    assert row["parameters"] / 1e6 == pytest.approx(34.656, abs=0.001)
    assert row["multiply_adds"] / 1e9 == pytest.approx(39.85, abs=0.02)
    assert row["published"]["parameters_m"] == 35
    assert row["published"]["multiply_adds_g"] == 40


def test_table_sets_ours_beside_the_papers() -> None:
    published = Published(parameters=35, flops=40, miou=42.06, miou_ms=43.36)
    rows = [
        Row("ade20k/a", (512, 512), Entry(34_656_000, 39_850_000_000, 41_000_000_000, "mit"), published),
        Row("camvid/b", (160, 320), Entry(3_600_000, 280_000_000, 300_000_000, None), Published()),
    ]
    console = Console(width=80, record=True, quiet=False)
    console.print(table(rows).rich())
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["ade20k/a", "512²", "34.7", "(35)", "39.9", "(40)", "42.06", "43.36"] in lines
    assert ["camvid/b", "160×320", "3.6", "0.3"] in lines


def test_no_such_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--filter", "resnet-9000"]) == 2
    assert missing(capsys.readouterr().err, "'resnet-9000'", "semask models") == []


def test_a_pipe_gets_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--filter", "msfapn"]) == 0
    told = capsys.readouterr().out
    assert "ade20k/semask-swin-l-msfapn-mask2former " in told
    assert "…" not in told


def test_listing_needs_no_torch() -> None:
    code = "import sys; from semask.cli.main import main; main(['models']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_page_is_what_the_catalogue_says() -> None:
    """`make models` mends this; the catalogue itself is compared with the models in tests/test_catalogue.py."""
    assert (ROOT / "docs/models.md").read_text(encoding="utf-8") == page(rows_of(recipes.list_recipes()))


def test_every_dataset_has_a_section() -> None:
    assert {name.partition("/")[0] for name in recipes.list_recipes()} == set(DATASETS)


def test_what_we_measured_is_in_the_log() -> None:
    log = (ROOT / "docs/log.md").read_text(encoding="utf-8")
    for name, measured in MEASURED.items():
        assert name in catalogue()
        assert f"{measured.miou:.2f}" in log, name
