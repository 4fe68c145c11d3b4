from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from torch.utils.data import Dataset

import semask
from semask.files import atomic_write
from semask.recipes import Recipe, TrainRecipe
from semask.structures import Sample
from semask.training import run
from semask.training.history import read_history
from semask.training.options import RunOptions
from semask.training.run import DirectCheckpointIO, train
from semask.training.saving import Checkpoints
from tests.facts import facts

STEPS, HALF, BATCH, KILLS = 6, 3, 4, 30


class PowerCut(RuntimeError):
    pass


class Failing(Dataset[Sample]):
    """Draws that end where the power does."""

    def __init__(self, draws: Dataset[Sample], last: int) -> None:
        self.draws = draws
        self.last = last

    def __getitem__(self, draw: int) -> Sample:
        if draw >= self.last:
            raise PowerCut(f"draw {draw}")
        return self.draws[draw]


def interrupted(make: Callable[..., Dataset[Sample]], draws: int) -> Callable[..., Dataset[Sample]]:
    return lambda *arguments, **keywords: Failing(make(*arguments, **keywords), draws)


def same(a: Any, b: Any, where: str = "") -> list[str]:
    """Return where two nested values differ; tensors must agree bit for bit."""
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        return [path for key in a for path in same(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple):
        assert len(a) == len(b), where
        return [path for i, (x, y) in enumerate(zip(a, b, strict=True)) for path in same(x, y, f"{where}/{i}")]
    return [] if a == b else [where]


@pytest.mark.parametrize(
    ("kind", "ema", "accumulate"), [("tiny_recipe", 0.9, 1), ("tiny_recipe", None, 2), ("tiny_masks", 0.9, 2)]
)
def test_resume_equals_an_uninterrupted_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    kind: str,
    ema: float | None,
    accumulate: int,
) -> None:
    spec = TrainRecipe(steps=STEPS, batch_size=BATCH, accumulate=accumulate, eval_every=HALF, ema=ema, clip_norm=1.0)
    recipe: Recipe = request.getfixturevalue(kind)(spec, dropout=0.2, drop_path=0.3)
    # Tests check types at random: tables that are kept from run to run must be there before the first draw is counted.
    train(replace(recipe, train=replace(spec, steps=1, eval_every=1)), RunOptions(out=tmp_path / "first", workers=0))
    whole = train(recipe, RunOptions(out=tmp_path / "whole", workers=0))
    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        # the cut comes two steps after the checkpoint, so that these steps are done twice
        patch.setattr(run, "training_set", interrupted(run.training_set, (HALF + 2) * BATCH))
        with pytest.raises(PowerCut):
            train(recipe, RunOptions(out=out, workers=0))
    torch.manual_seed(12345)  # whatever the new process has drawn must not matter
    parts = train(recipe, RunOptions(out=out, workers=0, resume="latest"))

    one, two = (torch.load(r.out / "last.ckpt", weights_only=True) for r in (whole, parts))
    assert one["global_step"] == two["global_step"] == STEPS
    compared = ["state_dict", "optimizer_states", "lr_schedulers", "callbacks"]
    compared += ["current_model_state", "averaging_state"] if ema else []
    for part in compared:
        assert same(one[part], two[part], part) == []
    assert read_history(whole.out) == read_history(parts.out)
    assert [step for step, _ in read_history(whole.out)["train/loss"]] == list(range(STEPS))
    assert (whole.scores.miou, whole.step) == (parts.scores.miou, parts.step)
    assert torch.equal(whole.confusion.matrix, parts.confusion.matrix)


