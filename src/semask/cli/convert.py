"""`semask convert FROM TO OUT`: published weights as a checkpoint of ours, or one of ours for `transformers`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from semask.checkpoints.record import RECORD, read_recipe
from semask.cli.flags import parse
from semask.files import check_writable
from semask.recipes import get_recipe
from semask.text import console

TRANSFORMERS = "transformers"
"""Value of TO, in place of a recipe, that writes a checkpoint for that library."""


def main(arguments: Sequence[str]) -> None:
    """Parse the flags and convert."""
    parse(convert, arguments, prog="semask convert")


def convert(
    source: Annotated[Path, Positional, arg(metavar="FROM")],
    to: Annotated[str, Positional, arg(metavar="TO")],
    out: Annotated[Path, Positional, arg(metavar="OUT")],
    *,
    num_classes: int | None = None,
    trust: Annotated[bool, FlagCreatePairsOff] = False,
    overwrite: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Turn published weights into a checkpoint for evaluate, predict and `semask.load`, or one for `transformers`.

    Args:
        source: A published file: PyTorch or safetensors, bare or wrapped, the authors' or of transformers (also its
            folder). It is read without running its code. A description beside it, variant.yml or config.json, is
            compared with the recipe. With `transformers` next: a checkpoint of ours.
        to: The recipe of its row in the paper, such as ade20k/semask-swin-t-fpn. Or `transformers`: write a
            Mask2Former or MaskFormer over plain Swin as a folder for from_pretrained.
        out: Folder to write.
        num_classes: Keep all but the tensors that depend on the class count; those start fresh for this many classes.
        trust: Read numpy arrays as well, in detectron2's model zoo and in converted ImageNet weights.
        overwrite: Replace a checkpoint that is there already.
    """
    if to == TRANSFORMERS:
        if num_classes is not None or trust:
            raise ValueError(f"--num-classes and --trust are for published files, not for {TRANSFORMERS!r}")
        export(source, out, overwrite=overwrite)
    else:
        read(source, to, out, num_classes=num_classes, trust=trust, overwrite=overwrite)


def read(source: Path, recipe: str, out: Path, *, num_classes: int | None, trust: bool, overwrite: bool) -> None:
    """Write a published file as a checkpoint and print its layout and the number of its tensors."""
    get_recipe(recipe)  # refuses a mistyped name before a large file is read
    check_writable(out, flag="OUT")
    _require_free(out, RECORD, overwrite=overwrite)
    # torch is imported only now
    from semask.checkpoints import store
    from semask.checkpoints.convert import convert as convert_published

    result = convert_published(source, recipe, num_classes, trust=trust)
    store.save(result.model, out, classes=result.classes)
    # layout, comparison with files beside it, and random tensors: all that a user should check
    screen = console()
    screen.print(f"{result.loaded} tensors of {source.name} fill {recipe}.")
    screen.print(f"layout: {result.layout}.")
    if result.beside is not None:
        screen.print(result.beside)
    if result.fresh:
        screen.print(f"{len(result.fresh)} depend on the class count and start fresh: {', '.join(result.fresh)}.")
    screen.print(f"checkpoint: {out}")


def export(source: Path, out: Path, *, overwrite: bool) -> None:
    """Write a checkpoint of ours as a folder of `transformers` and print how to load it."""
    recipe = read_recipe(source)
    check_writable(out, flag="OUT")
    _require_free(out, "config.json", overwrite=overwrite)
    from semask.checkpoints import store
    from semask.checkpoints.transformers.config import CLASSES, require_expressible
    from semask.checkpoints.transformers.export import write_transformers

    # the recipe first, before its weights are read
    require_expressible(recipe)
    bundle = store.load(source)
    if not hasattr(bundle.model, "encoder"):
        raise ValueError(f"{str(source)!r} is an exported file; convert the checkpoint that it was made of")
    write_transformers(out, bundle.model, recipe, bundle.classes)
    console().print(f"for transformers: {CLASSES[recipe.model.decoder.kind]}.from_pretrained({str(out)!r})")


def _require_free(out: Path, record: str, *, overwrite: bool) -> None:
    if (out / record).exists() and not overwrite:
        raise ValueError(f"{str(out)!r} holds a checkpoint or run already; choose another folder, or use --overwrite")
