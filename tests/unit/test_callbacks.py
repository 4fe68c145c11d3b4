from __future__ import annotations

import io
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from rich.console import Console

from semask.training.callbacks import (
    RandomStates,
    WarnUnusedSemanticAttention,
    follow,
    random_state,
    set_random_state,
)
from semask.training.progress import ProgressReport
from tests.facts import missing

MODULE = LightningModule()


def draw() -> tuple[Any, ...]:
    return random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))  # noqa: NPY002


def test_random_states_survive_a_checkpoint() -> None:
    random.gauss(0, 1)
    np.random.randn()  # noqa: NPY002 — leaves half a pair of normal numbers behind
    file = io.BytesIO()
    torch.save(random_state(), file)
    expected = draw()
    assert draw() != expected
    file.seek(0)
    set_random_state(torch.load(file, weights_only=True))
    assert draw() == expected


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_begin_apart_and_restore_only_their_own_number(ranks: int) -> None:
    def start(rank: int, saved: list[dict[str, Any]]) -> tuple[Any, ...]:
        callback = RandomStates(seed=3)
        callback.restored = saved
        callback.on_train_start(SimpleNamespace(global_rank=rank, world_size=ranks), MODULE)
        return draw()

    fresh = [start(rank, []) for rank in range(ranks)]
    assert len(set(fresh)) == ranks
    saved = []
    for rank in range(ranks):
        start(rank, [])
        saved.append(random_state())
    expected = [draw_after(state) for state in saved]
    assert [start(rank, saved) for rank in range(ranks)] == expected
    assert [start(rank, saved[:1] * (ranks + 1)) for rank in range(ranks)] == fresh


def draw_after(state: dict[str, Any]) -> tuple[Any, ...]:
    set_random_state(state)
    return draw()


def run_steps(callback: WarnUnusedSemanticAttention, values: list[dict[str, float]]) -> None:
    for step, value in enumerate(values, start=1):
        metrics = {f"lambda/{k}": torch.tensor(v) for k, v in value.items()}
        trainer = SimpleNamespace(
            global_step=step, max_steps=len(values), log_every_n_steps=2, callback_metrics=metrics
        )
        callback.on_train_batch_end(trainer, MODULE, None, None, step)
    callback.on_train_end(trainer, MODULE)


def test_a_lambda_that_never_moves_is_told() -> None:
    with pytest.warns(
        UserWarning, match=r"^(?!.*lambda/stage1)(?=.*--model\.encoder\.semantic.dead-init false).*lambda/stage2"
    ):
        run_steps(WarnUnusedSemanticAttention(), [{"stage1": 0.1 * i, "stage2": 0.5} for i in range(4)])


def test_moving_lambdas_and_models_without_them_are_quiet() -> None:
    run_steps(WarnUnusedSemanticAttention(), [{"stage1": 0.1 * i} for i in range(5)])
    run_steps(WarnUnusedSemanticAttention(), [{}] * 5)


def test_progress_outside_a_terminal_is_plain_lines() -> None:
    out = io.StringIO()
    report = ProgressReport(out=Console(file=out, force_terminal=False, width=100))
    trainer = SimpleNamespace(is_global_zero=True, global_step=0, max_steps=40, log_every_n_steps=1)
    trainer.callback_metrics = {"train/loss": torch.tensor(1.25)}
    report.on_train_start(trainer, MODULE)
    for step in range(1, 41):
        for _ in range(2):  # two accumulated passes
            trainer.global_step = step
            report.on_train_batch_end(trainer, MODULE, None, None, 0)
    report.on_train_end(trainer, MODULE)
    lines = out.getvalue().splitlines()
    assert len(lines) == 20
    assert missing(lines[0], "2/40", "1.250") == []
    assert "\x1b" not in out.getvalue()


def test_progress_in_a_terminal_is_a_bar() -> None:
    out = io.StringIO()
    report = ProgressReport(out=Console(file=out, force_terminal=True, width=120))
    trainer = SimpleNamespace(is_global_zero=True, global_step=0, max_steps=4, log_every_n_steps=1)
    trainer.callback_metrics = {"train/loss": torch.tensor(1.25)}
    report.on_train_start(trainer, MODULE)
    for trainer.global_step in range(1, 5):
        report.on_train_batch_end(trainer, MODULE, None, None, 0)
    report.on_train_end(trainer, MODULE)
    assert "4/4" in out.getvalue()
    assert "loss 1.250" in out.getvalue()
    assert report.bars is None


def test_the_average_follows_weights_and_leaves_constants_and_indices_alone() -> None:
    weight, constant, index = torch.tensor([1.0]), torch.tensor([0.485, 0.224]), torch.tensor([5, 7])
    means = [weight, constant.clone(), index.clone()]
    for step in range(50):
        values = [weight + step, constant, index]
        means = [follow(mean, value, torch.tensor(step), decay=0.9) for mean, value in zip(means, values, strict=True)]
    expected = 1.0 + sum(0.1 * 0.9 ** (49 - step) * step for step in range(50))
    assert means[0].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(means[1], constant)
    assert torch.equal(means[2], index)
