"""Class tables derived from the values of labels, and what reads data without a table."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semask.checkpoints.record import write_record
from semask.checkpoints.store import Bundle
from semask.cli.scoring import with_own_classes
from semask.data.checks.check import assess
from semask.data.checks.file_stats import ImageStats, LabelStats, PairStats, ReadFailure
from semask.data.checks.propose import Proposal, propose, propose_from, write_command
from semask.data.classes import Classes, identity
from semask.data.dataset import classes_of, read_values
from semask.data.label_values import COLOUR
from semask.data.pairs import Pair, find_pairs
from semask.recipes.recipe import DataRecipe, Recipe
from semask.structures import IGNORE
from tests.facts import facts, missing

SOFT = {0: 900, 255: 80, **dict.fromkeys(range(16, 250, 16), 1)}
PLAIN = {0: 5, 1: 5, 2: 5}


def stats(*labels: dict[int, int], palettes: tuple[tuple[int, ...], ...] = (), lossy: bool = False) -> list[PairStats]:
    return [
        PairStats(ImageStats(4, 4, 1), LabelStats(4, 4, 1, palette, tuple(sorted(label.items())), lossy))
        for label, palette in zip(labels, palettes or ((),) * len(labels), strict=True)
    ]


def summary(found: Proposal) -> tuple[bool, tuple[str, ...], dict[str, int | str]]:
    return found.safe, found.classes.names, found.classes.labels()


@pytest.mark.parametrize(
    ("label", "safe", "names", "labels"),
    [
        ({0: 5, 255: 5}, True, "background foreground", {"0": 0, "255": 1}),
        ({0: 5, 1: 5}, True, "background foreground", {"0": 0, "1": 1}),
        ({0: 5, 1: 5, 255: 1}, True, "background foreground", {"0": 0, "1": 1}),
        (PLAIN, True, "class_0 class_1 class_2", {"0": 0, "1": 1, "2": 2}),
        ({**PLAIN, 255: 900}, True, "class_0 class_1 class_2", {"0": 0, "1": 1, "2": 2}),
        (SOFT, True, "background foreground", {"0-127": 0, "128-255": 1}),
        (
            {COLOUR + 0x010101 * v: n for v, n in SOFT.items()},
            True,
            "background foreground",
            {"0-127": 0, "128-255": 1},
        ),
        (
            {COLOUR: 9, COLOUR + 0xFFFFFF: 1},
            True,
            "background foreground",
            {"#000000": 0, "#ffffff": 1},
        ),
        (
            {COLOUR + 0xFF0000: 9, COLOUR + 0x00FF00: 1},
            True,
            "#00ff00 #ff0000",
            {"#00ff00": 0, "#ff0000": 1},
        ),
        # white is a class or the 255 that means ignore
        (
            {COLOUR + 0x010101 * v: 5 for v in (0, 1, 2, 255)},
            False,
            "#000000 #010101 #020202 #ffffff",
            {"#000000": 0, "#010101": 1, "#020202": 2, "#ffffff": 3},
        ),
        ({0: 5, 2: 5, 3: 5}, False, "class_0 class_2 class_3", {"0": 0, "2": 1, "3": 2}),
        ({0: 5, 38: 5}, False, "background foreground", {"0": 0, "38": 1}),
        ({0: 5, 128: 5, 255: 1}, False, "class_0 class_128 class_255", {"0": 0, "128": 1, "255": 2}),
        ({1: 5, 2: 5}, False, "class_1 class_2", {"1": 0, "2": 1}),
        ({0: 5}, False, "class_0", {"0": 0}),
    ],
)
def test_what_values_show(label: dict[int, int], safe: bool, names: str, labels: dict[str, object]) -> None:
    found = propose_from(stats(label))
    # small ids always leave 255 to be ignored
    small = {"255": "ignore"} if max(set(label) - {255}) < 64 and len(set(label) - {255}) > 1 else {}
    assert summary(found) == (safe, tuple(name.replace("_", " ") for name in names.split()), labels | small)


@given(
    ids=st.sets(st.integers(0, 60), min_size=1),
    ignored=st.booleans(),
    colours=st.booleans(),
    pixels=st.randoms(use_true_random=False),
)
def test_ids_are_never_a_soft_mask(ids: set[int], ignored: bool, colours: bool, pixels: random.Random) -> None:
    label = {value: 10 ** pixels.randrange(6) for value in sorted(ids | ({255} if ignored else set()))}
    packed = {COLOUR + 0x010101 * value: count for value, count in label.items()} if colours else label
    found = propose_from(stats(packed))
    assert "0-127" not in found.classes.labels()
    # gaps and ids from 1 are for people to check
    if not colours and len(ids) > 1:
        assert found.safe == (sorted(ids) == [*range(len(ids))])


@pytest.mark.parametrize("ids", [{*range(7), 8, 9, 10}, {*range(1, 10)}, {*range(182)} - {11}])
def test_ids_with_gaps_are_not_assumed(ids: set[int]) -> None:
    """The last are those of COCO-Stuff, where nearly all pixels are of few ids or ignored."""
    label = {**dict.fromkeys(ids, 1), min(ids): 9000, 255: 900}
    found = propose_from(stats(label))
    assert (found.safe, len(found.classes.names)) == (False, len(ids) + (max(ids) > 64))


@pytest.mark.parametrize(
    "changes",
    [
        {2: 2000},  # 0 has less than half of the dark pixels
        {0: 0, 1: 900},
        {230: 90, 240: 90},  # no level has half of the light pixels
        {112: 0, 128: 0},  # a step of 32 levels without two
    ],
)
def test_values_unlike_soft_edges_are_not_assumed(changes: dict[int, int]) -> None:
    assert propose_from(stats(SOFT)).classes.labels() == {"0-127": 0, "128-255": 1}
    label = {value: count for value, count in {**SOFT, **changes}.items() if count}
    assert not propose_from(stats(label)).safe


def test_many_ids_are_for_people_to_check() -> None:
    assert propose_from(stats(dict.fromkeys(range(64), 5))).safe
    assert not propose_from(stats(dict.fromkeys(range(65), 5))).safe
    rare = {**dict.fromkeys(range(20), 1), 0: 900, 255: 900}
    assert propose_from(stats(rare)).classes.label_map == identity(20), "ids among mostly 0 and ignored pixels"


def test_black_may_mean_no_label_where_it_is_one_colour_of_many() -> None:
    red, green = COLOUR + 0xFF0000, COLOUR + 0x00FF00
    found = propose_from(stats({COLOUR: 6, red: 3, green: 1}))
    assert missing(found.hint, "60.0%", '"labels": {"#000000": "ignore"}') == []
    # the table that the hint asks for reads files and palettes
    entries = [entry for entry in json.loads(found.classes.to_text())["classes"] if entry["name"] != "#000000"]
    table = Classes.from_dict({"classes": entries, "labels": {"#000000": "ignore"}})
    assert table.by_colour
    assert table.encode(np.array([COLOUR, red, green])).tolist() == [
        IGNORE,
        *map(table.names.index, ("#ff0000", "#00ff00")),
    ]
    assert [propose_from(stats(label)).hint for label in ({COLOUR: 6, red: 3}, {red: 3, green: 1}, PLAIN)] == [""] * 3


def test_hundreds_of_colours_are_folded_and_called_soft() -> None:
    shades = {COLOUR + (value << 16): 1 for value in range(1, 200)}
    found = propose_from(stats({COLOUR: 900, COLOUR + 0xFF0000: 90, **shades}))
    assert not found.safe
    assert missing(found.reason, 201, "#000000", "#ff0000", 196) == []
    assert found.hint
    assert all(
        len(re.findall("#[0-9a-f]{6}", text)) < 30 for text in (found.reason, found.classes.describe(), found.hint)
    )
    assert missing(found.classes.describe(), 201 - 24) == []
    # under another table, too
    pairs = [Pair("p", Path("p.png"), Path("l.png"))]
    measured = stats({COLOUR: 900, COLOUR + 0xFF0000: 90, **shades})
    messages = [str(issue) for issue in assess(pairs, measured, Classes.from_dict({"classes": ["a", "b"]})).errors]
    assert len(messages) == 2
    assert all(len(re.findall("#[0-9a-f]{6}", message)) < 30 for message in messages)
    assert messages[0].index('"#000000"') < messages[0].index('"#ff0000"') < messages[0].index('"#010000"')


def test_palettes_give_colours_or_where_they_differ_are_read_by_them() -> None:
    red, green = COLOUR + 0xFF0000, COLOUR + 0x00FF00
    same = propose_from(stats({0: 5, 1: 5}, {0: 1}, palettes=((red, green), (red,))))
    assert (same.classes.colours, same.classes.by_colour) == (((255, 0, 0), (0, 255, 0)), False)
    differ = propose_from(stats({0: 5, 1: 5}, {0: 1}, palettes=((red, green), (green,))))
    assert (differ.safe, differ.classes.by_colour, differ.classes.names) == (True, True, ("#00ff00", "#ff0000"))


@pytest.mark.parametrize(
    ("labels", "lossy", "wanted"),
    [
        ([dict.fromkeys(range(256), 9)], False, (256,)),
        ([{0: 5, 1: 5}], True, ("JPEG", 2)),
        ([{0: 5}, {COLOUR: 5}], False, (0, "#000000")),
    ],
)
def test_what_shows_no_classes(labels: list[dict[int, int]], lossy: bool, wanted: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=facts(*wanted)):
        propose_from(stats(*labels, lossy=lossy))


def test_unreadable_labels_say_why() -> None:
    with pytest.raises(ValueError, match=facts("no such file")):
        propose_from([PairStats(ImageStats(4, 4, 1), ReadFailure("no such file"))])


def put(root: Path, labels: list[np.ndarray], suffix: str = ".png", **options: object) -> DataRecipe:
    for index, label in enumerate(labels):
        for folder, values, ending in (("images", np.zeros((*label.shape[:2], 3)), ".png"), ("labels", label, suffix)):
            path = root / folder / ("val" if index == 0 else "train") / f"p{index}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(path, **(options if folder == "labels" else {}))
    return DataRecipe(root=str(root), label_suffix=suffix)


def test_safe_tables_are_assumed_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = np.random.default_rng(0).integers(0, 2, (3, 6, 8))
    data = put(tmp_path, [*ids * 255])
    with caplog.at_level("WARNING"):
        assert classes_of(data) == classes_of(data) == propose(data).classes
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert write_command(data) in caplog.text
    assert write_command(data) == f"semask doctor {tmp_path} --write-classes"
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["a", "b"], "labels": {"0": 1, "255": 0}}))
    assert classes_of(data).names == ("a", "b"), "a table that is there decides"


def test_jpeg_masks_are_read_by_ranges(tmp_path: Path) -> None:
    ids = np.kron(np.random.default_rng(0).integers(0, 2, (3, 3, 4)), np.ones((1, 16, 16), int))
    data = put(tmp_path, [*ids * 255], ".jpg", quality=90)
    classes = classes_of(data)
    for index, pair in enumerate(find_pairs(data, "val") + find_pairs(data, "train")):
        assert np.array_equal(classes.encode(read_values(pair.label, classes).numpy()), ids[index])
    assert "--data.label-suffix .jpg" in write_command(data)
    with pytest.raises(ValueError, match=facts("JPEG", '"labels": {"0-127": 0')):
        read_values(pair.label, Classes.from_dict({"classes": ["a", "b"]}))


def test_real_sets_without_a_table(cells: Path, roads: Path) -> None:
    found = {root.name: propose(DataRecipe(root=str(root))) for root in (cells, roads)}
    assert summary(found["cells"]) == (True, ("background", "foreground"), {"0": 0, "255": 1})
    assert summary(found["roads"]) == (True, ("background", "foreground"), {"0-127": 0, "128-255": 1})
    # a fifth of the pixels are road
    data = DataRecipe(root=str(roads))
    encoded = [found["roads"].classes.encode(np.array(Image.open(str(p.label)))) for p in find_pairs(data, "train")]
    assert 0.15 < np.mean(encoded) < 0.25


def test_real_ids_come_back_from_their_colours(camvid: Path, tmp_path: Path) -> None:
    table, names = Classes.load("camvid"), (camvid / "val.txt").read_text().split()[:3]
    paint = np.array([*table.colours, (0, 0, 0)], np.uint8)
    ids = [np.array(Image.open(camvid / f"labels/val/{Path(name).stem}.png")) for name in names]
    data = put(tmp_path, [paint[each] for each in ids])
    found = classes_of(data)
    assert all(f"#{bytes(colour).hex()}" == name for colour, name in zip(found.colours, found.names, strict=True))
    record = {"classes": table.to_dict()["classes"], "labels": {"#000000": "ignore"}}
    (tmp_path / "classes.json").write_text(json.dumps(record))
    classes = classes_of(data)
    for split, expected in (("val", ids[:1]), ("train", ids[1:])):
        for pair, values in zip(find_pairs(data, split), expected, strict=True):
            encoded = classes.encode(read_values(pair.label, classes).numpy())
            assert np.array_equal(encoded, np.where(values == 11, IGNORE, values))


def test_a_checkpoint_reads_data_without_a_table_by_its_own(tmp_path: Path) -> None:
    data = put(tmp_path / "data", [*np.random.default_rng(0).integers(0, 2, (3, 6, 8)) * 255])
    classes = Classes.from_dict({"classes": ["rest", "cell"], "labels": {"0": 0, "255": 1}})
    write_record(tmp_path, None, classes)
    bundle = Bundle(torch.nn.Identity(), Recipe(name="x", data=data), classes)
    read = with_own_classes(tmp_path, bundle)
    assert classes_of(read.recipe.data) == classes
    assert with_own_classes(tmp_path, bundle._replace(classes=None)).recipe.data == data, "it has no names to give"
    (tmp_path / "data/classes.json").write_text(json.dumps({"classes": ["a", "b"]}))
    assert with_own_classes(tmp_path, bundle).recipe.data == data, "the data's own table decides"


def test_a_checkpoint_is_a_class_table(tmp_path: Path) -> None:
    classes = Classes.from_dict({"classes": ["a", "b"], "labels": {"0-127": 0, "128-255": 1, "#00ff00": "ignore"}})
    write_record(tmp_path, None, classes)
    assert Classes.load(tmp_path) == classes
    write_record(tmp_path, None)
    with pytest.raises(ValueError, match=facts(tmp_path / "recipe.json")):
        Classes.load(tmp_path)
