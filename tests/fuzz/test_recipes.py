"""Every number of a recipe has a range; every wrong value in recipe.json is refused by its place."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import random
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from semask.checkpoints.record import read_recipe, write_record
from semask.cli.main import main
from semask.models.encoders.kinds import encoder_options
from semask.recipes import Recipe, from_dict, get_recipe, list_recipes, to_dict
from semask.recipes.bounds import BOUNDS, Range, check_numbers, numbers
from semask.recipes.decoders import KINDS as DECODERS
from semask.recipes.decoders import PIXEL_DECODERS, decoder_options
from semask.recipes.encoders import KINDS as ENCODERS
from semask.recipes.encoders import SemanticLayers
from tests.each import failures
from tests.facts import facts
from tests.fuzz.mutate import mutated
from tests.unit.test_record import write

COUNT = int(os.environ.get("SEMASK_FUZZ", "500"))
"""Records; `make fuzz` reads 10,000."""
ABSURD = (math.nan, math.inf, -math.inf, 10**26, -(10**26), -3)


def numeric_fields() -> Iterator[tuple[str, type[Any], str, bool]]:
    """Section, type, field and whether it holds a tuple, of all fields that hold numbers, of all kinds."""
    recipe = get_recipe("scenes/semask-micro-mask2former")
    parts: list[tuple[str, type[Any]]] = [
        (name, type(getattr(recipe, name))) for name in ("model", "loss", "data", "optim", "train", "test")
    ]
    parts += [("loss.masks", type(recipe.loss.masks)), ("model.encoder.semantic", SemanticLayers)]
    parts += [("model.encoder", kind) for kind in ENCODERS.values()]
    parts += [("model.decoder", kind) for kind in DECODERS.values()]
    parts += [("model.decoder.pixel_decoder", kind) for kind in PIXEL_DECODERS.values()]
    for section, kind in parts:
        for name, hint in typing.get_type_hints(kind).items():
            found = flattened(hint)
            if found & {int, float} and name != "kind":
                yield (
                    section,
                    kind,
                    name,
                    any(typing.get_origin(arm) is tuple for arm in (hint, *typing.get_args(hint))),
                )


def flattened(hint: Any) -> set[Any]:
    return {hint} | {inner for arm in typing.get_args(hint) for inner in flattened(arm)}


FIELDS = list(numeric_fields())


def test_every_number_has_a_range() -> None:
    assert len(FIELDS) > 100
    assert {f"{section}.{name}" for section, _, name, _ in FIELDS if name not in BOUNDS[section]} == set()
    unused = {(s, n) for s, names in BOUNDS.items() for n in names} - {(s, n) for s, _, n, _ in FIELDS}
    assert unused == {("model.encoder", "output_stride")}  # a choice, whose values are numbers


def test_recipes_are_within() -> None:
    assert failures(lambda name: check_numbers(get_recipe(name)), list_recipes()) == []


def refused(section: str, kind: type[Any], name: str, is_tuple: bool) -> None:
    needed = {"name": "resnet18"} if section == "model.encoder" and kind is not ENCODERS["swin"] else {}
    for value in ABSURD:
        part = kind(**needed, **{name: (value,) if is_tuple else value})
        if value in BOUNDS[section][name]:
            continue
        with pytest.raises(ValueError, match=facts(f"{section}.{name}")):
            check_numbers(part, section)


def test_absurd_numbers_are_refused_by_name() -> None:
    assert (
        failures(refused, FIELDS, names=[f"{section}.{name} of {kind.__name__}" for section, kind, name, _ in FIELDS])
        == []
    )


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(0, 1), (0, 0.5, 1), (-1e-9, 1.1)),
        (Range(0, 1, below=True), (0, 0.999), (1,)),
        (Range(0, 1, above=True), (1e-9, 1), (0,)),
    ],
)
def test_limits(allowed: Range, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in (*outside, math.nan, math.inf, None, "1"))


@pytest.mark.parametrize(
    "flags",
    [
        "--train.steps -5",
        f"--train.steps {10**26}",
        "--train.eval-every -1",
        "--train.accumulate -3",
        "--train.clip-norm nan",
        "--optim.power -1",
        "--data.crop 1000000 1000000",
        "--loss.ohem-pixels -1",
        "--train.batch-size 100000000",
        "--test.scales inf",
        "--workers 5000",
        "--devices -1",
    ],
)
def test_the_command_line_refuses_them(flags: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "scenes/micro-fpn", *flags.split(), "--out", str(out)]) == 2
    assert flags.partition(" ")[0] in capsys.readouterr().err
    assert not out.exists()


def leaves(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, inner in pairs:
        yield from leaves(inner, (*path, key))


WRONG = (
    None,
    True,
    -1,
    1.5,
    math.nan,
    10**30,
    "x",
    "",
    [],
    [1],
    [[1]],
    {},
    {"type": "swin"},
    {"type": []},
    {"a": 1},
    "📷",
)


def test_wrong_values_in_a_record_are_refused_or_harmless(tmp_path: Path) -> None:
    """A wrong type is named by its place; what passes is a recipe that its own record gives back."""
    draw = random.Random(int(os.environ.get("SEMASK_FUZZ_SEED", "0")))
    recipe = dataclasses.replace(
        get_recipe("scenes/semask-micro-mask2former"), name="test/x", data=get_recipe("camvid/lite0-fpn").data
    )
    write_record(tmp_path, recipe)
    (tmp_path / "model.safetensors").write_bytes(b"")
    record = json.loads((tmp_path / "recipe.json").read_text())
    places = [path for path in leaves(record["recipe"]) if path]
    refusals = []
    for _ in range(COUNT):
        changed = copy.deepcopy(record)
        *way, last = draw.choice(places)
        inner = changed["recipe"]
        for key in way:
            inner = inner[key]
        inner[last] = draw.choice(WRONG)
        (tmp_path / "recipe.json").write_text(json.dumps(changed))
        try:
            found = read_recipe(tmp_path)
        except ValueError as error:
            refusals.append((str(last if isinstance(last, str) else way[-1]), str(error)))
            continue
        assert from_dict(to_dict(found)) == found or any(math.isnan(value) for _, value in numbers(found))
    assert len(refusals) > 0.7 * COUNT
    assert [pair for pair in refusals if pair[0] not in pair[1]] == []


def test_wrong_values_in_an_evaluation_are_refused_or_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(int(os.environ.get("SEMASK_FUZZ_SEED", "0")))
    path = write(tmp_path / "a.json")
    record, arrays = json.loads(path.read_text()), path.with_suffix(".npz").read_bytes()
    places = [place for place in leaves(record) if place]
    statuses = []
    for number in range(COUNT // 5):
        changed = copy.deepcopy(record)
        *way, last = draw.choice(places)
        inner = changed
        for key in way:
            inner = inner[key]
        inner[last] = draw.choice(WRONG)
        whole = number % 4 > 0
        path.write_text(json.dumps(changed if whole else record))
        path.with_suffix(".npz").write_bytes(arrays if whole else mutated(arrays, draw))
        for command in (["report", str(path)], ["report", str(path), "--classes"], ["compare", str(path), str(path)]):
            statuses.append(main([*command, *(["--resamples", "9"] if command[0] == "compare" else [])]))
    capsys.readouterr()
    assert {*statuses} == {0, 2}


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"format": 2}', '{"format": 2, "recipe": 1}', "\ufeff{}", "nan"]
)
def test_broken_records_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.json").write_text(text, encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=facts("recipe.json") if text != '{"format": 2, "recipe": 1}' else "recipe"):
        read_recipe(tmp_path)


def test_kinds_round_trip() -> None:
    for name in (
        "swin_tiny_patch4_window7_224",
        "vit_tiny_patch16_224",
        "resnet18",
        "hrnet_w18_small",
        "mit_b0",
        "gcvit_xxtiny",
    ):
        for decoder in DECODERS:
            recipe = get_recipe("scenes/micro-fpn").override(
                {"model.encoder": encoder_options(name), "model.decoder": decoder_options(decoder)}
            )
            assert from_dict(json.loads(json.dumps(to_dict(recipe))), Recipe) == recipe
