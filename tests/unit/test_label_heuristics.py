"""What all labels together give away: each mistake is reported with its cure, and good labels are left in peace."""

from pathlib import Path

import pytest

from semask.data.checks.file_stats import ImageStats, LabelStats, PairStats, ReadFailure
from semask.data.checks.issue import Issue
from semask.data.checks.label_heuristics import label_issues
from semask.data.classes import Classes
from semask.data.pairs import Pair
from tests.facts import missing

IMAGE = ImageStats(4, 4, 1)
THREE = Classes.from_dict({"classes": ["a", "b", "c"]})
SHIFTED = Classes.from_dict(
    {"classes": ["a", "b", "c"], "labels": {"0": "ignore", "1": 0, "2": 1, "3": 2, "255": "ignore"}}
)


def found(classes: Classes, *labels: dict[int, int]) -> list[Issue]:
    """Judge labels given as pixels by value."""
    facts = [PairStats(IMAGE, LabelStats(4, 4, 1, (), tuple(sorted(label.items())))) for label in labels]
    pairs = [Pair(str(i), Path(f"{i}.jpg"), Path(f"{i}.png")) for i in range(len(labels))]
    return list(label_issues(pairs, facts, classes))


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
    [issue] = found(Classes.from_dict({"classes": ["thing"]}), {0: 5, 255: 3}, {255: 8}, {0: 8})
    assert issue.severity == "error"
    assert missing(str(issue), "0.png", 1, 0, 255) == []


def test_labels_that_count_from_one_are_graver_than_one_lost_value() -> None:
    [issue] = found(THREE, {1: 5, 2: 5}, {3: 5})
    assert issue.severity == "error"
    assert missing(issue.message, 3, 0) == []
    assert '"labels": {"0": "ignore", "1": 0, … "3": 2}' in issue.message
    [issue] = found(THREE, {0: 1, 1: 5, 2: 5}, {3: 5})
    assert missing(issue.message, 0, 1, 2, '"labels": {"3": "ignore"}') == []
    assert found(THREE, {1: 5, 3: 5, 9: 1}) == [], "values beyond are another mistake"
    assert found(SHIFTED, {0: 1, 1: 5, 2: 5, 3: 5}) == [], "reported already"


def test_254_is_255_less_one() -> None:
    [issue] = found(THREE, {0: 5, 254: 3}, {1: 4})
    assert issue.severity == "error"
    assert missing(issue.message, 254, 1, 2, 8, 255) == []
    dropped = Classes.from_dict({"classes": ["a", "b", "c"], "labels": {"254": "ignore"}})
    [issue] = found(dropped, {0: 5, 254: 3})
    assert issue.severity == "warning"


def test_labels_reduced_before_the_table_does_it_again() -> None:
    [issue] = found(SHIFTED, {0: 5, 1: 5, 255: 2}, {2: 4})
    assert issue.severity == "warning"
    assert missing(issue.message, 255, 1, 2, 3) == []
    assert found(SHIFTED, {0: 5, 1: 5, 255: 2}, {3: 4}) == []


def test_a_little_of_value_0_everywhere() -> None:
    [issue] = found(THREE, *[{0: 1, 1: 5, 2: 5}] * 12)
    assert issue.severity == "warning"
    assert missing(issue.message, 0, 12, "9.1%", "'a'") == []
    said = Classes.from_dict({"classes": ["a", "b", "c"], "labels": {"0": 0, "1": 1, "2": 2}})
    assert found(said, *[{0: 1, 1: 5, 2: 5}] * 12) == [], "who writes it down means it"


def test_value_0_nowhere() -> None:
    [issue] = found(THREE, *[{1: 5, 2: 5}] * 12)
    assert missing(issue.message, 0, "'a'", 1) == []


def test_a_class_called_void() -> None:
    [issue] = found(Classes.from_dict({"classes": ["a", "Unlabeled"]}), {0: 1, 1: 1})
    assert missing(issue.message, 1, "'Unlabeled'") == []


def test_more_ignored_than_labelled() -> None:
    [issue] = found(SHIFTED, {0: 6, 1: 2}, {3: 2, 255: 1})
    assert missing(issue.message, "63.6%", 0) == []
    assert issue.severity == "warning"
    [issue] = found(SHIFTED, {0: 6})
    assert issue.severity == "error", "nothing is left to learn"


def test_labels_that_cannot_be_read_are_left_out() -> None:
    pair = Pair("0", Path("0.jpg"), Path("0.png"))
    assert list(label_issues([pair], [PairStats(IMAGE, ReadFailure("broken"))], THREE)) == []


def test_a_mask_of_0_and_255_among_labels_of_many_classes() -> None:
    """Each is reported by its file: it is no error to the label map, and all that it marks would be ignored."""
    issues = found(THREE, {0: 5, 1: 5, 2: 5}, {0: 9, 255: 3}, {1: 9, 255: 3}, {0: 1, 255: 8})
    assert [str(issue.source) for issue in issues] == ["1.png", "3.png"]
    assert all(issue.kind == "binary" and issue.severity == "warning" for issue in issues)
    assert missing(issues[0].message, 255, 0, "'a'") == []
