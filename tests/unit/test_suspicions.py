"""What all labels together give away: each mistake is told with its cure, and good labels are left in peace."""

from pathlib import Path

import pytest

from semask.data.checks.file_stats import ImageFacts, LabelFacts, PairFacts, Unread
from semask.data.checks.issue import Problem
from semask.data.checks.label_heuristics import suspicions
from semask.data.classes import Classes
from semask.data.pairs import Pair

IMAGE = ImageFacts(4, 4, 1)
THREE = Classes.from_dict({"classes": ["a", "b", "c"]})
SHIFTED = Classes.from_dict(
    {"classes": ["a", "b", "c"], "labels": {"0": "ignore", "1": 0, "2": 1, "3": 2, "255": "ignore"}}
)


def found(classes: Classes, *labels: dict[int, int]) -> list[Problem]:
    """Judge labels given as pixels by value."""
    facts = [PairFacts(IMAGE, LabelFacts(4, 4, 1, False, tuple(sorted(label.items())))) for label in labels]
    pairs = [Pair(str(i), Path(f"{i}.jpg"), Path(f"{i}.png")) for i in range(len(labels))]
    return list(suspicions(pairs, facts, classes))


@pytest.mark.parametrize(
    "labels",
    [
        [{0: 5, 1: 5, 2: 5}, {1: 9, 255: 3}],
        [{0: 8, 1: 2}] * 20,
        [{1: 2, 2: 2}] * 3,
        [],
    ],
)
def test_good_labels_are_left_in_peace(labels: list[dict[int, int]]) -> None:
    assert found(THREE, *labels) == []


def test_masks_of_0_and_255_for_one_class() -> None:
    [problem] = found(Classes.from_dict({"classes": ["thing"]}), {0: 5, 255: 3}, {255: 8}, {0: 8})
    assert problem.grave
    assert str(problem).startswith(
        "0.png: this and 1 more masks hold only 0 and 255, and 255 is ignored; name two classes"
    )


def test_labels_that_count_from_one_are_graver_than_one_lost_value() -> None:
    [problem] = found(THREE, {1: 5, 2: 5}, {3: 5})
    assert problem.grave
    assert "values go up to 3 for 3 classes, and value 0 is nowhere" in problem.message
    assert '"labels": {"0": "ignore", "1": 0, … "3": 2}' in problem.message
    [problem] = found(THREE, {0: 1, 1: 5, 2: 5}, {3: 5})
    assert "value 0 is in 1 of 2 labels" in problem.message
    assert problem.message.endswith('Then say "labels": {"3": "ignore"}; else the table lacks a class')
    assert found(THREE, {1: 5, 3: 5, 9: 1}) == [], "values beyond are another mistake"
    assert found(SHIFTED, {0: 1, 1: 5, 2: 5, 3: 5}) == [], "told already"


def test_254_is_255_less_one() -> None:
    [problem] = found(THREE, {0: 5, 254: 3}, {1: 4})
    assert problem.grave
    assert "value 254 is in 1 of 2 labels: it is what subtracting 1 in 8 bits leaves of 255" in problem.message
    dropped = Classes.from_dict({"classes": ["a", "b", "c"], "labels": {"254": "ignore"}})
    [problem] = found(dropped, {0: 5, 254: 3})
    assert not problem.grave


def test_labels_reduced_before_the_table_does_it_again() -> None:
    [problem] = found(SHIFTED, {0: 5, 1: 5, 255: 2}, {2: 4})
    assert not problem.grave
    assert (
        "255 is in 1 of 2 labels and 3, the last class, is nowhere: have the files been reduced by 1" in problem.message
    )
    assert found(SHIFTED, {0: 5, 1: 5, 255: 2}, {3: 4}) == []


def test_a_little_of_value_0_everywhere() -> None:
    [problem] = found(THREE, *[{0: 1, 1: 5, 2: 5}] * 12)
    assert not problem.grave
    assert "value 0 is in 12 of 12 labels, 9.1% of all pixels, and counts as 'a'" in problem.message
    said = Classes.from_dict({"classes": ["a", "b", "c"], "labels": {"0": 0, "1": 1, "2": 2}})
    assert found(said, *[{0: 1, 1: 5, 2: 5}] * 12) == [], "who writes it down means it"


def test_value_0_nowhere() -> None:
    [problem] = found(THREE, *[{1: 5, 2: 5}] * 12)
    assert "value 0, 'a', is in no label: do the values count from 1?" in problem.message


def test_a_class_called_void() -> None:
    [problem] = found(Classes.from_dict({"classes": ["a", "Unlabeled"]}), {0: 1, 1: 1})
    assert "class 1 is called 'Unlabeled' and is learnt and scored" in problem.message


def test_more_ignored_than_labelled() -> None:
    [problem] = found(SHIFTED, {0: 6, 1: 2}, {3: 2, 255: 1})
    assert "63.6% of all pixels are ignored, most of them of value 0" in problem.message
    assert not problem.grave
    [problem] = found(SHIFTED, {0: 6})
    assert problem.grave, "nothing is left to learn"


def test_labels_that_cannot_be_read_are_left_out() -> None:
    pair = Pair("0", Path("0.jpg"), Path("0.png"))
    assert list(suspicions([pair], [PairFacts(IMAGE, Unread("broken"))], THREE)) == []


def test_a_mask_of_0_and_255_among_labels_of_many_classes() -> None:
    """Each is told by its file: it is no error to the label map, and all that it marks would be ignored."""
    problems = found(THREE, {0: 5, 1: 5, 2: 5}, {0: 9, 255: 3}, {1: 9, 255: 3}, {0: 1, 255: 8})
    assert [str(problem.source) for problem in problems] == ["1.png", "3.png"]
    assert all(problem.kind == "binary" and not problem.grave for problem in problems)
    assert "255 is ignored and 0 counts as 'a'" in problems[0].message
