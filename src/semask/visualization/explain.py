"""Explanations of a model: attention, its distance, the similarity of classes, and the masks of queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, TypeVar, get_args

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from semask.models.decoders.maskformer import MaskClassifier
from semask.models.decoders.segmenter import MaskTransformer
from semask.models.encoders.vit import ViTEncoder
from semask.models.model import SegmentationModel

Part = Literal["encoder", "decoder"]
Query = tuple[int, int] | int
"""A patch by its (row, column), or one of the other tokens by its number.

The others are class, distillation and register tokens in an encoder, in this order, and the classes in a decoder.
"""
NEEDS: dict[type[nn.Module], str] = {
    ViTEncoder: "has tokens that do not attend to all others; use a plain ViT, such as ade20k/seg-s-mask-16",
    MaskTransformer: "has neither attention nor class embeddings; use a model with the decoder segmenter_mask, such as "
    "ade20k/seg-s-mask-16",
    MaskClassifier: "has no queries with masks; use a model with the decoder maskformer or mask2former, such as "
    "ade20k/semask-swin-l-mask2former",
}
"""Faults of other parts, with a remedy, by the part that an explanation needs."""
T = TypeVar("T", bound=nn.Module)


class TokenOrder(NamedTuple):
    """The order of a part's tokens: `before` others, the patches of `grid` (rows, columns) row by row, `after` others.

    An encoder's other tokens come before its patches, a decoder's classes after.
    """

    grid: tuple[int, int]
    before: int
    after: int

    @property
    def patches(self) -> slice:
        """The positions of the patches."""
        return slice(self.before, self.before + self.grid[0] * self.grid[1])

    def token(self, query: Query) -> int:
        """Return the position of a query.

        Raises:
            ValueError: there is no such patch or token.
        """
        (height, width), others = self.grid, self.before + self.after
        match query:
            case int():
                if 0 <= query < others:
                    return query if query < self.before else self.patches.stop + query - self.before
                numbers = f"0 … {others - 1}" if others else "none here"
                raise ValueError(f"there is no other token {query}, only {numbers}; patches are (row, column)")
            case (row, column) if isinstance(query, tuple):
                if 0 <= row < height and 0 <= column < width:
                    return self.before + row * width + column
                raise ValueError(
                    f"the query patch (row {row}, column {column}) lies outside the grid of {height}×{width} patches, "
                    f"rows 0 … {height - 1} and columns 0 … {width - 1}"
                )
        raise ValueError(f"a query is a patch's (row, column) or another token's number, got {query!r}")


class AttentionRows(NamedTuple):
    """The attention of some queries: per image, head and query one row over all tokens, of sum 1.

    The patches are those of the padded image.
    """

    rows: Float[Tensor, "b heads q n"]
    order: TokenOrder

    @property
    def maps(self) -> Float[Tensor, "b heads q h w"]:
        """The attention to the patches, on their grid; its sum is 1 less that of the other tokens."""
        return self.rows[..., self.order.patches].unflatten(-1, self.order.grid)  # type: ignore[no-any-return]

    @property
    def others(self) -> Float[Tensor, "b heads q m"]:
        """The attention to the other tokens, numbered as in `Query`."""
        patches = self.order.patches
        return torch.cat((self.rows[..., : patches.start], self.rows[..., patches.stop :]), dim=-1)


class ClassProjection(NamedTuple):
    """Class embeddings in the plane that holds most of them.

    coordinates: k 2, in the order of the classes. singular_values: all of them, falling. explained: for both axes, the
    share of the embeddings' sum of squares.
    """

    coordinates: Float[Tensor, "k 2"]
    singular_values: Float[Tensor, " r"]
    explained: Float[Tensor, " 2"]


class QueryMasks(NamedTuple):
    """The predictions of a mask classifier's queries for images; a query is called by its number, from 0.

    classes, probabilities: every query's likeliest class, without "no object", and its probability. masks: the
    probability of every pixel to lie in the query's mask. painters: the query that adds most to the score of the
    pixel's class.
    """

    classes: Integer[Tensor, "b q"]
    probabilities: Float[Tensor, "b q"]
    masks: Float[Tensor, "b q H W"]
    painters: Integer[Tensor, "b H W"]

    @property
    def shares(self) -> Float[Tensor, "b q"]:
        """The share of an image's pixels that each query paints; they sum to 1."""
        queries = torch.arange(self.masks.shape[1], device=self.masks.device)
        return torch.stack([(image.flatten() == queries[:, None]).float().mean(1) for image in self.painters])


