"""The ablation tables of both papers: rows of changed options, starting from one recipe.

Every row is the same model with other options, so that a table works on any recipe that fits and any data. Figures
beside the rows are the papers', on ADE20K; SeMask's authors published no code for them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from semask.recipes.decoders import SegmenterLinearOptions, SegmenterMaskOptions
from semask.recipes.encoders import SemanticLayers, StageProbe
from semask.recipes.recipe import Recipe
from semask.recipes.segmenter import PATCH_SIZES
from semask.recipes.swin import SWIN

SEMANTIC_BASES = {
    "scenes": "scenes/semask-micro-fpn",
    "camvid": "camvid/semask-swin-t-fpn",
    "ade20k": "ade20k/semask-swin-t-fpn",
    "cityscapes": "cityscapes/semask-swin-t-fpn",
    "coco-stuff10k": "coco-stuff10k/semask-swin-t-fpn",
    "folder": "folder/semask-swin-t-fpn",
}
"""The recipe that a table of SeMask starts from, by data."""
SEGMENTER_BASES = {
    "scenes": "scenes/micro-seg",
    "camvid": "camvid/dinov2-s-linear",
    "ade20k": "ade20k/seg-s-16",
    "pascal-context": "pascal-context/seg-l-mask-16",
    "cityscapes": "cityscapes/seg-l-mask-16",
}
"""The same for tables of Segmenter."""


PUBLISHED_FOR = ("ade20k/semask-swin-t-fpn", "ade20k/seg-s-16")
"""The recipes that the papers' figures are of; beside rows that start from others they would mislead."""


class Row(NamedTuple):
    """One line of a table: label, recipe, and the paper's mIoU [%] on ADE20K."""

    label: str
    recipe: Recipe
    published: float | None = None


class Table(NamedTuple):
    """Rows that are trained alike; differences are taken to the row number `reference`."""

    title: str
    rows: tuple[Row, ...]
    reference: int = 0


class Study(NamedTuple):
    """A function from a recipe to a table, and the recipes that it starts from."""

    make: Callable[[Recipe], Table]
    bases: dict[str, str]


def table3(base: Recipe) -> Table:
    """SeMask Table 3: semantic attention against plain single-head self-attention in its place."""
    rows = (
        Row("Swin FPN", _encoder(base, semantic=None), 41.48),
        Row("Trans Swin FPN: self-attention", _semantic(base, attention="self"), 41.42),
        Row("SeMask FPN: semantic attention", _semantic(base, attention="semantic"), 42.06),
    )
    return Table("Semantic attention (SeMask Table 3)", rows)


def table4(base: Recipe) -> Table:
    """SeMask Table 4: with λ, and with a factor of 1 in its place; for Swin-T also with Swin-S."""
    rows = [
        Row("λ learned", _semantic(base, gain="learned"), 42.06),
        Row("without λ", _semantic(base, gain="one"), 41.11),
    ]
    if base.model.encoder.name == SWIN["t"].timm_name and getattr(base.model.encoder, "depths", None) is None:
        small = _semantic(_encoder(base, name=SWIN["s"].timm_name), gain="learned")
        rows += [
            Row("Swin-S, λ learned", small, 45.92),
            Row("Swin-S, without λ", _semantic(small, gain="one"), 45.00),
        ]
    return Table("The learned scalar λ (SeMask Table 4)", tuple(rows))


def table5(base: Recipe) -> Table:
    """SeMask Table 5: supervision of the backbone's features, of its queries, of semantic maps, or none."""
    rows = (
        Row("Swin FPN", _encoder(base, semantic=None), 41.48),
        Row("Swin FPN, auxiliary loss on features", _encoder(base, semantic=StageProbe()), 41.52),
        Row("Query Swin FPN, auxiliary loss on queries", _encoder(base, semantic=StageProbe(reads="queries")), 40.81),
        Row("SeMask FPN without auxiliary loss", base.override({"loss.prior_weight": 0.0}), 41.72),
        Row("SeMask FPN", base, 42.06),
    )
    return Table("The auxiliary loss (SeMask Table 5)", rows)


