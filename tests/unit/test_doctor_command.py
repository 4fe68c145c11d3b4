"""The doctor command: what it prints and writes, and its exit status."""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semask.cli import main as cli
from semask.data.checks.doctor import diagnose
from semask.recipes.recipe import DataRecipe
from semask.visualization.pages.doctor import write_doctor_page
from tests.facts import missing
from tests.unit.doctored import NAMES, SIZE, leaked, messages_of, out_of_range, put, put_good, scene


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return put_good(tmp_path / "data")


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep runs/doctor, where results go without --out, out of the checkout."""
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> int:
    return cli.main(["doctor", *map(str, arguments)])


def test_the_command_tells_writes_and_gives_its_status(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, "--out", tmp_path / "out") == 0
    screen = capsys.readouterr().out
    assert missing(screen, 0, 1, 6, 2) == []
    assert "--model.mean 0." in screen
    assert "--loss.class-weights " in screen
    record = json.loads((tmp_path / "out/doctor.json").read_text())
    assert record["errors"] == []
    assert record["splits"]["train"]["sizes"] == [[40, 56, 6]]
    assert [len(weights) for weights in record["class_weights"].values()] == [4, 4, 4]
    out_of_range(root)
    assert run(root, "--out", tmp_path / "out") == 1
    screen = capsys.readouterr().out
    wrong = next(line for line in screen.splitlines() if "train0.png" in line)
    assert missing(wrong, 77, 6) == []
    assert screen.index(wrong) < screen.index("--loss.class-weights ")
    assert any(missing(line, 77, 6) == [] for line in (tmp_path / "out/doctor.html").read_text().splitlines())


def test_a_zip_file_says_the_same(root: Path, tmp_path: Path) -> None:
    leaked(root)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(root))
    records = []
    for data in (root, tmp_path / "data.zip"):
        assert run(data, "--out", tmp_path / "out") == 1
        text = (tmp_path / "out/doctor.json").read_text().replace(str(data), "DATA")
        records.append(json.loads(text))
    assert records[0] == records[1]


def test_the_many_of_a_kind_are_summed_up(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(14):
        put(root, f"train/odd{index:02}", *scene(index + 200, (44, 50)))
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / f"labels/train/odd{index:02}.png")
    assert run(root, "--out", tmp_path / "out") == 1
    screen = capsys.readouterr().out
    assert screen.count("44×50") == 10
    assert any(missing(line, 4, "size") == [] for line in screen.splitlines())


def test_a_missing_table_is_proposed_written_and_never_replaced_unasked(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "classes.json").unlink()
    assert run(root) == 0
    screen = capsys.readouterr().out
    assert f"semask doctor {root} --write-classes" in screen
    record = json.loads((tmp_path / "runs/doctor/data/doctor.json").read_text())
    assert (record["proposal"]["safe"], record["classes"]) == (True, [f"class {index}" for index in range(4)])
    assert not (root / "classes.json").exists()
    assert run(root, "--write-classes") == 0
    text = (root / "classes.json").read_text()
    assert text in capsys.readouterr().out
    assert [entry["name"] for entry in json.loads(text)["classes"]] == record["classes"]
    (root / "classes.json").write_text(json.dumps({"classes": [*NAMES]}))
    assert run(root, "--write-classes") == 2
    assert missing(capsys.readouterr().err, "--replace-classes", root / "classes.json") == []
    assert json.loads((root / "classes.json").read_text()) == {"classes": [*NAMES]}
    assert run(root, "--write-classes", "--replace-classes") == 0
    assert (root / "classes.json").read_text() == text


def test_the_page_shows_the_images_with_most_of_every_class(root: Path, tmp_path: Path) -> None:
    found = diagnose(DataRecipe(root=str(root)))
    write_doctor_page(tmp_path / "doctor.html", found, name="data")
    page = (tmp_path / "doctor.html").read_text()
    shown = re.findall(r"<figcaption><b>(\w+)</b> · <code>(\w+)</code>", page)
    labels = {path.stem: np.array(Image.open(path)) for path in (root / "labels/train").iterdir()}
    # for each class in turn, the rarest first, the image that is left with most of it
    left, expected = dict(sorted(labels.items())), []
    order = sorted(range(4), key=lambda index: sum((label == index).sum() for label in labels.values()))
    while left:
        for index in order:
            counts = {stem: int((label == index).sum()) for stem, label in left.items()}
            if any(counts.values()):
                expected.append((NAMES[index], max(counts, key=lambda stem: counts[stem])))
                del left[expected[-1][1]]
    assert expected[0] == ("rare", "train5")
    assert shown == sorted(expected, key=lambda each: NAMES.index(each[0]))
    for _, stem in shown:
        figure = page[page.index(f"<code>{stem}</code>") :].partition("</figure>")[0]
        named = {name for name in NAMES if f"</span>{name}</span>" in figure}
        assert named == {NAMES[index] for index in np.unique(labels[stem])}
    assert "--write-classes" not in page
    (root / "classes.json").unlink()
    assert run(root, "--out", tmp_path / "out") == 0
    page = (tmp_path / "out/doctor.html").read_text()
    assert missing(page, f"semask doctor {root} --write-classes", "&#34;class 3&#34;") == []


def test_tables_that_cannot_be_written_or_assumed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "classes.json").unlink()
    shutil.make_archive(str(tmp_path / "data"), "zip", root)
    assert run(tmp_path / "data.zip", "--write-classes") == 2
    assert missing(capsys.readouterr().err, "--data.classes", '"class 3"') == []
    assert run("camvid/semask-lite0-fpn", "--data.root", root, "--write-classes") == 2
    assert missing(capsys.readouterr().err, "--write-classes", "--data.classes", "camvid") == []
    # the last id is missing below another: its meaning is open
    for path in (root / "labels").rglob("*.png"):
        Image.fromarray(np.where(np.array(Image.open(path)) == 1, 38, 0).astype(np.uint8)).save(path)
    assert run(root) == 1
    assert missing(capsys.readouterr().out, "38", "--write-classes") == []


def test_colours_and_soft_edges_get_the_map_to_paste(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint = np.array([(0, 0, 0), (0, 255, 0), (255, 0, 0), (9, 9, 9)], np.uint8)
    for path in (root / "labels").rglob("*.png"):
        Image.fromarray(paint[np.array(Image.open(path))]).save(path)
    assert run(root) == 1
    wrong = next(line for line in capsys.readouterr().out.splitlines() if '"labels"' in line)
    labels = json.loads(wrong[wrong.index('{"#') :])
    assert labels == {"#000000": 0, "#00ff00": 1, "#090909": 2, "#ff0000": 3}
    (root / "classes.json").write_text(json.dumps({"classes": [*NAMES], "labels": labels}))
    assert run(root) == 0
    capsys.readouterr()
    random = np.random.default_rng(0)
    for path in (root / "labels").rglob("*.png"):
        soft = np.where(np.array(Image.open(path))[..., 1] == 255, 250, 0)
        soft[::20, ::20] = random.integers(3, 256, soft[::20, ::20].shape)
        Image.fromarray(soft.astype(np.uint8)).save(path)
    (root / "classes.json").write_text(json.dumps({"classes": ["ground", "wall"]}))
    assert run(root) == 1
    assert '{"0-127": 0, "128-255": 1}' in capsys.readouterr().out


def test_long_tables_do_not_fill_the_screen(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "classes.json").unlink()
    shades = np.zeros((*SIZE, 3), np.uint8)
    shades[0, :, 0], shades[1, :, 1], shades[2:, :, 2] = np.arange(56), np.arange(56), 255
    for path in (root / "labels").rglob("*.png"):
        Image.fromarray(shades).save(path)
    assert run(root) == 1
    screen = capsys.readouterr().out
    proposed = screen[screen.index('"classes"') : screen.index("label values")]
    assert len(proposed.splitlines()) < 45
    assert len(re.findall("#[0-9a-f]{6}", proposed)) < 100
    assert run(root, "--write-classes") == 0
    assert len(json.loads((root / "classes.json").read_text())["classes"]) == 112


def test_what_training_chooses_and_ignoring_black_are_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "classes.json").unlink()
    paint = np.array([(0, 0, 0), (0, 255, 0), (255, 0, 0), (9, 9, 9)], np.uint8)
    for path in (root / "labels").rglob("*.png"):
        Image.fromarray(paint[np.array(Image.open(path))]).save(path)
    assert run(root, "--out", root / "out") == 0
    screen = capsys.readouterr().out
    assert missing(screen, '"labels": {"#000000": "ignore"}', "semask train") == []
    assert "#000000 #000000" not in screen
    page = (root / "out/doctor.html").read_text()
    assert missing(page, "&#34;#000000&#34;: &#34;ignore&#34;", "semask train folder/…") == []


@pytest.mark.parametrize(
    ("root", "moved", "flag"),
    [
        ("cells/images", {}, "--data.root cells"),
        ("cells/labels", {}, "--data.root cells"),
        (".", {}, "--data.root cells"),
        ("cells", {"labels": "masks"}, "--data.labels masks"),
        ("cells", {"labels": "my labels"}, "--data.labels 'my labels'"),
        ("cells", {"images": "photos"}, "--data.images photos"),
    ],
)
@pytest.mark.parametrize("flat", [True, False])
def test_folders_one_step_off_get_the_flag_that_fits_once(
    tmp_path: Path, root: str, moved: dict[str, str], flag: str, flat: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(4):
        split = "" if flat else ("val/" if index == 0 else "train/")
        put(tmp_path / "cells", f"{split}p{index}", *scene(index))
    # another folder of images, which has nothing to do with them
    (tmp_path / "cells/figures").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "cells/figures/plan.png")
    for name, other in moved.items():
        (tmp_path / "cells" / name).rename(tmp_path / "cells" / other)
    for command in (["doctor", root], ["train", "folder/semask-micro-fpn", "--data.root", root, "--out", "run"]):
        assert cli.main(command) == 2
        message = capsys.readouterr().err
        assert message.count(flag) == 1, message
        assert message.count("images/*.jpg") + message.count("images/train/*.jpg") == 1, message
    # and with the flag, it is found
    assert cli.main(["doctor", root, *flag.replace("'", "").split(" ", 1)]) == 0


def test_recipes_take_their_data_from_root(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("folder/semask-micro-fpn", "--data.root", root, "--data.images", "images/{split}", "--out", tmp_path) == 0
    )
    assert run("camvid/semask-lite0-fpn", "--data.root", root, "--data.classes", root / "classes.json") == 1
    assert missing(capsys.readouterr().out, 4, 11, "--model.num-classes 4") == []
    assert (tmp_path / "runs/doctor/camvid-semask-lite0-fpn/doctor.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["nowhere/at/all"], ("'nowhere/at/all'", "semask models")),
        (["scenes/micro-fpn"], ("scenes/micro-fpn",)),
        (["--out", "x"], ("semask doctor DATA", "'--out'")),
        (["camvid/semask-lite0-fpn"], ("--data.root", "images/train/*.jpg", "semask prepare camvid")),
    ],
)
def test_wrong_input_has_status_2(
    arguments: list[str], wanted: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert missing(capsys.readouterr().err, *wanted) == []


def test_names_that_are_no_text_and_names_that_are_code(root: Path, tmp_path: Path) -> None:
    code = "<script>alert(1)<!--"
    (root / "classes.json").write_text(json.dumps({"classes": ["<script>alert(2)</script>", *NAMES[1:]]}))
    put(root, f"train/{code.replace('/', '')}", np.zeros((*SIZE, 3), np.uint8), scene(1)[1])
    for folder, suffix in (("images", ".jpg"), ("labels", ".png")):
        path = os.fsencode(root / folder / "train")
        shutil.copy(os.path.join(path, b"train1" + suffix.encode()), os.path.join(path, b"\xff" + suffix.encode()))
    assert run(root, "--out", tmp_path / "out") == 0
    page = (tmp_path / "out/doctor.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;!--" in page
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in page
    files = {each["second"] for each in json.loads((tmp_path / "out/doctor.json").read_text())["duplicates"]}
    assert any(name.endswith("\udcff.jpg") for name in files)


def test_real_data_are_fit(ade20k_mini: Path) -> None:
    found = diagnose(
        DataRecipe(
            root=str(ade20k_mini), classes="ade20k", labels="annotations/{split}", image_suffix=".jpg",
            train_split="training", val_split="validation",
        )
    )  # fmt: skip
    assert found.errors == ()
    assert found.duplicates == ()


def test_the_mistake_with_ade20k_is_seen(ade20k_mini: Path, tmp_path: Path) -> None:
    """Its values 0 … 150 read as they are, which is what reduce_zero_label was about."""
    table = tmp_path / "plain.json"
    table.write_text(json.dumps({"classes": [f"class {index}" for index in range(150)]}))
    found = diagnose(
        DataRecipe(
            root=str(ade20k_mini), classes=str(table), labels="annotations/{split}", image_suffix=".jpg",
            train_split="training", val_split="validation",
        )
    )  # fmt: skip
    [issue] = messages_of(found.errors, "zero")
    assert missing(issue, 150, 0, 20, 1) == []


def test_nothing_of_the_validation_is_to_be_pasted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (root / "labels/train").iterdir():
        path.unlink()
    assert run(root, "--out", root / "out") == 1
    screen = capsys.readouterr().out
    assert "--loss.class-weights" not in screen
    assert "--model.mean" not in screen
    assert "'train'" in screen
