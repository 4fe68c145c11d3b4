"""Options of a prediction run: what is written, how much memory it takes, which part of the work is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Folder and kinds of the results, and how the run goes on, is cut into shards and uses the machine."""

    out: Path
    """Folder for the results. A second run goes on where the first one ended."""
    labels: Literal["auto", "png", "tif", "zarr"] = "auto"
    """Format of label maps. auto writes GeoTIFF for rasters with a georeference or read by region, else PNG."""
    overlay: bool = True
    """Write images with the classes' colours laid over them."""
    side_by_side: bool = False
    """Write each image beside its overlay."""
    alpha: float = 0.5
    """Share of colour in overlays, from 0 to 1."""
    outline: int = 0
    """Width of lines around regions in overlays [px]; with --alpha 0 there are lines alone."""
    only: tuple[str, ...] | None = None
    """Names of the classes in overlays and polygons; None shows all but the one called background."""
    legend: bool = True
    """Write the names of the classes into a corner of overlays."""
    confidence: bool = False
    """Write the probability of the best class, 0 … 255."""
    entropy: bool = False
    """Write the entropy of the probabilities, 0 (certain) … 255 (nothing known)."""
    probabilities: bool = False
    """Write the probability of every class as float16, to .npz, or zarr for rasters read by region."""
    prior: bool = False
    """Write the semantic prior's label map too; the checkpoint must have semantic layers."""
    polygons: bool = False
    """Write the outlines of regions as GeoJSON, in map coordinates where there is a georeference."""
    simplify: float = 0.0
    """Tolerance of polygons [px]; 0 keeps every corner."""
    rle: bool = False
    """Write the mask of every class in COCO's run lengths."""
    seams: bool = False
    """Write where overlapping windows disagree."""
    submission: Literal["ade20k", "cityscapes", "voc"] | None = None
    """Write to OUT/submission the files that the server of this benchmark takes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one."""
    memory: float | None = None
    """Memory of the whole run [GiB]; it decides windows and batch of rasters that are read by region."""
    valid_border: int = 0
    """Border of windows [px] that is left out, since windows do not know what lies beyond it."""
    workers: int = 2
    """Threads that decode images, and as many that encode results."""
    shard: str | None = None
    """I/N takes every Nth image from the Ith on, 1 … N: N processes or machines share the work."""
    overwrite: bool = False
    """Remove results of another model or of other options from OUT; those of these options are kept."""
    retry_failed: bool = False
    """Try again what failed before."""
    keep_going: bool = False
    """Exit with status 0 although images failed."""
    plan: bool = False
    """Show what would be done, and end."""
    pack: int = 0
    """Pack the results into tar files of this many images for WebDataset, at the end; 0 packs none."""
    engine: Literal["local", "ray"] = "local"
    """ray shares the images among the machines of a Ray cluster, which all see the same folders."""
    address: str | None = None
    """Address of the Ray cluster; None starts one here."""
    actors: int = 1
    """Copies of the model in the Ray cluster."""
    smooth: int = 1
    """Frames of a video whose scores are averaged: each and those before it; 1 averages none."""
    every: int = 1
    """Take every Nth frame of a video."""
    start: float = 0.0
    """Time in a video of the first frame that is taken [s]; frames are numbered from there."""
    end: float | None = None
    """Time in a video of the first frame that is left out [s]; None: the end, or Ctrl-C in a live one."""

    @property
    def measures(self) -> tuple[Literal["confidence", "entropy", "probabilities"], ...]:
        """What is computed beside labels."""
        return tuple(name for name in ("confidence", "entropy", "probabilities") if getattr(self, name))


NEUTRAL = (
    *("out", "device", "workers", "shard", "overwrite", "retry_failed", "keep_going", "plan"),
    *("pack", "engine", "address", "actors"),
)
"""Options that change no result of an image."""


class Shard(NamedTuple):
    """Every `total`-th item from item `number` on, from 1."""

    number: int = 1
    total: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """The shard that I/N names; None is all.

        Raises:
            ValueError: It is no I/N with 1 ≤ I ≤ N.
        """
        if text is None:
            return cls()
        number, _, total = text.partition("/")
        if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
            raise ValueError(f"--shard takes I/N with 1 ≤ I ≤ N, such as 1/4, got {text!r}")
        return cls(int(number), int(total))

    @property
    def manifest(self) -> str:
        """Name of the shard's manifest."""
        return "manifest.jsonl" if self.total == 1 else f"manifest.{self.number}-of-{self.total}.jsonl"
