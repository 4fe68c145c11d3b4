"""Drawn scenes as a data set of files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from semask.data.scenes.scene import SCENE_CLASSES, draw_scene
from semask.files import write_json


def draw_files(folder: Path, size: tuple[int, int], num_classes: int, *, count: int = 8) -> None:
    """Write `count` scenes of a size (height, width) [px] for each split, JPEG with PNG labels, and a class table."""
    # even scenes validate, odd ones train
    for number in range(2 * count):
        image, label = draw_scene(number, size)
        for kind, pixels, suffix in (("images", image, "jpg"), ("labels", label % num_classes, "png")):
            path = folder / kind / ("train" if number % 2 else "val") / f"{number // 2}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=90)
    names = [*SCENE_CLASSES.names, *(f"class {number}" for number in range(num_classes))][:num_classes]
    write_json(folder / "classes.json", {"classes": names})
