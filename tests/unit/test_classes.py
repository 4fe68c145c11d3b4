import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semask.data.classes import UNKNOWN, Classes, identity, packaged
from semask.data.dataset import classes_of
from semask.data.label_values import COLOUR, MAX_VALUE, pack_colours
from semask.ops.palette import ERROR_COLOUR, NEAR, OKABE_ITO, palette
from semask.recipes.recipe import DataRecipe
from semask.structures import IGNORE
from tests.facts import facts, missing
from tests.unit.stored import make_zip


def table(**change: object) -> dict[str, object]:
    return {"classes": ["sky", "road"], **change}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("ade20k", 150), ("camvid", 11), ("cityscapes", 19), ("cityscapes-labelids", 19), ("coco-stuff10k", 171)),
        *(("coco-stuff164k", 171), ("coco-stuff164k-trainids", 171), ("pascal-context", 60), ("pascal-context-59", 59)),
        ("voc", 21),
    ],
)
def test_packaged_tables(name: str, count: int) -> None:
    classes = Classes.load(name)
    assert name in packaged()
    assert len(classes) == len(set(classes.names)) == len(set(classes.colours)) == count
    assert Classes.from_dict(json.loads(json.dumps(classes.to_dict()))) == classes
    assert sorted(set(classes.label_map.values()) - {IGNORE}) == list(range(count)), "every class can occur"


def test_label_rules_of_the_packaged_tables() -> None:
    ade, city = Classes.load("ade20k"), Classes.load("cityscapes")
    source = np.array([[0, 1, 2, 150, 254, 255]], np.uint8)
    # Recorded: reduce_zero_label turns 0,1,2,150,255 into 255,0,1,149,255. 254 is no ADE20K value: we refuse it.
    assert ade.encode(source).tolist() == [[IGNORE, 0, 1, 149, UNKNOWN, IGNORE]]
    assert (ade.names[0], ade.names[12], ade.names[149]) == ("wall", "person", "flag")
    assert city.encode(np.array([[0, 18, 19, 255]], np.uint8)).tolist() == [[0, 18, UNKNOWN, IGNORE]]
    assert (city.names[0], city.colours[0], city.names[18], city.colours[18]) == (
        "road", (128, 64, 128), "bicycle", (119, 11, 32),
    )  # fmt: skip
    coco = Classes.load("coco-stuff10k")
    assert (coco.names[0], coco.names[79], coco.names[80], coco.names[170]) == (
        "person",
        "toothbrush",
        "banner",
        "wood",
    )


def test_cityscapes_is_what_torchvision_has() -> None:
    from torchvision.datasets import Cityscapes

    scored = [entry for entry in Cityscapes.classes if 0 <= entry.train_id < 19]
    for name in ("cityscapes", "cityscapes-labelids"):
        classes = Classes.load(name)
        assert classes.names == tuple(entry.name for entry in scored)
        assert classes.colours == tuple(entry.color for entry in scored)
        assert classes.official_ids == tuple(entry.id for entry in scored)
    others = {entry.id for entry in Cityscapes.classes if entry.id >= 0} - {entry.id for entry in scored}
    assert Classes.load("cityscapes-labelids").label_map.items() >= dict.fromkeys(others, IGNORE).items()


def test_voc_is_what_torchvision_has_in_the_colours_of_the_kit() -> None:
    """The kit's colour map spreads the bits of the number over red, green and blue, the highest first."""
    from torchvision.models._meta import _VOC_CATEGORIES

    classes = Classes.load("voc")
    assert classes.names == ("background", *_VOC_CATEGORIES[1:])
    bits = (np.arange(21)[:, None, None] >> (3 * np.arange(8)[:, None] + np.arange(3))) & 1
    assert np.array_equal(classes.colours, (bits << np.arange(7, -1, -1)[:, None]).sum(1))
    assert {value: target for value, target in classes.label_map.items() if value <= MAX_VALUE} == identity(21)