@pytest.mark.parametrize(("during", "saved"), [("on_validation_batch_start", 2), ("on_train_batch_end", 4)])
def test_nothing_is_lost_between_evaluations(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_recipe: Callable[..., Recipe],
    during: str,
    saved: int,
) -> None:
    """Cut in the first evaluation, and by Ctrl-C in a step after it, a run goes on to the same weights and curves."""
    recipe = tiny_recipe(
        TrainRecipe(steps=STEPS, batch_size=BATCH, accumulate=2, eval_every=HALF, ema=0.9), dropout=0.2, drop_path=0.3
    )
    train(
        replace(recipe, train=replace(recipe.train, steps=1, eval_every=1)), RunOptions(out=tmp_path / "a", workers=0)
    )
    whole = train(recipe, RunOptions(out=tmp_path / "whole", workers=0))
    out = tmp_path / "parts"
    original = getattr(Checkpoints, during)

    def cut(self: Checkpoints, trainer: Trainer, *arguments: Any) -> None:
        if trainer.global_step == (HALF if during == "on_validation_batch_start" else HALF + 1):
            signal.raise_signal(signal.SIGINT)
        original(self, trainer, *arguments)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, during, cut)
            with pytest.raises(KeyboardInterrupt):
                train(recipe, RunOptions(out=out, workers=0))
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == saved
    parts = train(recipe, RunOptions(out=out, workers=0, resume="latest"))
    one, two = (torch.load(r.out / "last.ckpt", weights_only=True) for r in (whole, parts))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "averaging_state"):
        assert same(one[part], two[part], part) == []
    assert read_history(whole.out) == read_history(parts.out)
    assert torch.equal(whole.confusion.matrix, parts.confusion.matrix)


def test_a_run_is_saved_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe(TrainRecipe(steps=9, batch_size=2, eval_every=9, checkpoint_every=1e-9))
    monkeypatch.setattr(run, "training_set", interrupted(run.training_set, 5 * 2))
    with pytest.raises(PowerCut):
        train(recipe, RunOptions(out=tmp_path, workers=0))
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5


def test_resume_from_elsewhere_spares_other_runs(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe(TrainRecipe(steps=2, batch_size=2, eval_every=1))
    mine, other = (train(replace(recipe, name=name), RunOptions(out=tmp_path / name, workers=0)) for name in "ab")
    kept = {path: path.read_bytes() for path in other.out.rglob("*") if path.is_file()}
    away = RunOptions(out=other.out, workers=0, resume=str(mine.out / "last.ckpt"))
    with pytest.raises(ValueError, match=facts(repr(str(other.out)), repr(away.resume), f"--out {mine.out}")):
        train(replace(recipe, name="a"), away)
    assert {path: path.read_bytes() for path in other.out.rglob("*") if path.is_file()} == kept

    moved = train(replace(recipe, name="a"), replace(away, out=tmp_path / "new"))
    assert (moved.scores.miou, moved.step) == (mine.scores.miou, mine.step)
    for name in ("best", "last"):
        ours, theirs = (load_file(run.out / name / "model.safetensors") for run in (moved, mine))
        assert same(ours, theirs) == []


def test_a_lost_best_is_found_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_recipe: Callable[..., Recipe]
) -> None:
    """A checkpoint alone, without its folder, says that an earlier step was the best; its weights are gone."""
    recipe = tiny_recipe(TrainRecipe(steps=4, batch_size=2, eval_every=2))
    with monkeypatch.context() as patch:
        patch.setattr(run, "training_set", interrupted(run.training_set, 3 * 2))
        with pytest.raises(PowerCut):
            train(recipe, RunOptions(out=tmp_path / "first", workers=0))
    saved = torch.load(tmp_path / "first" / "last.ckpt", weights_only=True)
    assert saved["callbacks"]["Checkpoints"]["best_step"] == 2
    saved["callbacks"]["Checkpoints"]["best"] = 2.0  # better than any evaluation can be
    torch.save(saved, tmp_path / "last.ckpt")
    result = train(recipe, RunOptions(out=tmp_path / "second", workers=0, resume=str(tmp_path / "last.ckpt")))
    assert result.step == 4
    assert 0 <= result.scores.miou <= 1
    assert (result.best / "model.safetensors").is_file()


