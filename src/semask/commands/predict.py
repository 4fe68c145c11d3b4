"""`semask predict CHECKPOINT PICTURES --out DIR`: label maps and overlays of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from tyro.conf import Positional, arg

from semask.commands.flags import parse

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from semask.data.classes import Classes
    from semask.device import Device
    from semask.inference import Predictor

PREDICTIONS, OVERLAYS, PRIORS = "predictions", "overlays", "priors"
"""Folders of results. Not "labels": next to images/ that would overwrite a data set's truth."""


class Painter(NamedTuple):
    """What makes pictures out of a picture; prior is None where none is wanted."""

    predictor: Predictor
    prior: Predictor | None
    classes: Classes
    device: torch.device
    alpha: float
    overlay: bool


class Summary(NamedTuple):
    """How many pictures were segmented, and which files were no pictures."""

    segmented: int
    skipped: tuple[Path, ...]


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and predict."""
    parse(predict, arguments, prog="semask predict")


def predict(
    checkpoint: Annotated[Path, Positional, arg(metavar="CHECKPOINT")],
    pictures: Annotated[Path, Positional, arg(metavar="PICTURES")],
    *,
    out: Path,
    overlay: bool = True,
    alpha: float = 0.5,
    prior: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Summary:
    """Segment a picture, or all pictures in a folder and its subfolders.

    Writes OUT/predictions/NAME.png (class ids with the classes' colours as palette), OUT/overlays/NAME.jpg and, with
    --prior, OUT/priors/NAME.png. What is no picture is skipped with a warning and counted.

    Args:
        checkpoint: A folder that `semask train` or `semask convert` wrote.
        pictures: A picture or a folder.
        out: Folder for the results.
        overlay: Write pictures with the classes' colours laid over them.
        alpha: Share of colour in overlays, from 0 to 1.
        prior: Write the semantic prior's label map too; the checkpoint must have semantic layers.
        device: Where the model runs; auto takes a GPU if there is one.
    """
    from rich.console import Console
    from rich.progress import track

    from semask.data.image import read_image

    if not 0 <= alpha <= 1:
        raise ValueError(f"--alpha is the share of colour and lies in [0, 1], got {alpha}")
    files = find_files(pictures, leave_out=out)
    painter = load_painter(checkpoint, overlay=overlay, alpha=alpha, prior=prior, device=device)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    names = output_names(files, pictures if pictures.is_dir() else pictures.parent)
    skipped = []
    for file, name in track(list(zip(files, names, strict=True)), description="Segmenting", console=console):
        try:
            image = read_image(file)
        except ValueError as error:
            console.print(f"skipped: {error}", style="yellow")
            skipped.append(file)
            continue
        paint(painter, image, out, name)
    summary = Summary(len(files) - len(skipped), tuple(skipped))
    if not summary.segmented:
        raise ValueError(f"none of the {len(files)} files in {str(pictures)!r} is a picture that can be read")
    Console(soft_wrap=True, highlight=False).print(
        f"segmented {summary.segmented} pictures, skipped {len(skipped)} files; results in {out}"
    )
    return summary


def load_painter(checkpoint: Path, *, overlay: bool, alpha: float, prior: bool, device: Device) -> Painter:
    """Load a checkpoint with the predictor of its recipe."""
    from semask.checkpoints import store
    from semask.device import pick_device
    from semask.inference import build_predictor, build_prior
    from semask.viz import numbered_classes

    place = pick_device(device)
    model, recipe, classes = store.load(checkpoint, device=place)
    if prior and not recipe.model.encoder.semantic_layers:
        raise ValueError(f"{recipe.name} has no semantic layers and so no semantic prior; leave out --prior")
    return Painter(
        predictor=build_predictor(model, recipe.test, recipe.data),
        prior=build_prior(model, recipe.data) if prior else None,
        classes=classes or numbered_classes(recipe.model.num_classes),
        device=place,
        alpha=alpha,
        overlay=overlay,
    )


def paint(painter: Painter, image: Tensor, out: Path, name: str) -> None:
    """Segment one uint8 picture 3×H×W and write the results under `name`."""
    import torch

    from semask.viz import overlay, write_image, write_label

    pixels = image.float() / 255
    with torch.inference_mode():
        batch = pixels[None].to(painter.device)
        labels = painter.predictor(batch)[0].argmax(dim=0).cpu()
        prior = painter.prior(batch)[0].argmax(dim=0).cpu() if painter.prior else None
    write_label(out / PREDICTIONS / f"{name}.png", labels, painter.classes)
    if prior is not None:
        write_label(out / PRIORS / f"{name}.png", prior, painter.classes)
    if painter.overlay:
        mixed = overlay(pixels, labels, painter.classes, alpha=painter.alpha)
        write_image(out / OVERLAYS / f"{name}.jpg", mixed)


def find_files(pictures: Path, *, leave_out: Path) -> list[Path]:
    """Return the picture, or the files below a folder in order, without hidden ones and results in `leave_out`."""
    if pictures.is_file():
        return [pictures]
    if not pictures.is_dir():
        raise ValueError(f"there is no picture or folder {str(pictures)!r}")
    results = {(leave_out / folder).resolve() for folder in (PREDICTIONS, OVERLAYS, PRIORS)}
    found = [
        path
        for path in sorted(pictures.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(pictures).parts)
        and results.isdisjoint(path.resolve().parents)
    ]
    if not found:
        raise ValueError(f"the folder {str(pictures)!r} holds no files")
    return found


def output_names(files: Sequence[Path], root: Path) -> list[str]:
    """Return a name without suffix for each file's results, relative to `root`; no two are the same.

    Files that differ in suffix only, such as a.jpg and a.png, keep their suffixes: a.jpg and a.png. Names are compared
    without regard to case, since some file systems do not tell them apart.
    """
    paths = [file.relative_to(root) for file in files]
    stems = [path.with_suffix("") for path in paths]
    taken = Counter(str(stem).casefold() for stem in stems)
    names = [str(path if taken[str(stem).casefold()] > 1 else stem) for path, stem in zip(paths, stems, strict=True)]
    if len({name.casefold() for name in names}) < len(names):
        return [str(path) for path in paths]
    return names