def test_coco_stuff_leaves_out_the_ids_that_coco_does() -> None:
    from torchvision.models._meta import _COCO_CATEGORIES

    tables = [Classes.load(name) for name in ("coco-stuff10k", "coco-stuff164k", "coco-stuff164k-trainids")]
    things = {name: number for number, name in enumerate(_COCO_CATEGORIES) if name not in ("N/A", "__background__")}
    assert len(things) == 80
    for classes in tables:
        assert classes.names == tables[0].names
        assert classes.official_ids == (*things.values(), *range(92, 183))
        assert classes.names[:80] == tuple(things)
    ten, full, train_ids = tables
    assert ten.values == tuple(range(1, 172))
    assert full.values == tuple(number - 1 for number in full.official_ids)
    assert train_ids.values == tuple(range(171))
    assert [table.label_map[255] for table in tables] == [IGNORE] * 3


def test_pascal_context_with_and_without_background() -> None:
    """Ids rise with the names, for the 459 are in the alphabet's order; 59 are left of them."""
    whole, bare = Classes.load("pascal-context"), Classes.load("pascal-context-59")
    assert whole.names == ("background", *bare.names)
    assert whole.official_ids == (0, *bare.official_ids)
    assert list(whole.official_ids) == sorted(whole.official_ids)
    assert max(whole.official_ids) <= 459
    labels = np.arange(60, dtype=np.uint8)
    assert bare.encode(labels).tolist() == [IGNORE, *range(59)]


def test_ids_are_the_values_of_label_files_or_are_given() -> None:
    plain = Classes.from_dict(table(labels={"3": "sky", "7": "sky", "5": "road", "0": "ignore"}))
    assert plain.values == plain.official_ids == (3, 5)
    assert Classes.from_dict(table(labels={"3": "sky"})).values == (3, -1)
    given = Classes.from_dict(table(ids=[40, 2]))
    assert (given.values, given.official_ids) == ((0, 1), (40, 2))
    assert Classes.from_dict(given.to_dict()) == given


def test_ade20k_names_are_those_of_the_dataset(ade20k_mini: Path) -> None:
    lines = (ade20k_mini / "objectInfo150.txt").read_text().splitlines()[1:]
    assert Classes.load("ade20k").names == tuple(line.split("\t")[4].split(",")[0].strip() for line in lines)


def test_camvid_matches_its_readme(camvid: Path) -> None:
    classes, text = Classes.load("camvid"), (camvid / "README.md").read_text()
    assert ", ".join(f"{i} {name}" for i, name in enumerate(classes.names)) in text
    assert " ".join("[" + ",".join(map(str, colour)) + "]" for colour in classes.colours) in text
    assert classes.label_map[11] == IGNORE


def test_json_with_colours_names_and_ignore(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    record = {
        "classes": [{"name": "sky", "colour": [1, 2, 3]}, {"name": "road"}, "tree"],
        "labels": {"0": "road", "7": 2, "300": "sky", "9": "ignore"},
    }
    path.write_text(json.dumps(record))
    classes = Classes.load(path)
    assert classes.names == ("sky", "road", "tree")
    assert classes.colours == ((1, 2, 3), *palette(3)[1:])
    assert classes.label_map == {0: 1, 7: 2, 300: 0, 9: IGNORE}
    assert Classes.load(str(path)) == classes


def test_labels_that_only_ignore_leave_the_other_values_as_they_are() -> None:
    classes = Classes.from_dict({"classes": ["road", "sky"], "labels": {"11": "ignore"}})
    assert classes.label_map == {0: 0, 1: 1, 11: 255, 255: 255}


def test_colours_in_every_spelling() -> None:
    entries = [
        {"name": "a", "colour": [1, 2, 255]},
        {"name": "b", "color": "#0102fE"},
        {"name": "c", "colour": "#0102fd"},
    ]
    assert Classes.from_dict({"classes": entries}).colours == ((1, 2, 255), (1, 2, 254), (1, 2, 253))


def test_colours_are_labels_where_they_are_given() -> None:
    green, red = COLOUR + 0x00FF00, COLOUR + 0xFF0000
    entries = ["soil", {"name": "crop", "colour": "#00ff00"}]
    source = np.array([[0, 1, green, red]], np.int64)
    mapped = Classes.from_dict({"classes": entries, "labels": {"#00FF00": "crop", "#ff0000": "soil"}})
    assert (mapped.by_colour, mapped.encode(source).tolist()) == (True, [[UNKNOWN, UNKNOWN, 1, 0]])
    own = Classes.from_dict({"classes": entries})
    assert (own.by_colour, own.encode(source).tolist()) == (False, [[0, 1, 1, UNKNOWN]]), "soil's colour is generated"
    ignoring = Classes.from_dict({"classes": entries, "labels": {"#ff0000": "ignore"}})
    assert ignoring.encode(source).tolist() == [[0, 1, 1, IGNORE]]
    same = [{"name": "a", "colour": "#00ff00"}, {"name": "b", "colour": "#00ff00"}]
    assert Classes.from_dict({"classes": same}).encode(source).tolist() == [[0, 1, UNKNOWN, UNKNOWN]]


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=255, unique=True), st.integers(0, 2**32))
def test_ids_come_back_from_colours(colours: list[int], seed: int) -> None:
    classes = Classes.from_dict(
        {
            "classes": [str(index) for index in range(len(colours))],
            "labels": {f"#{colour:06x}": index for index, colour in enumerate(colours)},
        }
    )
    ids = np.random.default_rng(seed).integers(0, len(colours), (5, 7))
    pixels = np.array(colours)[ids][..., None] >> np.array([16, 8, 0]) & 255
    assert np.array_equal(classes.encode(pack_colours(pixels.astype(np.uint8))), ids)
    assert Classes.from_dict(json.loads(classes.to_text())) == classes
    assert Classes.from_dict(classes.to_dict()) == classes