def test_resume_refuses_another_recipe(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe(TrainRecipe(steps=1, batch_size=2, eval_every=1))
    train(recipe, RunOptions(out=tmp_path, workers=0))
    other = tiny_recipe(TrainRecipe(steps=1, batch_size=4, eval_every=1))
    with pytest.raises(ValueError, match=r"train\.batch_size\b.*\b2\b.*\b4\b"):
        train(other, RunOptions(out=tmp_path, workers=0, resume="latest"))
    with pytest.raises(ValueError, match=facts(repr(str(tmp_path)), "--resume", "--overwrite", "--out")):
        train(recipe, RunOptions(out=tmp_path, workers=0))
    with pytest.raises(ValueError, match=facts(repr(str(tmp_path / "new" / "last.ckpt")), "--resume")):
        train(recipe, RunOptions(out=tmp_path / "new", workers=0, resume="latest"))


def test_a_broken_checkpoint_is_refused(tmp_path: Path, tiny_recipe: Callable[..., Recipe]) -> None:
    """Also one without the optimiser's state, with which a run would go on as another."""
    recipe = tiny_recipe(TrainRecipe(steps=1, batch_size=2, eval_every=1))
    train(recipe, RunOptions(out=tmp_path, workers=0))
    path = tmp_path / "last.ckpt"
    content, saved = path.read_bytes(), torch.load(path, weights_only=True)
    parts = [{**saved, "optimizer_states": []}, {k: v for k, v in saved.items() if k != "loops"}, saved["state_dict"]]
    broken: list[Any] = [b"", content[:2000], content[:-100], b"PK" + content[9:], *parts, [1, 2], torch.zeros(3)]
    for each in broken:
        if isinstance(each, bytes):
            path.write_bytes(each)
        else:
            torch.save(each, path)
        with pytest.raises(ValueError, match=facts(repr(str(path)), "--overwrite")):
            train(recipe, RunOptions(out=tmp_path, workers=0, resume="latest"))


@pytest.mark.parametrize("limit", [1_000, 300_000])
def test_a_full_disk_is_reported_and_keeps_the_earlier_checkpoint(tmp_path: Path, limit: int) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"earlier")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match=r"\.tmp"), atomic_write(path) as part:
            DirectCheckpointIO().save_checkpoint({"weights": torch.zeros(10**6)}, part)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert path.read_bytes() == b"earlier"


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_goes_on(tmp_path: Path) -> None:
    """kill -9 at 30 random moments: what is there is whole, and the end is that of a run that was never killed."""
    flags = ["scenes/micro-fpn", "--train.steps", "60", "--train.eval-every", "20", "--workers", "0", "--logger", "csv"]
    flags += ["--train.batch-size", "2", "--data.crop", "32", "32", "--data.scene-size", "32", "32"]
    flags += [
        "--data.scene-count",
        "8",
        "--model.encoder.embed-dim",
        "16",
        "--model.encoder.depths",
        "1",
        "1",
        "1",
        "1",
    ]
    flags += ["--train.checkpoint-every", "0.001"]
    command = [sys.executable, "-m", "semask.cli.main", "train", *flags, "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    draw, out, kills = random.Random(0), tmp_path / "parts", 0

    def go_on() -> subprocess.Popen[bytes]:
        resume = "--resume" if (out / "last.ckpt").exists() else "--overwrite"
        return subprocess.Popen([*command, str(out), resume], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    while kills < KILLS:
        training = go_on()
        try:
            training.communicate(timeout=draw.uniform(4, 12))
            assert training.returncode == 0
            break  # it came to its end between two kills
        except subprocess.TimeoutExpired:
            training.kill()
            training.communicate()
            kills += 1
        for folder in (out / "best", out / "last"):
            if (folder / "recipe.json").exists():
                semask.load(folder)
        if (out / "last.ckpt").exists():
            torch.load(out / "last.ckpt", weights_only=True)
    training = go_on()
    training.communicate()
    assert training.returncode == 0
    one, two = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (tmp_path / "whole", out))
    assert one["global_step"] == two["global_step"] == 60
    assert same(one["state_dict"], two["state_dict"]) == []