@torch.no_grad()
def attention_rows(
    model: SegmentationModel, images: Float[Tensor, "b 3 H W"], queries: Sequence[Query], *, part: Part, layer: int
) -> AttentionRows:
    """Return the attention of `queries` in one layer (0 is the first), without dropout whatever the model's mode.

    Images are RGB in [0, 1]; the model normalises and pads them, so that rows may attend to padding at the right and
    bottom. Of the matrix, b heads n n, only the requested rows are kept.

    Source: Segmenter (arXiv:2105.05633) appendix, attention maps.

    Raises:
        ValueError: the part has no such attention, or there is no such layer or query.
    """
    if part not in get_args(Part):
        raise ValueError(f"no part called {part!r}; there are: {', '.join(get_args(Part))}")
    with _evaluating(model):
        if part == "encoder":
            encoder = _checked(model.encoder, ViTEncoder)
            _check_layer(layer, encoder.depth, part)
            prepared = model.prepare(images)
            order = _encoder_order(encoder, prepared)
            # one hook keeps the rows of the queries alone
            tokens = [order.token(query) for query in queries]
            (rows,) = encoder.attention(prepared, lambda attention: attention[:, :, tokens], layers=[layer])
        else:
            decoder = _checked(model.decoder, MaskTransformer)
            _check_layer(layer, len(decoder.blocks), part)
            # patches, then class embeddings
            embedded, grid = decoder.tokens(model.encode(images))
            order = TokenOrder(grid, before=0, after=model.num_classes)
            tokens = [order.token(query) for query in queries]
            rows = decoder.attention(embedded, layer)[:, :, tokens]
    return AttentionRows(rows, order)


@torch.no_grad()
def attention_distances(
    model: SegmentationModel, batches: Iterable[Float[Tensor, "b 3 H W"]]
) -> Float[Tensor, "layers heads"]:
    """Return the attention distance of every head of a plain ViT [px]: `mean_distance` over all images, in float64.

    Every image counts once, whatever its size. Padding counts as image: give sides that are multiples of the patch
    where it should not. All layers come from one pass, which keeps nothing but the distances.

    Source: Segmenter appendix, Fig. 7; the definition is ours, since none was published.
    """
    encoder = _checked(model.encoder, ViTEncoder)
    total, count = torch.zeros((), dtype=torch.float64), 0
    with _evaluating(model):
        for images in batches:
            prepared = model.prepare(images)
            order = _encoder_order(encoder, prepared)
            distances = grid_distances(order.grid, encoder.size_multiple).to(prepared.device)

            # patches attend to patches; other tokens have no place
            def keep(attention: Tensor, patches: slice = order.patches, distances: Tensor = distances) -> Tensor:
                return mean_distance(attention[..., patches, patches], distances)

            total = total + torch.stack(encoder.attention(prepared, keep, layers=range(encoder.depth))).sum(dim=1)
            count += len(images)
    if not count:
        raise ValueError("attention distances need at least one image, got none")
    return total / count