@given(st.sets(st.integers(1, 255), max_size=9), st.data())
def test_ranges_are_their_values_one_by_one(cuts: set[int], data: st.DataObject) -> None:
    ends = [0, *sorted(cuts), 256]
    targets = [data.draw(st.sampled_from([0, 1, "ignore"])) for _ in ends[1:]]
    keys = [f"{first}-{last - 1}" if last - first > 1 else str(first) for first, last in pairwise(ends)]
    ranged = Classes.from_dict(table(labels={**dict(zip(keys, targets, strict=True)), "1000": 0}))
    single = {str(v): t for (a, b), t in zip(pairwise(ends), targets, strict=True) for v in range(a, b)}
    levels = np.arange(256)
    expected = Classes.from_dict(table(labels={**single, "1000": 0})).encode(levels)
    assert UNKNOWN not in expected
    assert np.array_equal(ranged.encode(levels.astype(np.uint8)), expected)
    assert np.array_equal(ranged.encode(COLOUR + levels * 0x010101), expected), "grey in three channels"
    assert ranged.encode(np.array([COLOUR + 0x000102])).tolist() == [UNKNOWN]
    assert Classes.from_dict(json.loads(ranged.to_text())) == ranged
    assert set(ranged.to_dict()["labels"]) <= {*keys, "1000"}


def test_without_labels_values_are_classes_and_255_is_ignored() -> None:
    classes = Classes.from_dict(table())
    assert classes.label_map == {0: 0, 1: 1, 255: IGNORE} == identity(2)
    assert classes.encode(np.array([0, 1, 2, 255], np.uint8)).tolist() == [0, 1, UNKNOWN, IGNORE]


def test_encode_of_wide_values() -> None:
    classes = Classes.from_dict(table(labels={"0": 0, "65535": 1}))
    source = np.array([-1, 0, 1, MAX_VALUE, MAX_VALUE + 1, 2**31 - 1], np.int32)
    assert classes.encode(source).tolist() == [UNKNOWN, 0, UNKNOWN, 1, UNKNOWN, UNKNOWN]


def test_encode_of_signed_and_32_bit_values() -> None:
    labels = {"-9999": "ignore", "-1": "ignore", "4294967295": "ignore", "70000": 0, "-2147483648": 1}
    classes = Classes.from_dict(table(labels={**labels, "3": 0, "4": 1}))
    source = np.array([-9999, -1, 2**32 - 1, 70000, -(2**31), 3, 4, -2, 70001, 2**33], np.int64)
    assert classes.encode(source).tolist() == [IGNORE] * 3 + [0, 1, 0, 1] + [UNKNOWN] * 3
    assert classes.values == (3, 4)
    assert Classes.from_dict(classes.to_dict()) == classes