def alpha(base: Recipe) -> Table:
    """SeMask's appendix: the weight α of the loss of the semantic prior; the paper chooses 0.4."""
    weights = (0.4, 0.0, 0.1, 0.2, 0.6, 0.8, 1.0)
    rows = (Row(f"α = {weight:g}", base.override({"loss.prior_weight": weight})) for weight in weights)
    return Table("Weight α of the prior's loss (SeMask, appendix)", tuple(rows))


def units(base: Recipe) -> Table:
    """The number N_S of semantic attention units per stage, which is 1 in every published model."""
    counts = ((1, 1, 1, 1), (2, 2, 2, 2), (1, 1, 2, 2), (2, 2, 1, 1))
    return Table(
        "Units per stage, N_S", tuple(Row(f"N_S = {list(count)}", _semantic(base, units=count)) for count in counts)
    )


def residual(base: Recipe) -> Table:
    """The summand of the masked features: the normalised input, as in the authors' code, or the raw one."""
    rows = (
        Row("added to LN(x)", _semantic(base, residual="norm")),
        Row("added to x", _semantic(base, residual="input")),
    )
    return Table("The residual of the semantic layer", rows)


def initialisation(base: Recipe) -> Table:
    """λ and the projection both at zero, as in three of the authors' ports, or λ alone."""
    rows = (Row("alive", _semantic(base, dead_init=False)), Row("dead", _semantic(base, dead_init=True)))
    return Table("The start of the semantic layer", rows)


def extent(base: Recipe) -> Table:
    """The reach of semantic attention: the authors' choice by stage, windows, shifted windows, the whole map."""
    layers = base.model.encoder.semantic
    assert isinstance(layers, SemanticLayers)  # make_table refuses others
    window = next((size for size in layers.windows if size is not None), 7)
    windowed = _semantic(base, windows=(window,) * 4, shift=False)
    partly = _semantic(base, windows=(window, window, None, None), shift=False)
    rows = (
        Row(f"windows of {window}", windowed),
        Row(f"windows of {window}, every second shifted", _semantic(windowed, shift=True)),
        Row(f"windows of {window}, the whole map in stages 3 and 4", partly),
        Row("the whole map", _semantic(base, windows=(None,) * 4, shift=False)),
    )
    return Table("The extent of semantic attention", rows)


def regularisation(base: Recipe) -> Table:
    """Segmenter Table 2: dropout and stochastic depth; the paper's text has two of its figures."""
    published = {(0.0, 0.0): 45.01, (0.0, 0.1): 45.37}
    rows = (
        Row(
            f"dropout {dropout:g}, stochastic depth {depth:g}",
            _encoder(base, dropout=dropout, drop_path=depth),
            published.get((dropout, depth)),
        )
        for dropout in (0.0, 0.1)
        for depth in (0.0, 0.1, 0.2)
    )
    return Table("Regularisation (Segmenter Table 2)", tuple(rows))


def patch_size(base: Recipe) -> Table:
    """Segmenter Table 3, its parts on patches: the same ViT with coarser and finer ones.

    Pretrained ViTs come with weights of that patch size where there are any; without weights the size alone changes.
    """
    encoder, title = base.model.encoder, "Patch size (Segmenter Table 3)"
    if encoder.weights is None:
        return Table(title, tuple(Row(f"patches of {size}", _encoder(base, patch_size=size)) for size in (8, 16, 32)))
    named = next((names for names in PATCH_SIZES if encoder.name in names.values()), None)
    if named is None:
        raise ValueError(
            f"there are no weights of other patch sizes for {encoder.name!r}; start from ade20k/seg-s-16 or "
            "ade20k/seg-b-16, or train from random weights with --model.encoder.weights None"
        )
    return Table(title, tuple(Row(f"patches of {size}", _encoder(base, name=name)) for size, name in named.items()))


def decoder(base: Recipe) -> Table:
    """Segmenter's decoders: linear, and Mask Transformers of one, two and three layers."""
    shared = {name: getattr(base.model.decoder, name) for name in ("single_scale", "channels")}
    masks = {f"mask, {layers} layers": SegmenterMaskOptions(**shared, layers=layers) for layers in (1, 2, 3)}
    choices = {"linear": SegmenterLinearOptions(**shared), **masks}
    rows = (Row(label, base.override({"model.decoder": options})) for label, options in choices.items())
    return Table("Decoder (Segmenter §4.3)", tuple(rows))


