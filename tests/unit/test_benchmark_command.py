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

from semask.benchmark import candidate
from semask.benchmark.candidate import as_candidate, label_maps, work_of
from semask.benchmark.measure import cases_of, measure
from semask.benchmark.options import Options
from semask.checkpoints import store
from semask.cli import main as cli
from semask.data.scenes.files import draw_files
from semask.losses.build import build_loss
from semask.models.build import build
from semask.models.flops import cost_of
from semask.models.layers.linear import Linear
from semask.ops import reference
from semask.recipes import get_recipe
from semask.structures import IGNORE
from tests.facts import facts, missing

RECIPE = "scenes/semask-micro-fpn"
CPU = torch.device("cpu")
QUICK = {"rounds": 1, "warmup": 0, "size": (32,)}


@pytest.fixture(autouse=True)
def _small_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's peak is of no interest here."""
    monkeypatch.setattr("semask.benchmark.machine.SIDES", {"cpu": 64})


def test_a_record_says_what_was_measured_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.json"
    flags = ["--size", "32", "48", "--batch", "2", "--rounds", "3", "--warmup", "1", "--threads", "1"]
    assert cli.main(["bench", RECIPE, "scenes/micro-fpn", "--against", "reference", *flags, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    first, second, *references = record["measured"]
    assert [first["title"], second["title"]] == [RECIPE, "scenes/micro-fpn"]
    assert [each["title"] for each in references] == [f"{RECIPE} (reference)", "scenes/micro-fpn (reference)"]
    assert [each["reference"] for each in record["measured"]] == [False, False, True, True]
    assert first["size"] == [32, 48]
    assert (first["batch"], first["rounds"], first["images_per_run"]) == (2, 3, 2)
    assert first["images_per_second"] == pytest.approx(2 / sorted(first["every_second"])[1])
    ratios = sorted(b / a for a, b in zip(first["every_second"], second["every_second"], strict=True))
    assert second["time_to_first"]["median"] == pytest.approx(ratios[1])
    share = first["multiply_adds"] * first["images_per_second"] / record["peak_rate"]
    assert first["share_of_peak"] == pytest.approx(share)
    around = record["environment"]
    assert around["threads"] == 1
    assert around["packages"]["torch"] == torch.__version__
    assert around["precision"]["float32_matmul"] == "highest"
    told = capsys.readouterr().out
    assert RECIPE in told
    assert missing(told, "32×48", "float32", 3, 20) == []


def test_parameters_and_multiply_adds_are_those_of_the_model() -> None:
    """Counted on a twin without weights; here by running the model itself."""
    model = build(RECIPE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cost = cost_of(model, (40, 56))
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    model.requires_grad_(False)
    # Plainly, since fast paths do less, and the counter does not know the fused attention of processors.
    with reference.reference_mode(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.decode_main(torch.zeros(1, 3, 40, 56))
    assert cost.all_multiply_adds == counter.get_total_flops() // 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_prediction_is_the_models_own_label_map() -> None:
    model = build(RECIPE)
    images = torch.rand(2, 3, 33, 47, generator=torch.Generator().manual_seed(0))
    side = as_candidate("x", model, get_recipe(RECIPE))
    found = work_of(side, Options(what="predict", size=(33, 47)), CPU, 2)()
    with torch.inference_mode():
        expected = model.labels((images * 255).to(torch.uint8) / 255)
    assert found.dtype == torch.uint8  # type: ignore[union-attr, attr-defined]
    assert torch.equal(found, expected)  # type: ignore[arg-type]


def test_a_training_step_trains_only_with_the_optimisers_step_and_leaves_no_gradients() -> None:
    model = build("scenes/micro-fpn")
    side = as_candidate("x", model, get_recipe("scenes/micro-fpn"))
    for with_step in (False, True):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        work_of(side, Options(what="train", size=(32, 32), step=with_step), CPU, 2)()
        moved = [not torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True)]
        assert any(moved) == with_step
        assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_whole_images_are_seen_once_whatever_the_recipes_test_is() -> None:
    model, recipe = build("scenes/micro-fpn").eval(), get_recipe("scenes/micro-fpn")
    recipe = replace(recipe, test=replace(recipe.test, flip=True, scales=(0.5, 1.0)))
    images, seen = torch.rand(1, 3, 32, 32), []
    model.encoder.register_forward_hook(lambda *_: seen.append(1))
    with torch.inference_mode():
        for test, passes in (("whole", 1), ("recipe", 4)):
            as_candidate("x", model, recipe, test=test).labels(images)
            assert len(seen) == passes
            seen.clear()


def test_the_loss_of_padded_images_is_that_of_training() -> None:
    """A ViT's sides are multiples of its patch; labels are padded alike."""
    model, recipe = build("scenes/micro-seg").eval(), get_recipe("scenes/micro-seg")
    images, labels = torch.rand(2, 3, 33, 45), label_maps(recipe.model.num_classes, (33, 45), 2)
    assert model.prepare(images).shape[-2:] != images.shape[-2:]
    expected = build_loss(recipe)(model(images), model.pad_labels(labels)).total
    torch.testing.assert_close(as_candidate("x", model, recipe).loss(images, labels), expected)


def test_labels_have_regions_and_a_part_without() -> None:
    labels = label_maps(150, (64, 96), 2)
    assert labels.dtype == torch.uint8
    assert (labels[:, :6] == IGNORE).all()
    assert int(labels[:, 6:].max()) < 150
    assert 2 <= len(labels[0, 6:].unique()) <= 24


def test_reference_cases_run_by_reference_and_others_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[bool] = []
    options = Options(against=("reference",), size=(32,))
    fast, slow = cases_of([RECIPE], options, CPU, tmp_path)
    monkeypatch.setattr(
        "semask.models.model.SegmentationModel.decode_main", lambda self, images: seen.append(reference.is_reference())
    )
    fast.run()
    slow.run()
    assert seen == [False, True]
    assert not reference.is_reference()


def test_bfloat16_is_by_autocast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []
    forward = Linear.forward

    def spied(self: torch.nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        found = forward(self, inputs)
        seen.append(found.dtype)
        return found

    monkeypatch.setattr(Linear, "forward", spied)
    (case,) = cases_of([RECIPE], Options(dtype="bfloat16", size=(32,)), CPU, tmp_path)
    case.run()
    assert torch.bfloat16 in seen


def test_an_evaluation_is_of_as_many_pictures_as_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    evaluate = candidate.evaluate_model
    monkeypatch.setattr(
        candidate,
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
    draw_files(tmp_path / "photographs", (40, 56), 12)
    return tmp_path / "photographs"


def test_more_pictures_than_there_are_come_again(photographs: Path) -> None:
    """The eight that are drawn, and the eight of a folder, for the sixteen of a run; a recipe for any classes."""
    for root in (None, photographs):
        options = Options(what="evaluate", root=root, **QUICK)
        record = measure(["folder/semask-micro-fpn"], options)
        assert record["measured"][0]["images_per_run"] == 16


def test_a_checkpoint_reads_its_users_pictures(photographs: Path, tmp_path: Path) -> None:
    recipe, checkpoint = get_recipe("folder/semask-micro-fpn"), str(tmp_path / "run")
    recipe = recipe.override({"model.num_classes": 12})
    store.save(build(recipe), tmp_path / "run")
    for what in ("evaluate", "load"):
        (entry,) = measure([checkpoint], Options(what=what, root=photographs, images=2, **QUICK))["measured"]
        assert (entry["title"], entry["recipe"]) == (checkpoint, "folder/semask-micro-fpn")
    (photographs / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    with pytest.raises(ValueError, match=facts(checkpoint, 12, repr(str(photographs)), 3, "--data.root")):
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
    assert record["peak_rate"] is None


def test_drawn_files_stand_for_a_data_set_that_is_not_here() -> None:
    """ade20k's crops of 512² from drawn files, by its own augmentation and of its 150 classes."""
    record = measure(["ade20k/swin-t-fpn"], Options(what="load", images=1, batch=1, rounds=1, warmup=0, size=(64, 80)))
    assert record["measured"][0]["size"] == [512, 512]


def test_a_checkpoint_has_its_own_weights(tmp_path: Path) -> None:
    model = build("scenes/micro-fpn")
    store.save(model, tmp_path / "run")
    case = cases_of([str(tmp_path / "run")], Options(what="predict", size=(32,)), CPU, tmp_path)[0]
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(case.run(), model.labels((images * 255).to(torch.uint8) / 255))  # type: ignore[arg-type]
    assert case.facts["recipe"] == "scenes/micro-fpn"


def test_the_largest_batch_by_segmenters_protocol(tmp_path: Path) -> None:
    options = Options(max_batch=True, size=(64,), memory=0.006)
    (case,) = cases_of(["scenes/micro-fpn"], options, CPU, tmp_path)
    assert 2 <= case.images <= 32
    assert case.images == case.facts["batch"]
    assert Options(max_batch=True).size_for((480, 480)) == (512, 512)
    with pytest.raises(ValueError, match=facts(2, "'scenes/micro-fpn'", "--memory", "--size")):
        cases_of(["scenes/micro-fpn"], Options(max_batch=True, size=(32,), memory=1e-6, what="train"), CPU, tmp_path)


def test_a_reference_case_has_a_largest_batch_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs more memory, and to run it with our batch could end the process."""
    searched: list[bool] = []

    def largest(title: str, work: Any, options: Options, device: torch.device) -> int:
        run = work(options.batch_size)
        monkeypatch.setattr(
            "semask.models.model.SegmentationModel.decode_main", lambda *_: searched.append(reference.is_reference())
        )
        run()
        return 5 - 2 * searched[-1]

    monkeypatch.setattr("semask.benchmark.measure.largest", largest)
    fast, slow = cases_of(
        ["scenes/micro-fpn"], Options(max_batch=True, size=(32,), against=("reference",)), CPU, tmp_path
    )
    assert searched[-1:] == [True]
    assert [(case.facts["batch"], case.images) for case in (fast, slow)] == [(5, 5), (3, 3)]
    slow.run()
    assert searched[-1]


def test_stages_are_made_again(tmp_path: Path) -> None:
    kept: dict[tuple[int, ...] | None, int] = {}
    for stages in ((), (1, 2)):
        (case,) = cases_of([RECIPE], Options(what="train", size=(64,), checkpoint_stages=stages), CPU, tmp_path)
        assert case.facts["checkpoint_stages"] == list(stages)
        assert not case.facts["channels_last"], "Swin's maps are so already"
        assert case.facts["multiply_adds"] == 3 * cost_of(build(RECIPE), (64, 64)).all_multiply_adds
        kept[stages] = 0

        def count(value: torch.Tensor, stages: tuple[int, ...] = stages) -> torch.Tensor:
            kept[stages] += value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
            case.run()
    assert kept[1, 2] < 0.9 * kept[()]


def test_the_compiled_model_is_what_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shapes checked by jaxtyping cannot be traced, so torch.compile hands the function back, and counts."""
    calls: list[str] = []

    def compiled(function: Any, **_: object) -> Any:
        def run(*arguments: Any) -> Any:
            calls.append(function.__name__)
            return function(*arguments)

        return run

    monkeypatch.setattr("torch.compile", compiled)
    (case,) = cases_of(["scenes/micro-fpn"], Options(compile=True, size=(32,)), CPU, tmp_path)
    case.run()
    assert calls == ["decode_main"]
    (case,) = cases_of(["scenes/micro-fpn"], Options(compile=True, what="train", size=(64,)), CPU, tmp_path)
    case.run()
    assert calls == ["decode_main", "_call_impl"]


@pytest.mark.slow
def test_models_compile() -> None:
    code = "from semask.cli.main import main; main(['bench', 'scenes/micro-fpn', '--compile', '--size', '64', '--rounds', '1'])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "float32 + compile" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], ("semask models",)),
        ([RECIPE, "--batch", "0"], ("--batch", 1, 0)),
        ([RECIPE, "--rounds", "0"], ("--rounds", 1, 0)),
        ([RECIPE, "--threads", "0"], ("--threads", 1, 0)),
        ([RECIPE, "--warmup", "-1"], ("--warmup", 0, -1)),
        ([RECIPE, "--size", "1", "2", "3"], ("--size", "1 2 3")),
        ([RECIPE, "--size", "0"], ("--size", 1, 0)),
        ([RECIPE, "--max-batch", "--memory", "inf"], ("--memory", "inf")),
        ([RECIPE, "--memory", "0"], ("--memory", 0)),
        ([RECIPE, "--max-batch", "--batch", "2"], ("--max-batch", "--batch 2")),
        ([RECIPE, "--step"], ("--step", "--what train")),
        ([RECIPE, "--checkpoint-stages", "1"], ("--checkpoint-stages", "--what train")),
        ([RECIPE, "--test", "sliding"], ("--test", "--what predict", "evaluate")),
        ([RECIPE, "--data.root", "."], ("--data.root", "--what evaluate", "load")),
        ([RECIPE, "--workers", "2"], ("--workers", "--what evaluate", "load")),
        ([RECIPE, "--memory", "1"], ("--memory", "--max-batch")),
        ([RECIPE, "--what", "load", "--compile"], ("--compile", "--what load")),
        ([RECIPE, "--what", "train", "--checkpoint-stages", "5"], ("1 … 4", 5, "--checkpoint-stages 1 2 3 4")),
        ([RECIPE, "--what", "load", "--max-batch"], ("forward, predict", "train", "--what load")),
        ([RECIPE, "--what", "evaluate", "--against", "smp"], ("--what evaluate", "smp", "--against")),
        ([RECIPE, "--what", "load", "--images", "1", "--batch", "2"], ("--images 1", 2)),
        ([RECIPE, "--what", "predict", "--against", "timm"], ("timm", "--what forward")),
        ([RECIPE, "--reference", "--against", "reference"], ("--reference",)),
        (["scenes/nothing"], ("'scenes/nothing'", "scenes/micro-seg", "semask models")),
        (["runs/nothing"], ("'runs/nothing'", repr(str(Path("runs/nothing").absolute())))),
        ([RECIPE, "scenes/micro-seg", RECIPE], (repr(RECIPE),)),
        ([RECIPE, "--device", "cuda"], ("--device cpu", "--device auto")),
        ([RECIPE, "--out", "record.txt"], ("--out", ".json", "'record.txt'")),
        ([RECIPE, "--out", f"{__file__}/record.json"], ("--out", repr(__file__))),
        ([RECIPE, "--out", "/proc/nowhere/record.json"], ("--out", "'/proc'")),
    ],
)
def test_what_cannot_be_measured(
    arguments: list[str], told: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *arguments]) == 2
    assert missing(capsys.readouterr().err, *told) == []


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from semask.cli.main import main\n"
        "try: main(['bench', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