def test_colours_are_okabe_and_itos_and_then_far_from_each_other_and_from_errors() -> None:
    colours = palette(255)
    assert colours[: len(OKABE_ITO)] == OKABE_ITO
    # as published: sky blue, orange, bluish green, yellow, blue, reddish purple
    assert [f"{red:02x}{green:02x}{blue:02x}" for red, green, blue in OKABE_ITO] == [
        *("56b4e9", "e69f00", "009e73", "f0e442", "0072b2", "cc79a7")
    ]
    assert all(palette(count) == colours[:count] for count in (1, 3, 10, 60))
    numbers = np.array(colours)
    apart = np.linalg.norm(numbers[:, None] - numbers[None], axis=-1) + 1000 * np.eye(255)
    assert apart.min() >= 40
    assert apart[:20, :20].min() >= 75
    assert np.linalg.norm(numbers - ERROR_COLOUR, axis=1).min() > NEAR >= 60


def test_names_of_a_flag_become_numbers() -> None:
    classes = Classes.from_dict({"classes": ["sky", "road", "car"]})
    assert classes.numbers(["car", "sky"], "--only") == (2, 0)
    assert classes.numbers([], "--only") == ()
    with pytest.raises(ValueError, match=facts("--only", "'raod'", "'road'")):
        classes.numbers(["sky", "raod"], "--only")
    with pytest.raises(ValueError, match=facts("--only", "'x'", "sky", "car")):
        classes.numbers(["x"], "--only")


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ([], ('"classes"',)),
        ({}, ('"classes"',)),
        ({"classes": []}, ('"classes"',)),
        (table(label={}), ("'label'", '"classes"', '"labels"', '"ids"')),
        (table(ids={}), ("ids", "{}")),
        (table(ids=[1]), ("ids", 1, 2)),
        (table(ids=[1, 1]), ("ids", 1, 2)),
        (table(ids=[1, -2]), ("ids", -2, 65535)),
        (table(ids=[1, "2"]), ("ids", "'2'", 65535)),
        ({"classes": ["a", "b", "a"]}, ("'a'", 2)),
        ({"classes": ["a", ""]}, ("classes", "''", '"name"')),
        ({"classes": [{"colour": [1, 2, 3]}]}, ("classes", '"name"')),
        ({"classes": ["ignore"]}, ('"ignore"', '"labels"')),
        ({"classes": [str(i) for i in range(256)]}, ("1 … 255", 256)),
        ({"classes": [{"name": "a", "colour": [0, 0, 256]}]}, ([0, 0, 256], "'a'", 255)),
        ({"classes": [{"name": "a", "colour": [0, 0, 0.5]}]}, ([0, 0, 0.5], "'a'", 255)),
        ({"classes": [{"name": "a", "colour": "red"}]}, ("'red'", "'a'", "[r, g, b]")),
        (table(labels={}), ("labels", '{"0": "sky", "11": "ignore"}')),
        (table(labels={"0": 2}), ("labels", 0, 2, "0 … 1")),
        (table(labels={"0": -1}), ("labels", 0, -1, "0 … 1")),
        (table(labels={"0": "raod"}), ("labels", 0, "'raod'", "'road'")),
        (table(labels={"0": None}), ("labels", 0, "None", '"ignore"')),
        (table(labels={"0": True}), ("labels", 0, "True", '"ignore"')),
        (table(labels={"sky": 0}), ("labels", "'sky'", 4294967295)),
        (table(labels={"4294967296": 0}), ("labels", 4294967296, 4294967295)),
        (table(labels={"1": 0, "01": 1}), ("labels", 1, "'01'")),
        (table(labels={"0.5": 0}), ("labels", "'0.5'", 4294967295)),
        (table(labels={"#00ff0": 0}), ("labels", "'#00ff0'", '"#00ff00"')),
        (table(labels={"9-3": 0}), ("labels", "'9-3'", 65535)),
        (table(labels={"0-65536": 0}), ("labels", "'0-65536'", 65535)),
        (table(labels={"0-127": 0, "127-255": 1}), ("labels", 127, "'127-255'")),
        (table(labels={"#00ff00": 0, "#00FF00": 1}), ("labels", "#00ff00", "'#00FF00'")),
        ({"classes": [{"name": "a", "colours": "#00ff00"}]}, ("'colours'", "'a'", "'colour'", "name")),
        ({"classes": [{"name": "a", "colour": "#00ff00", "color": "#00ff00"}]}, ("'a'", "colour", "color")),
    ],
)
def test_bad_tables_say_what_is_wrong(record: object, wanted: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=facts(path, *wanted)):
        Classes.load(path)