def data_share(base: Recipe) -> Table:
    """Segmenter Table 5: shares of the training set, each within the larger ones.

    The figures, for 4k, 8k and 20k images, are second hand: a write-up of the paper, not compared with its tables.
    """
    if base.data.kind == "scenes":
        raise ValueError("scenes never repeat, so there are no shares of them; use --data camvid or ade20k")
    published = {1.0: 45.37, 0.4: 41.87, 0.2: 38.31}
    rows = (
        Row(f"{share:.0%} of the images", base.override({"data.fraction": share}), published.get(share))
        for share in (1.0, 0.8, 0.6, 0.4, 0.2, 0.1)
    )
    return Table("Size of the training set (Segmenter Table 5)", tuple(rows))


def scratch(base: Recipe) -> Table:
    """Segmenter Table 9: pretrained, and from random weights by SGD with poly or AdamW with cosine and warm-up.

    The figures from scratch are second hand, as those of `data_share`; the learning rate is the recipe's.
    """
    random = _encoder(base, weights=None)
    sgd = replace(random.optim, algorithm="sgd", schedule="poly", power=0.9, warmup_steps=0, weight_decay=0.0)
    adamw = replace(
        random.optim,
        algorithm="adamw",
        schedule="cosine",
        warmup_steps=base.train.steps // 10,
        warmup_ratio=1e-3,
        weight_decay=0.05,
    )
    rows = (
        Row("from scratch, SGD, poly", replace(random, optim=sgd), 12.51),
        Row("from scratch, AdamW, cosine, 10 % warm-up", replace(random, optim=adamw), 4.42),
    )
    pretrained = (Row("pretrained", base, 45.37),) if base.model.encoder.weights is not None else ()
    return Table("From scratch (Segmenter Table 9)", (*pretrained, *rows))


_OF_SEMASK = (table3, table4, table5, alpha, units, residual, initialisation, extent)
_OF_SEGMENTER = (regularisation, patch_size, decoder, data_share, scratch)
STUDIES: dict[str, Study] = {
    make.__name__.replace("_", "-"): Study(make, bases)
    for makers, bases in ((_OF_SEMASK, SEMANTIC_BASES), (_OF_SEGMENTER, SEGMENTER_BASES))
    for make in makers
}
"""Tables by name."""


def study(name: str) -> Study:
    """Study of that name; a ValueError lists them all."""
    if name in STUDIES:
        return STUDIES[name]
    near = difflib.get_close_matches(name, STUDIES, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no ablation table called {name!r}{hint} There are: {', '.join(STUDIES)}.")


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise a ValueError unless seeds are different numbers from 0 on, at least one."""
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds are different numbers from 0 on, got {list(seeds)}; use --seeds 0 1 2, for example")


def make_table(name: str, base: Recipe) -> Table:
    """A study's table over a recipe.

    Raises:
        ValueError: The study is unknown, or the recipe does not fit.
    """
    chosen = study(name)
    if chosen.bases is SEMANTIC_BASES and not isinstance(base.model.encoder.semantic, SemanticLayers):
        raise ValueError(f"{name} varies semantic layers, and {base.name} has none; start from a semask recipe")
    if chosen.bases is SEGMENTER_BASES and not base.model.decoder.kind.startswith("segmenter_"):
        raise ValueError(
            f"{name} is a study of Segmenter, and {base.name} has the decoder {base.model.decoder.kind}; start from a "
            "recipe with a plain ViT under segmenter_linear, such as scenes/micro-seg or ade20k/seg-s-16"
        )
    table = chosen.make(base)
    if base.name in PUBLISHED_FOR:
        return table
    return table._replace(rows=tuple(row._replace(published=None) for row in table.rows))


def _semantic(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.override({f"model.encoder.semantic.{name}": value for name, value in changes.items()})


def _encoder(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.override({f"model.encoder.{name}": value for name, value in changes.items()})
