from __future__ import annotations

import dataclasses
import importlib
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import get_args, get_type_hints

import pytest
import torch
import tyro

from semask.cli import flags, train
from semask.cli import main as cli
from semask.recipes import bounds
from tests.facts import facts, missing

HEAVY = ("torch", "numpy", "PIL", "timm", "torchvision", "matplotlib", "scipy", "lightning", "jinja2", "transformers")
ASKED = [[], ["--help"], ["--version"], ["foo"], *([name, "--help"] for name in cli.COMMANDS)]


def test_help_imports_nothing_heavy() -> None:
    """One after the other in one process: what one has imported, all that follow show."""
    code = f"""
import sys
from semask.cli.main import main
for arguments in {ASKED!r}:
    try:
        status = main(arguments)
    except SystemExit as leaving:
        status = leaving.code
    print("ASKED", arguments, status, [name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    told = [line for line in done.stdout.splitlines() if line.startswith("ASKED")]
    assert told == [f"ASKED {arguments} {2 if arguments == ['foo'] else 0} []" for arguments in ASKED], done.stderr


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    overview = capsys.readouterr().out
    assert all(f"\n  {name} " in overview for name in cli.COMMANDS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"semask {version('semask')}\n"


@pytest.mark.parametrize(("typed", "meant"), [("trainn", "train"), ("eval", "evaluate"), ("prdict", "predict")])
def test_a_mistyped_command_names_the_nearest(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([typed]) == 2
    assert missing(capsys.readouterr().err, repr(typed), repr(meant)) == []


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["predict", "a", "b", "--otu", "x"], "--out"),
        (["predict", "a", "b", "--out", "x", "--alpa", "0.3"], "--alpha"),
        (["models", "--filtr", "x"], "--filter"),
        (["convert", "a", "ade20k/swin-t-fpn", "b", "--num_clases", "3"], "--num-classes"),
        (["train", "scenes/micro-fpn", "--optim.lrr", "3"], "--optim.lr"),
    ],
)
def test_a_mistyped_flag_names_the_nearest(
    arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(arguments)
    assert leaving.value.code == 2
    assert meant in capsys.readouterr().err


def test_a_mistyped_recipe_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["convert", "a", "ade20k/semask-swn-t-fpn", "b"], ["train", "ade20k/semask-swn-t-fpn"]):
        assert cli.main(arguments) == 2
        assert "ade20k/semask-swin-t-fpn" in capsys.readouterr().err


def test_wrong_input_is_a_message_and_interruption_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from semask.cli import models

    def fail(error: BaseException) -> None:
        def main(_: list[str]) -> None:
            raise error

        monkeypatch.setattr(models, "main", main)

    fail(ValueError("the crop [640] is no pair"))
    assert cli.main(["models"]) == 2
    assert capsys.readouterr().err == "semask: the crop [640] is no pair\n", "brackets are no markup"
    fail(KeyboardInterrupt())
    assert cli.main(["models"]) == 130
    assert capsys.readouterr().err.startswith("semask: ")
    fail(PermissionError(13, "Permission denied", "runs/a"))
    assert cli.main(["models"]) == 1
    told = capsys.readouterr().err
    assert missing(told, "'runs/a'") == []
    assert told.count("\n") == 1
    fail(torch.OutOfMemoryError("CUDA out of memory"))
    assert cli.main(["models"]) == 1
    assert "--test.mode sliding" in capsys.readouterr().err
    fail(RuntimeError("a defect"))
    with pytest.raises(RuntimeError):
        cli.main(["models"])
    fail(TypeError("a defect"))
    with pytest.raises(TypeError):
        cli.main(["models"])


def test_tracebacks_are_shown_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["modls"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("SEMASK_DEBUG", "1")
    assert cli.main(["modls"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert missing(told.splitlines()[-1], "semask", "'modls'", "'models'") == []


def test_output_cut_off_by_its_reader_is_no_traceback() -> None:
    command = f"{sys.executable} -c 'import sys; from semask.cli.main import main; sys.exit(main([]))' | true"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=60)
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "flip", "out"),
    [
        (["--flip", "true"], True, ""),
        (["--flip=false"], False, ""),
        (["--flip", "True", "--out=trues"], True, "trues"),
        (["--flip", "False", "--out", "a=true"], False, "a=true"),
    ],
)
def test_booleans_may_be_spelled_small(arguments: list[str], flip: bool, out: str) -> None:
    def options(*, flip: tyro.conf.FlagConversionOff[bool], out: str = "") -> tuple[bool, str]:
        return flip, out

    assert flags.parse(options, arguments, prog="x") == (flip, out)


def test_a_flag_is_taken_before_the_others_are_parsed() -> None:
    assert flags.take("--data", ["--a", "1", "--data", "x", "--b"]) == ("x", ["--a", "1", "--b"])
    assert flags.take("--data", ["--data=x"]) == ("x", [])
    assert flags.take("--data", ["--data.root", "x"]) == (None, ["--data.root", "x"])
    with pytest.raises(ValueError, match="--data"):
        flags.take("--data", ["--b", "--data"])


def test_short_help_lists_the_first_flags_and_hidden_ones_parse(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = []
    short = {"train.early-stop": "early-stop", "train.freeze": "freeze"}
    flags = [short.get(flag, flag.removeprefix("run.")) for flag in train.FIRST]
    for asked in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as leaving:
            cli.main(["train", "scenes/semask-micro-fpn", asked])
        assert leaving.value.code == 0
        told = capsys.readouterr().out
        assert [flag for flag in flags if not re.search(rf"--{flag}[ ,]", told)] == []
        assert ("--optim.power" in told) == ("--data.hue" in told) == (asked == "--help-all")
        lengths.append(len(told.splitlines()))
    assert lengths[0] < lengths[1] / 3
    assert train.parse(["scenes/semask-micro-fpn", "--optim.power", "0.5"]).recipe.optim.power == 0.5


@pytest.mark.parametrize("command", ["doctor", "evaluate", "robustness"])
def test_help_leaves_out_what_does_not_concern_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help-all"])
    told = capsys.readouterr().out
    assert [flag for flag in ("root", "kind", "channels", "label-suffix") if f"--data.{flag} " not in told] == []
    training = ("crop", "flip", "photometric", "rare-crops", "copy-paste", "scale-range", "fraction", "hue")
    assert [flag for flag in training if f"--data.{flag} " in told] == []
    assert ("--data.base-scale " in told) == ("--split " in told) == (command != "doctor")
    assert ("--data.val-split " in told) == (command == "doctor")


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "nothing.pth", "ade20k/swin-t-fpn", "/proc/nowhere"],
        ["prepare", "camvid", "--from", "downloads", "--root", "/proc/nowhere"],
        ["ablate", "table4", "--out", "/proc/nowhere"],
        ["train", "scenes/semask-micro-fpn", "--out", "/proc/nowhere"],
        ["demo", "--out", "/proc/nowhere"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_results_that_nothing_could_keep_are_refused_first(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert missing(capsys.readouterr().err, "'/proc'") == []


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_printing_never_fails(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "TERM": ""}
    command = [sys.executable, "-m", "semask.cli.main", "models", "--filter", "scenes micro-fpn"]
    told = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert told.returncode == 0
    assert b"scenes/semask-micro-fpn" in told.stdout
    assert b"Traceback" not in told.stderr
    command[3:] = ["\u2713"]
    refused = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert refused.returncode == 2
    assert b"Traceback" not in refused.stderr


@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_output_is_calm(closing: str) -> None:
    command = f"{sys.executable} -m semask.cli.main models --help {closing}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert ended.returncode == 0
    assert b"Traceback" not in ended.stdout + ended.stderr


def numbers_of(settings: type) -> Iterator[str]:
    """Fields of a command's settings that hold numbers, with those of its groups but not those of recipes."""
    for name, hint in get_type_hints(settings).items():
        kinds = {hint, *get_args(hint), *(inner for arm in get_args(hint) for inner in get_args(arm))}
        if dataclasses.is_dataclass(hint) and hint.__module__.startswith(
            ("semask.cli", "semask.training", "semask.benchmark", "semask.recipes.export")
        ):
            yield from numbers_of(hint)
        elif kinds & {int, float}:
            yield name