@pytest.mark.parametrize(
    ("text", "line", "column", "cause"),
    [
        ("{\"classes\": ['a']}", 1, 14, "double quotes"),
        ('{\n "classes": ["a",\n  "b",\n ]}', 4, 2, "comma"),
        ('{"classes": ["a"\n "b"]}', 2, 2, "comma"),
        ('{"classes": ["a"]\n "labels": {}}', 2, 2, "comma"),
        ("{\n classes: []}", 2, 2, "double quotes"),
        ('{"classes" []}', 1, 12, "colon"),
        ('{\n"classes": ["a]}', 2, 13, "quote"),
        ('{"classes": ["a\\b\\z"]}', 1, 18, "backslash"),
        ('{"classes": ["a"]} x', 1, 20, "bracket"),
        ('{"classes": ["a", "b"', 1, 22, "ends"),
        ("", 1, 1, "empty"),
    ],
)
def test_broken_json_has_its_place_and_cause(text: str, line: int, column: int, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=facts(path, f"line {line}", f"column {column}", cause)) as caught:
        Classes.load(path)
    assert text.splitlines()[line - 1].strip() in str(caught.value) if text else True


@pytest.mark.parametrize("text", ["{", "\x00", '{"classes": ["a"], "labels": {"0": 0, "0": "ignore"}}', "[" * 100_000])
def test_broken_json_is_reported_with_its_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=facts(path)):
        Classes.load(path)


def test_unknown_names_get_the_near_one() -> None:
    with pytest.raises(ValueError, match=facts("'cityscape'", "'cityscapes'", "ade20k, camvid")):
        Classes.load("cityscape")
    with pytest.raises(ValueError, match=facts("nowhere/classes.json", "ade20k, camvid")):
        Classes.load("nowhere/classes.json")


def test_colours_are_counted() -> None:
    with pytest.raises(ValueError, match=facts(2, 1)):
        Classes(("a", "b"), ((0, 0, 0),), {0: 0})


def test_the_label_map_is_reported_in_a_line() -> None:
    assert missing(Classes.load("ade20k").describe(), "1 … 150 wall … flag", "0, 255") == []
    table = Classes.from_dict(
        {"classes": ["sky", "road", "car"], "labels": {"7": "road", "8": "car", "3": "sky", "4": "sky"}}
    )
    assert missing(table.describe(), "3 sky", "4 sky", "7 … 8 road … car", 0, 255) == [0, 255]


def test_a_class_called_by_its_colour_is_listed_once() -> None:
    colours = {"#000000": 0, "#00ff00": 1, "#ff0000": "ignore"}
    text = Classes.from_dict({"classes": ["#000000", "crop"], "labels": colours}).describe()
    assert (text.count("#000000"), text.count("#00ff00 crop"), text.count("#ff0000")) == (1, 1, 1)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_before_a_table_is_accepted(tmp_path: Path, mark: str) -> None:
    """As Notepad and PowerShell write them; in a file, in the folder of a data set, and in a zip file."""
    text = f'{mark}{{"classes": ["sky", "größe"]}}'
    (tmp_path / "classes.json").write_text(text, encoding="utf-8")
    archive = make_zip(tmp_path / "a.zip", {"classes.json": text.encode()})
    assert Classes.load(tmp_path / "classes.json").names == ("sky", "größe")
    for root in (tmp_path, archive):
        assert classes_of(DataRecipe(root=str(root))).names == ("sky", "größe")
