"""`semask bench`: what it measures of tiny models, beside what, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from semask import build
from semask.benchmark import files
from semask.benchmark.contender import contender
from semask.benchmark.measure import measure
from semask.benchmark.options import Options
from semask.benchmark.record import ratios
from semask.benchmark.rounds import Timings
from semask.benchmark.sides import Side, sides_of
from semask.benchmark.work import Setting, label_maps, work_of
from semask.build import build_loss, build_model, with_classes
from semask.checkpoints import store
from semask.cli.main import main as cli
from semask.models.flops import cost_of
from semask.ops import reference as plain
from semask.recipes import get
from semask.structures import IGNORE

RECIPE = "scenes/semask-micro-fpn"
CPU = torch.device("cpu")
QUICK = {"rounds": 1, "warmup": 0, "size": (32,)}


@pytest.fixture(autouse=True)
def _small_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's peak is of no interest here."""
    monkeypatch.setattr("semask.benchmark.peak.SIDES", {"cpu": 64})


def test_a_record_says_what_was_measured_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.json"
    flags = ["--size", "32", "48", "--batch", "2", "--rounds", "3", "--warmup", "1", "--threads", "1"]
    assert cli.main(["bench", RECIPE, "scenes/micro-fpn", "--against", "plain", *flags, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    first, second, *plain_ones = record["measured"]
    assert [first["title"], second["title"]] == [RECIPE, "scenes/micro-fpn"]
    assert [each["title"] for each in plain_ones] == [f"{RECIPE} (plain)", "scenes/micro-fpn (plain)"]
    assert [each["plain"] for each in record["measured"]] == [False, False, True, True]
    assert first["size"] == [32, 48]
    assert (first["batch"], first["rounds"], first["images_per_run"]) == (2, 3, 2)
    assert first["images_per_second"] == pytest.approx(2 / sorted(first["every_second"])[1])
    ratios = sorted(b / a for a, b in zip(first["every_second"], second["every_second"], strict=True))
    assert second["time_to_first"]["median"] == pytest.approx(ratios[1])
    share = first["multiply_adds"] * first["images_per_second"] / record["matmul_peak"]
    assert first["share_of_peak"] == pytest.approx(share)
    around = record["environment"]
    assert around["threads"] == 1
    assert around["packages"]["torch"] == torch.__version__
    assert around["precision"]["float32_matmul"] == "highest"
    told = capsys.readouterr().out
    assert RECIPE in told
    assert "32×48 px · float32 · 3 rounds in turn · inside: normalisation, padding, model" in told
    assert "fewer than 20 rounds" in told


def test_parameters_and_multiply_adds_are_those_of_the_model() -> None:
    """Counted on a twin without weights; here by running the model itself."""
    model = build(RECIPE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cost = cost_of(model, (40, 56))
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    model.requires_grad_(False)
    # Plainly, since fast paths do less, and the counter does not know the fused attention of processors.
    with plain.plainly(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.predict(torch.zeros(1, 3, 40, 56))
    assert cost.all_multiply_adds == counter.get_total_flops() // 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_prediction_is_the_models_own_label_map() -> None:
    model = build(RECIPE)
    images = torch.rand(2, 3, 33, 47, generator=torch.Generator().manual_seed(0))
    side = contender("x", model, get(RECIPE))
    found = work_of("predict", side, Setting(CPU, "float32", (33, 47)), 2)()
    with torch.inference_mode():
        expected = model.labels((images * 255).to(torch.uint8) / 255)
    assert found.dtype == torch.uint8  # type: ignore[union-attr, attr-defined]
    assert torch.equal(found, expected)  # type: ignore[arg-type]


def test_a_training_step_trains_only_with_the_optimisers_step_and_leaves_no_gradients() -> None:
    model = build("scenes/micro-fpn")
    side = contender("x", model, get("scenes/micro-fpn"))
    for with_step in (False, True):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        work_of("train", side, Setting(CPU, "float32", (32, 32), with_step), 2)()
        moved = [not torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True)]
        assert any(moved) == with_step
        assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_whole_images_are_seen_once_whatever_the_recipes_test_is() -> None:
    model, recipe = build("scenes/micro-fpn").eval(), get("scenes/micro-fpn")
    recipe = replace(recipe, test=replace(recipe.test, flip=True, scales=(0.5, 1.0)))
    images, seen = torch.rand(1, 3, 32, 32), []
    model.encoder.register_forward_hook(lambda *_: seen.append(1))
    with torch.inference_mode():
        for test, passes in (("whole", 1), ("recipe", 4)):
            contender("x", model, recipe, test=test).labels(images)
            assert len(seen) == passes
            seen.clear()


def test_the_loss_of_padded_images_is_that_of_training() -> None:
    """A ViT's sides are multiples of its patch; labels are padded alike."""
    model, recipe = build("scenes/micro-seg").eval(), get("scenes/micro-seg")
    images, labels = torch.rand(2, 3, 33, 45), label_maps(recipe.model.num_classes, (33, 45), 2)
    assert model.prepare(images).shape[-2:] != images.shape[-2:]
    expected = build_loss(recipe)(model(images), model.pad_labels(labels)).total
    torch.testing.assert_close(contender("x", model, recipe).loss(images, labels), expected)


def test_labels_have_regions_and_a_part_without() -> None:
    labels = label_maps(150, (64, 96), 2)
    assert labels.dtype == torch.uint8
    assert (labels[:, :6] == IGNORE).all()
    assert int(labels[:, 6:].max()) < 150
    assert 2 <= len(labels[0, 6:].unique()) <= 24


def test_plain_sides_run_plainly_and_others_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[bool] = []
    options = Options(against=("plain",), size=(32,))
    fast, slow = sides_of([RECIPE], options, CPU, tmp_path)
    monkeypatch.setattr(
        "semask.models.model.SegmentationModel.predict", lambda self, images: seen.append(plain.is_plain())
    )
    fast.run()
    slow.run()
    assert seen == [False, True]
    assert not plain.is_plain()


def test_bfloat16_is_by_autocast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []
    forward = torch.nn.Linear.forward

    def spied(self: torch.nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        found = forward(self, inputs)
        seen.append(found.dtype)
        return found

    monkeypatch.setattr("torch.nn.Linear.forward", spied)
    (side,) = sides_of([RECIPE], Options(dtype="bfloat16", size=(32,)), CPU, tmp_path)
    side.run()
    assert torch.bfloat16 in seen


def test_an_evaluation_is_of_as_many_pictures_as_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    evaluate = files.evaluate_model
    monkeypatch.setattr(
        files,
        "evaluate_model",
        lambda predictor, chosen, **given: seen.append(len(chosen)) or evaluate(predictor, chosen, **given),
    )
    record = measure([RECIPE], Options(what="evaluate", images=2, **QUICK))
    assert set(seen) == {2}
    (values,) = record["measured"]
    assert values["images_per_run"] == 2
    assert values["multiply_adds"] is None
    assert values["share_of_peak"] is None
    assert values["size"] == [], "scenes have a size of their own"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A data set of one's own, of 12 classes and eight pictures a split."""
    files.draw_files(tmp_path / "photographs", (40, 56), 12)
    return tmp_path / "photographs"


def test_more_pictures_than_there_are_come_again(photographs: Path) -> None:
    """The eight that are drawn, and the eight of a folder, for the sixteen of a run; a recipe for any classes."""
    for root in (None, photographs):
        options = Options(what="evaluate", root=root, **QUICK)
        record = measure(["folder/semask-micro-fpn"], options)
        assert record["measured"][0]["images_per_run"] == 16


def test_a_checkpoint_reads_its_users_pictures(photographs: Path, tmp_path: Path) -> None:
    recipe, checkpoint = get("folder/semask-micro-fpn"), str(tmp_path / "run")
    recipe = with_classes(recipe, 12)
    store.save(tmp_path / "run", build_model(recipe), recipe)
    for what in ("evaluate", "load"):
        (entry,) = measure([checkpoint], Options(what=what, root=photographs, images=2, **QUICK))["measured"]
        assert (entry["title"], entry["recipe"]) == (checkpoint, "folder/semask-micro-fpn")
    (photographs / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    with pytest.raises(ValueError, match=r"run is for 12 classes, the table of .* has 3; give another --data.root"):
        measure([checkpoint], Options(what="evaluate", root=photographs, **QUICK))


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_counts_pictures_of_whole_batches(workers: int) -> None:
    record = measure([RECIPE], Options(what="load", images=5, batch=2, workers=workers, rounds=2, warmup=0))
    (values,) = record["measured"]
    assert (values["images_per_run"], values["batch"], values["workers"]) == (4, 2, workers)
    assert values["size"] == [128, 128]
    assert values["parameters"] is None
    rate = values["images_per_second"] / workers if workers else None
    assert values["images_per_second_of_a_worker"] == rate
    assert record["matmul_peak"] is None


def test_drawn_files_stand_for_a_data_set_that_is_not_here() -> None:
    """ade20k's crops of 512² from drawn files, by its own augmentation and of its 150 classes."""
    record = measure(["ade20k/swin-t-fpn"], Options(what="load", images=1, batch=1, rounds=1, warmup=0, size=(64, 80)))
    assert record["measured"][0]["size"] == [512, 512]


def test_a_checkpoint_has_its_own_weights(tmp_path: Path) -> None:
    recipe = get("scenes/micro-fpn")
    model = build("scenes/micro-fpn")
    store.save(tmp_path / "run", model, recipe)
    side = sides_of([str(tmp_path / "run")], Options(what="predict", size=(32,)), CPU, tmp_path)[0]
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(side.run(), model.labels((images * 255).to(torch.uint8) / 255))  # type: ignore[arg-type]
    assert side.recipe == "scenes/micro-fpn"


def test_the_largest_batch_by_segmenters_protocol(tmp_path: Path) -> None:
    options = Options(max_batch=True, size=(64,), memory=0.006)
    (side,) = sides_of(["scenes/micro-fpn"], options, CPU, tmp_path)
    assert 2 <= side.batch <= 32
    assert side.images == side.batch
    assert Options(max_batch=True).size_for((480, 480)) == (512, 512)
    with pytest.raises(ValueError, match="not even a batch of 2 of 'scenes/micro-fpn' fits into the memory"):
        sides_of(["scenes/micro-fpn"], Options(max_batch=True, size=(32,), memory=1e-6, what="train"), CPU, tmp_path)


def test_a_plain_side_has_a_largest_batch_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs more memory, and to run it with our batch could end the process."""
    searched: list[bool] = []

    def largest(fits: Any, *, least: int) -> int:
        work = fits.work(least)
        monkeypatch.setattr(
            "semask.models.model.SegmentationModel.predict", lambda *_: searched.append(plain.is_plain())
        )
        work()
        return 5 - 2 * searched[-1]

    monkeypatch.setattr("semask.benchmark.sides.largest_batch", largest)
    fast, slow = sides_of(["scenes/micro-fpn"], Options(max_batch=True, size=(32,), against=("plain",)), CPU, tmp_path)
    assert searched[-1:] == [True]
    assert [(side.batch, side.images) for side in (fast, slow)] == [(5, 5), (3, 3)]
    slow.run()
    assert searched[-1]


def test_stages_are_made_again(tmp_path: Path) -> None:
    kept: dict[tuple[int, ...] | None, int] = {}
    for stages in ((), (1, 2)):
        (side,) = sides_of([RECIPE], Options(what="train", size=(64,), recompute_stages=stages), CPU, tmp_path)
        assert side.recomputed == stages
        assert not side.channels_last, "Swin's maps are so already"
        assert side.multiply_adds == 3 * side.cost.all_multiply_adds  # type: ignore[union-attr]
        kept[stages] = 0

        def count(value: torch.Tensor, stages: tuple[int, ...] = stages) -> torch.Tensor:
            kept[stages] += value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
            side.run()
    assert kept[1, 2] < 0.9 * kept[()]


def test_ratios_are_of_the_time_for_an_image() -> None:
    sides = [Side(title, "semask", title, print, (8, 8), images, images) for title, images in (("a", 2), ("b", 4))]
    first, second = ratios(sides, Timings({"a": (1.0, 2.0, 2.0), "b": (4.0, 4.0, 2.0)}))
    assert first["median"] == first["greatest"] == 1
    assert (second["least"], second["median"], second["greatest"]) == (0.5, 1, 2)


def test_the_compiled_model_is_what_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shapes checked by jaxtyping cannot be traced, so torch.compile hands the function back, and counts."""
    calls: list[str] = []

    def compiled(function: Any, **_: object) -> Any:
        def run(*arguments: Any) -> Any:
            calls.append(function.__name__)
            return function(*arguments)

        return run

    monkeypatch.setattr("torch.compile", compiled)
    (side,) = sides_of(["scenes/micro-fpn"], Options(compile=True, size=(32,)), CPU, tmp_path)
    side.run()
    assert calls == ["predict"]
    (side,) = sides_of(["scenes/micro-fpn"], Options(compile=True, what="train", size=(64,)), CPU, tmp_path)
    side.run()
    assert calls == ["predict", "_call_impl"]


@pytest.mark.slow
def test_models_compile() -> None:
    code = "from semask.cli.main import main; main(['bench', 'scenes/micro-fpn', '--compile', '--size', '64', '--rounds', '1'])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "float32 · compile" in done.stdout


STAGES = "the stages that can be made again are 1 … 4, finest first; got 5; say --recompute-stages 1 2 3 4"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to measure; give recipes"),
        ([RECIPE, "--batch", "0"], "--batch must be at least 1, got 0"),
        ([RECIPE, "--rounds", "0"], "--rounds must be at least 1, got 0"),
        ([RECIPE, "--threads", "0"], "--threads must be at least 1, got 0"),
        ([RECIPE, "--warmup", "-1"], "numbers from 0 on, got -1 and 0"),
        ([RECIPE, "--size", "1", "2", "3"], "--size is a height and a width, or the side of a square"),
        ([RECIPE, "--size", "0"], "from 1 px on; got 0"),
        ([RECIPE, "--memory", "0"], "--memory must be more than 0 GiB, got 0"),
        ([RECIPE, "--max-batch", "--batch", "2"], "--max-batch finds the batch, so leave --batch 2 out"),
        ([RECIPE, "--step"], "--step is for --what train; here it would change nothing"),
        ([RECIPE, "--recompute-stages", "1"], "--recompute-stages is for --what train; here"),
        ([RECIPE, "--test", "sliding"], "--test is for --what predict and evaluate; here"),
        ([RECIPE, "--data.root", "."], "--data.root is for --what evaluate and load; here"),
        ([RECIPE, "--workers", "2"], "--workers is for --what evaluate and load; here"),
        ([RECIPE, "--memory", "1"], "--memory is for --max-batch; here"),
        ([RECIPE, "--what", "load", "--compile"], "--compile is for runs of a model, not for --what load; here"),
        ([RECIPE, "--what", "train", "--recompute-stages", "5"], STAGES),
        ([RECIPE, "--what", "load", "--max-batch"], "the largest batch is found for forward, predict and train"),
        ([RECIPE, "--what", "evaluate", "--against", "smp"], "which smp have no equal of"),
        ([RECIPE, "--what", "load", "--images", "1", "--batch", "2"], "--images 1 are less than a batch of 2"),
        ([RECIPE, "--what", "predict", "--against", "timm"], "timm's encoder alone makes no label maps"),
        ([RECIPE, "--plain", "--against", "plain"], "--plain measures the plain formulations alone; leave it out"),
        (["scenes/nothing"], "no recipe called 'scenes/nothing'"),
        (["runs/nothing"], "Nor is there a checkpoint's folder at"),
        ([RECIPE, "scenes/micro-seg", RECIPE], f"{RECIPE!r} is given twice; give it once"),
        ([RECIPE, "--device", "cuda"], "there is no GPU that torch can use"),
        ([RECIPE, "--out", "record.txt"], "--out names a file that ends in .json"),
        ([RECIPE, "--out", f"{__file__}/record.json"], "is no folder and cannot be made one"),
        ([RECIPE, "--out", "/proc/nowhere/record.json"], "nothing may be written to the folder '/proc'"),
    ],
)
def test_what_cannot_be_measured(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from semask.cli.main import main\n"
        "try: main(['bench', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
