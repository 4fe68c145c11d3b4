"""Pages hold the values of the records, nothing from elsewhere, and no name can become code."""

import copy
import itertools
import math
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semask.data.classes import Classes
from semask.structures import IGNORE
from semask.text import percent
from semask.visualization.pages.comparison import write_comparison_page
from semask.visualization.pages.evaluation import COLOUR, confusion_view, write_evaluation_page
from semask.visualization.pages.images import (
    RIGHT,
    UNKNOWN_COLOUR,
    UNLABELLED,
    WRONG,
    choose,
    errors_uri,
    image_uri,
    overlay_uri,
    shrink_labels,
)
from semask.visualization.pages.page import axis, grouped, short, signed, write_page
from tests.facts import facts, missing

from .fake_evaluation import fake_comparison, fake_gallery, fake_record

CODE = "<script>alert('x')</script>"
CLASSES = Classes.from_dict({"classes": ["sky", "road", CODE, "car", "nowhere"]})
VOID = {"meta", "img", "br", "path", "line", "rect", "circle", "image", "link"}


class Page(HTMLParser):
    """The elements of a page; fails where one is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open[-1] not in {"script", "style"}:
            self.words.append(data.strip())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == tag]


def decoded(uri: str) -> np.ndarray:
    assert uri.startswith("data:image/")
    return np.array(Image.open(BytesIO(b64decode(uri.partition(",")[2]))))


def evaluation(folder: Path, record: dict[str, Any], arrays: dict[str, np.ndarray], **options: Any) -> Page:
    path = folder / "evaluation.html"
    options.setdefault("classes", CLASSES)
    write_evaluation_page(path, record, arrays, options.pop("gallery", ()), **options)
    return Page(path.read_text())


# --- the evaluation ----------------------------------------------------------------------------------------------


def test_an_evaluation_is_complete(tmp_path: Path) -> None:
    record, arrays = fake_record(CLASSES)
    page = evaluation(tmp_path, record, arrays, gallery=fake_gallery(CLASSES))
    for key in ("miou", "macc", "aacc", "fwiou", "dice", "boundary_iou", "boundary_f"):
        assert f"{100 * record['scores'][key]:.1f}" in page.words
        low, high = record["intervals"][key]
        assert f"{100 * low:.1f} – {100 * high:.1f}" in page.words
    for row in record["scores"]["classes"]:
        for key in ("iou", "accuracy", "dice") if row["iou"] is not None else ():
            assert ("–" if row[key] is None else f"{100 * row[key]:.1f}") in page.words
    headings = [attributes.get("id") for attributes in page.of("h2")]
    assert headings == ["classes", "confusion", "reliability", "sizes", "images", "gallery", "protocol"]
    assert [word for word in page.words if word in {"best", "median", "worst"}] == ["best", "median", "worst"]
    assert {limit for word in page.words for limit in (1024, 9216) if missing(word, limit) == []} == {1024, 9216}
    assert "whole" in page.words, "the protocol's test.mode"


def test_classes_come_best_first_and_undefined_ones_are_named_below(tmp_path: Path) -> None:
    record, arrays = fake_record(CLASSES)
    page = evaluation(tmp_path, record, arrays)
    names = [attributes["title"] for attributes in page.of("td") if "title" in attributes]
    scores = {row["name"]: row["iou"] for row in record["scores"]["classes"]}
    defined = [name for name in scores if scores[name] is not None]
    assert names == sorted(defined, key=lambda name: scores[name], reverse=True)
    assert len(defined) == 4
    assert any(missing(word, "nowhere") == [] for word in page.words)


@pytest.mark.parametrize("absent", ["intervals", "sizes", "calibration", "versions", "hardware", "seconds"])
def test_sections_that_are_absent_or_null_are_left_out(tmp_path: Path, absent: str) -> None:
    record, arrays = fake_record(CLASSES)
    without = {key: value for key, value in record.items() if key != absent}
    first = evaluation(tmp_path, without, arrays)
    second = evaluation(tmp_path, record | {absent: None}, arrays)
    assert first.words == second.words
    heading = {"sizes": "sizes", "calibration": "reliability"}.get(absent)
    assert heading not in {attributes.get("id") for attributes in first.of("h2")}


def test_every_number_may_be_null(tmp_path: Path) -> None:
    record, arrays = fake_record(CLASSES)

    def emptied(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: emptied(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [emptied(inner) for inner in value]
        return None if isinstance(value, float) else value

    page = evaluation(tmp_path, emptied(record), {**arrays, "image_miou": np.full(200, np.nan)})
    assert "reliability" not in {attributes.get("id") for attributes in page.of("h2")}
    assert page.words.count("–") > 10
    evaluation(tmp_path, record, {})


def test_pages_take_nothing_from_elsewhere(tmp_path: Path) -> None:
    record, arrays = fake_record(CLASSES)
    page = evaluation(tmp_path, record, arrays, gallery=fake_gallery(CLASSES))
    assert len(page.of("script")) == 1
    for _, attributes in page.elements:
        assert str(attributes.get("src", "data:")).startswith("data:")
        assert str(attributes.get("href", "#")).startswith(("#", "data:"))
        assert not [name for name in attributes if name.startswith("on")]
    assert (tmp_path / "evaluation.html").stat().st_size < 400_000
    policy = page.of("meta")[2]["content"]
    assert policy is not None
    assert "default-src 'none'" in policy


def test_no_text_becomes_code(tmp_path: Path) -> None:
    record, arrays = fake_record(CLASSES)
    record |= {"recipe": CODE, "hardware": CODE}
    record["protocol"] |= {"name": CODE, CODE: CODE}
    record["data"]["split"] = CODE
    record["sizes"]["bins"][0]["name"] = CODE
    arrays["image_names"] = np.array([CODE] * 200)
    gallery = [image._replace(title=CODE, name='" onload="alert(1)') for image in fake_gallery(CLASSES)]
    page = evaluation(tmp_path, record, arrays, gallery=gallery)
    assert len(page.of("script")) == 1
    assert page.words.count(CODE) > 10
    assert not [attributes for _, attributes in page.elements if "onload" in attributes]


def test_many_classes_stay_readable(tmp_path: Path) -> None:
    classes = Classes.load("ade20k")
    record, arrays = fake_record(classes)
    page = evaluation(tmp_path, record, arrays, classes=classes)
    defined = sum(row["iou"] is not None for row in record["scores"]["classes"])
    assert 140 < defined == len([attributes for attributes in page.of("td") if "title" in attributes])
    [matrix] = [attributes for attributes in page.of("img") if attributes["alt"] == "Confusion matrix"]
    assert decoded(str(matrix["src"])).shape == (150, 150, 4)


@pytest.mark.parametrize("count", [2, 5, 12, 13, 20, 40])
def test_a_confusion_matrix_is_never_made_smaller_than_its_letters_allow(tmp_path: Path, count: int) -> None:
    classes = Classes.from_dict({"classes": [f"class number {index}" for index in range(count)]})
    page = evaluation(tmp_path, *fake_record(classes), classes=classes)
    [matrix] = [attributes for attributes in page.of("svg") if attributes["aria-label"] == "Confusion matrix"]
    # units of the view are pixels at least, and letters have 11 of them
    width = float(str(matrix["viewbox"]).split()[2])
    assert f"min-width:{width:g}px" in str(matrix["style"]).replace(".0px", "px")
    assert not [attributes for attributes in page.of("text") if "font-size" in str(attributes)]
    assert "font: 11px" in (tmp_path / "evaluation.html").read_text()
    # a phone of 390 pixels has margins of 16
    assert count > 12 or width <= 390 - 2 * 16


def test_classes_that_are_predicted_nowhere_are_named_first(tmp_path: Path) -> None:
    record, arrays = fake_record(CLASSES)
    plain = evaluation(tmp_path, record | {"never_predicted": [], "advice": None}, arrays)
    assert plain.words == evaluation(tmp_path, record, arrays).words
    page = evaluation(
        tmp_path, record | {"never_predicted": ["car"], "advice": f"--data.rare-crops 0.5 {CODE}"}, arrays
    )
    [place] = [index for index, word in enumerate(page.words) if "--data.rare-crops 0.5" in word]
    assert missing(page.words[place - 1], 1, 5) == []
    assert place < page.words.index("mIoU")
    page = evaluation(tmp_path, record | {"never_predicted": ["car", "sky"]}, arrays)
    assert any(missing(word, "car", "sky") == [] for word in page.words)


@pytest.mark.parametrize(
    ("place", "value", "wanted"),
    [
        (("scores",), None, ("'scores'", "semask evaluate")),
        (("protocol",), [1], ("'protocol'", "semask evaluate")),
        (("scores", "classes"), {}, ("'classes'", "semask evaluate")),
        (("scores", "classes"), [1], ("'classes'", "semask evaluate")),
        (("scores", "classes"), [{}], (1, 5)),
        (("scores", "miou"), "<b>", ("'miou'", "'<b>'")),
        (("scores", "miou"), True, ("'miou'", True)),
        (("intervals", "miou"), ["a", "b"], ("'low'", "'a'")),
        (("calibration", "bins"), "x", ("'bins'", "semask evaluate")),
        (("calibration",), [1], ("'calibration'", "semask evaluate")),
        (("data",), "x", ("'data'", "semask evaluate")),
    ],
)
def test_records_that_are_none_are_refused_and_leave_no_page(
    tmp_path: Path, place: tuple[str, ...], value: object, wanted: tuple[object, ...]
) -> None:
    record, arrays = fake_record(CLASSES)
    inner: dict[str, Any] = record
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ValueError, match=facts(*wanted)):
        evaluation(tmp_path, record, arrays)
    assert list(tmp_path.iterdir()) == []


# --- the comparison ----------------------------------------------------------------------------------------------


def test_a_comparison_is_complete(tmp_path: Path) -> None:
    comparison = fake_comparison(CLASSES.names)
    write_comparison_page(tmp_path / "comparison.html", comparison)
    page = Page((tmp_path / "comparison.html").read_text())
    for mean, low, high in comparison["difference"].values():
        assert signed(mean) in page.words
        assert f"{signed(low)} … {signed(high)}" in page.words
    assert "41.20" in page.words
    names = [str(attributes["title"]) for attributes in page.of("td") if "title" in attributes]
    means = {row["name"]: row["difference"] and row["difference"][0] for row in comparison["classes"]}
    assert names == sorted(means, key=lambda name: -9 if means[name] is None else means[name], reverse=True)
    clear = [row["difference"] for row in comparison["classes"] if row["difference"]]
    better, worse = sum(d[1] > 0 for d in clear), sum(d[2] < 0 for d in clear)
    of_all = re.compile(rf"\b{len(means)}\b")
    counts = [value for value, below in itertools.pairwise(page.words) if value.isdigit() and of_all.search(below)]
    assert counts[:2] == [str(better), str(worse)]
    assert len(page.of("script")) == 1


def test_bars_of_a_comparison_stay_in_their_chart(tmp_path: Path) -> None:
    comparison = fake_comparison(tuple("abcdefgh"), seed=3)
    write_comparison_page(tmp_path / "comparison.html", comparison)
    page = Page((tmp_path / "comparison.html").read_text())
    for attributes in page.of("s"):
        left, width = (float(part.partition(":")[2].removesuffix("%")) for part in str(attributes["style"]).split(";"))
        assert left >= 0
        assert left + width <= 100.01
    assert len(page.of("s")) == 7


def test_a_comparison_without_its_parts_is_refused(tmp_path: Path) -> None:
    for part in ("a", "b", "difference"):
        broken = copy.deepcopy(fake_comparison(CLASSES.names))
        broken[part] = None
        with pytest.raises(ValueError, match=facts(repr(part), "semask compare")):
            write_comparison_page(tmp_path / "comparison.html", broken)
    assert list(tmp_path.iterdir()) == []


# --- what pages are made of --------------------------------------------------------------------------------------


def test_mistakes_against_a_loop() -> None:
    confusion = np.random.default_rng(0).integers(0, 50, (6, 6))
    confusion[2] = 0
    names = tuple("abcdef")
    view = confusion_view(confusion, names)
    expected = sorted((-int(confusion[i, j]), i, j) for i in range(6) for j in range(6) if i != j and confusion[i, j])
    assert [(m.truth, m.prediction, m.pixels) for m in view.mistakes] == [
        (names[i], names[j], -count) for count, i, j in expected[:20]
    ]
    for mistake in view.mistakes:
        row = names.index(mistake.truth)
        assert mistake.share == pytest.approx(mistake.pixels / confusion[row].sum())
    pixels = decoded(view.image)
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    assert (pixels[..., :3] == COLOUR).all()
    np.testing.assert_allclose(pixels[..., 3] / 255, np.sqrt(shares), atol=0.003)


def test_few_images_are_shared_out_and_none_comes_twice() -> None:
    random = np.random.default_rng(0)
    for total, count in itertools.product(range(13), range(5)):
        scores = random.permutation(total) / 13
        chosen = choose(scores, count)
        titles = [title for _, title in chosen]
        assert len({index for index, _ in chosen}) == len(chosen)
        assert all(titles.count(title) <= count for title in titles)
        # what is best is no worse than what is median, and so on
        values = {title: [scores[index] for index, of in chosen if of == title] for title in titles}
        order = [title for title in ("best", "median", "worst") if title in values]
        assert [*values] == order
        assert all(min(values[one]) > max(values[other]) for one, other in itertools.pairwise(order))
        if total and count:
            assert chosen[0] == (int(scores.argmax()), "best")
            assert total == 1 or (int(scores.argmin()), "worst") in chosen
            assert len(chosen) == min(total, 3 * count) or total > 3
    assert choose(np.array([0.2, 0.9, 0.5]), 3) == [(1, "best"), (2, "median"), (0, "worst")]
    assert choose(np.array([np.nan, 0.9, np.nan]), 3) == [(1, "best")]
    assert choose(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), 1) == [(4, "best"), (2, "median"), (0, "worst")]


def test_a_matrix_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=facts((2, 3), 3)):
        confusion_view(np.zeros((2, 3), np.int64), "abc")


@pytest.mark.parametrize("size", [(700, 1300), (1300, 300), (20, 30), (1, 900)])
def test_images_are_made_small_and_keep_their_shape(size: tuple[int, int]) -> None:
    shown = decoded(image_uri(torch.full((3, *size), 0.5)))
    factor = min(1, 360 / max(size))
    assert shown.shape == (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)), 3)
    assert abs(shown.astype(int) - 128).max() <= 2


def test_labels_are_made_small_by_the_nearest_pixel() -> None:
    labels = torch.arange(90 * 70).reshape(90, 70)
    few = shrink_labels(labels, side=30)
    assert few.shape == (30, 23)
    for row in range(30):
        for column in range(23):
            assert few[row, column] == labels[int((row + 0.5) * 90 / 30), int((column + 0.5) * 70 / 23)]


def test_maps_of_errors_and_values_that_are_no_class() -> None:
    truth = torch.tensor([[0, 1, IGNORE, 3]])
    assert decoded(errors_uri(truth, torch.tensor([[0, 2, 1, 3]])))[0].tolist() == [
        [*RIGHT],
        [*WRONG],
        [*UNLABELLED],
        [*RIGHT],
    ]
    shown = decoded(overlay_uri(torch.zeros(3, 1, 4), torch.tensor([[0, -1, IGNORE, 3]]), CLASSES, alpha=1.0))[0]
    assert shown.tolist() == [[*CLASSES.colours[0]], [*UNKNOWN_COLOUR], [0, 0, 0], [*CLASSES.colours[3]]]


@given(st.floats(1e-6, 1e9))
def test_ticks_are_round_few_and_cover_the_range(largest: float) -> None:
    scale, ticks = axis(largest, 10.0, 110.0)
    assert 2 <= len(ticks) <= 8
    marks = [float(text) for _, text in ticks]
    assert marks == pytest.approx([number * marks[1] for number in range(len(ticks))])
    assert f"{marks[1]:e}"[:8] in {"1.000000", "2.000000", "5.000000"}
    assert [place for place, _ in ticks] == pytest.approx(np.linspace(10, 110, len(ticks)), abs=0.006)
    assert 10 + 100 / len(ticks) < scale(largest) <= 110


def test_numbers_as_text() -> None:
    assert [percent(value, 1) for value in (None, math.nan, 0.1234, 1.0)] == ["–", "–", "12.3", "100.0"]
    assert [signed(value) for value in (None, 0.012, -0.012)] == ["–", "+1.2", "−1.2"]
    assert [grouped(value) for value in (None, 1234567)] == ["–", "1\u202f234\u202f567"]
    assert [short(value) for value in (None, 0.012345, 12345.0)] == ["–", "0.0123", "1.23e+04"]


def test_a_template_that_asks_for_what_is_not_there_leaves_no_page(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=facts("'runs'")):
        write_page(tmp_path / "page.html", "comparison.html")
    assert list(tmp_path.iterdir()) == []