def test_every_number_of_a_flag_has_a_range() -> None:
    found = set()
    for command in cli.COMMANDS:
        module = importlib.import_module(f"semask.cli.{command}")
        for settings in vars(module).values():
            if (
                isinstance(settings, type)
                and dataclasses.is_dataclass(settings)
                and settings.__module__ == module.__name__
            ):
                found |= {*numbers_of(settings)}
    assert found <= {*bounds.FLAGS}
    assert {*bounds.FLAGS} - found <= {"devices", "nodes"}


@pytest.mark.parametrize("name", bounds.FLAGS)
@pytest.mark.parametrize("value", [-7, 10**26, math.nan, math.inf])
def test_flags_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    settings = dataclasses.make_dataclass("Settings", [(name, float)])
    with pytest.raises(ValueError, match=facts(f"--{name.replace('_', '-')}", f"{value:g}")):
        bounds.check_flags(settings(value))
    inside = 0.5 if name in {"alpha", "beta"} else 1
    several = dataclasses.make_dataclass("Settings", [(name, tuple)])
    with pytest.raises(ValueError, match=facts(f"--{name.replace('_', '-')}", f"{value:g}")):
        bounds.check_flags(several((inside, value)))
    bounds.check_flags(settings(inside))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize(
    ("arguments", "given", "kept"),
    [(["models"], {}, True), (["bench"], {}, False), (["models"], {"MALLOC_TRIM_THRESHOLD_": "1000000"}, False)],
)
def test_freed_blocks_stay_with_the_command(arguments: list[str], given: dict[str, str], kept: bool) -> None:
    """Twenty freed megabytes are still resident, unless someone else chose."""
    code = (
        "import ctypes, sys\n"
        "from semask.cli import main as cli\n"
        "cli.run = lambda name, rest: 0\n"
        "cli.main()\n"
        "c = ctypes.CDLL(None)\n"
        "c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]\n"
        "resident = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "before = resident()\n"
        "block = c.malloc(20 << 20)\n"
        "ctypes.memset(block, 1, 20 << 20)\n"
        "c.free(block)\n"
        "print(resident() - before > 10 << 20)\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean | given)
    assert done.stdout.strip() == str(kept)