def grid_distances(grid: tuple[int, int], patch_size: int) -> Float[Tensor, "n n"]:
    """Return the Euclidean distances [px] between the centres of all patches of a grid (rows, columns)."""
    axes = (torch.arange(side, dtype=torch.float32) * patch_size for side in grid)
    rows, columns = (axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij"))
    return torch.hypot(rows[:, None] - rows, columns[:, None] - columns)


def mean_distance(attention: Float[Tensor, "b heads n n"], distances: Float[Tensor, "n n"]) -> Float[Tensor, "b heads"]:
    """Return the distance [px] between patches, weighted by attention and averaged over the queries, as float64.

    Rows need no sum of 1: each is divided by its sum, so that other tokens' attention is left out.
    """
    moments = (attention * distances).sum(dim=-1)
    # mean distance of every query, then over the queries
    per_query = moments / attention.sum(dim=-1, dtype=moments.dtype)
    return per_query.cpu().double().mean(dim=-1)


def class_embeddings(model: SegmentationModel) -> Float[Tensor, "k d"]:
    """Return the learned class embeddings of a Mask Transformer, in the order of the classes."""
    return _checked(model.decoder, MaskTransformer).class_embeddings.detach()


def project_classes(embeddings: Float[Tensor, "k d"], *, centred: bool) -> ClassProjection:
    """Project class embeddings onto their first two right singular vectors, in float64.

    `centred` subtracts the mean over the classes first, which makes it a principal component analysis. The sign of an
    axis is the one that makes its coordinate of largest magnitude positive.

    Source: Segmenter appendix, Fig. 8; whether it centres is not published.
    """
    if embeddings.ndim != 2 or min(embeddings.shape) < 2:
        raise ValueError(f"a plane needs at least 2 classes of at least 2 numbers, got shape {tuple(embeddings.shape)}")
    points = embeddings.detach().cpu().double()
    if not points.isfinite().all():
        raise ValueError("the class embeddings are NaN or infinite; did training diverge?")
    points = points - points.mean(dim=0) if centred else points
    # singular value decomposition
    left, singular_values, _ = torch.linalg.svd(points, full_matrices=False)
    coordinates = left[:, :2] * singular_values[:2]
    # fix the sign of each axis
    largest = coordinates.gather(0, coordinates.abs().argmax(dim=0, keepdim=True))
    coordinates = torch.where(largest < 0, -coordinates, coordinates)
    squares = singular_values**2
    return ClassProjection(coordinates, singular_values, squares[:2] / squares.sum())


@torch.no_grad()
def query_masks(model: SegmentationModel, images: Float[Tensor, "b 3 H W"]) -> QueryMasks:
    """Return class, mask and painted pixels of every query of a mask classifier, at the images' size.

    Images are RGB in [0, 1] and go through whole. A pixel's class is that of `model.labels`, whose score is a sum over
    all queries: one that paints nothing may still have added to it.

    Raises:
        ValueError: the decoder is no mask classifier.
    """
    decoder = _checked(model.decoder, MaskClassifier)
    height, width = images.shape[-2:]
    with _evaluating(model):
        # class and mask of every query
        prepared = model.prepare(images)
        out = decoder(model.encoder(prepared), auxiliary=False)
    likely, masks = out.probabilities((prepared.shape[-2], prepared.shape[-1]))
    masks = masks[..., :height, :width]
    painters = []
    for classes_of, mask in zip(likely, masks, strict=True):
        labels = torch.einsum("qk,qhw->khw", classes_of, mask).argmax(0)
        # the largest summand of the score of the pixel's class
        painters.append((classes_of[:, labels] * mask).argmax(0))
    probabilities, classes = likely.max(-1)
    return QueryMasks(classes, probabilities, masks, torch.stack(painters))


def _encoder_order(encoder: ViTEncoder, prepared: Tensor) -> TokenOrder:
    height, width = (side // encoder.size_multiple for side in prepared.shape[-2:])
    return TokenOrder((height, width), before=encoder.num_extra, after=0)


def _check_layer(layer: int, depth: int, part: Part) -> None:
    if not 0 <= layer < depth:
        raise ValueError(f"the {part} has no layer {layer}; its layers are 0 … {depth - 1}")


def _checked(module: nn.Module, kind: type[T]) -> T:
    """Return a part of a model if it is of the kind that an explanation needs."""
    if not isinstance(module, kind):
        raise ValueError(f"a {type(module).__name__} {NEEDS[kind]}")
    return module


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules into evaluation mode, and each back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
