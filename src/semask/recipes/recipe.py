"""A recipe: everything that decides a result, as one frozen value.

The command line's flags derive from these fields, and `recipe.json` beside the weights is their record. Devices,
workers and folders, which decide only where and how fast a run goes, are in `training/options.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from semask.recipes.decoders import DecoderOptions, SemanticFPNOptions
from semask.recipes.encoders import EncoderOptions, SwinOptions

IMAGENET_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
IMAGENET_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Encoder, decoder and the class count they share."""

    encoder: EncoderOptions = field(default_factory=SwinOptions)
    decoder: DecoderOptions = field(default_factory=SemanticFPNOptions)
    num_classes: int = 150
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Means of the channels (RGB, or those of data.channels), images in [0, 1]; `semask doctor` finds a data set's."""
    std: tuple[float, ...] = IMAGENET_STD


@dataclass(frozen=True, kw_only=True)
class MaskLossRecipe:
    """MaskFormer and Mask2Former: costs of matching, and weights of the losses; the defaults are Mask2Former's."""

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    """Weight of "no object" in the class cross-entropy."""
    mask_loss: Literal["bce", "focal"] = "bce"
    """Per-pixel loss of masks: cross-entropy, or focal with α = 0.25 and γ = 2."""
    points: int | None = 12544
    """Points that masks are compared at; None compares whole masks."""
    oversample_ratio: float = 3.0
    """Candidates per point, from which the most uncertain are taken."""
    importance_sample_ratio: float = 0.75
    """Share of points that are the most uncertain; the others are random."""
    ignored: Literal["excluded", "background"] = "excluded"
    """Pixels without a label: left out, or outside of every mask (the authors')."""


@dataclass(frozen=True, kw_only=True)
class LossRecipe:
    """Loss of the main prediction plus `prior_weight` times the cross-entropy of the semantic prior.

    The main prediction's is the cross-entropy of pixels or, for MaskFormer and Mask2Former, that of `masks`.
    """

    masks: MaskLossRecipe = field(default_factory=MaskLossRecipe)
    prior_weight: float = 0.4
    normalize_by: Literal["all", "valid"] = "all"
    """Divide the sum of pixel losses by all pixels (mmsegmentation, the paper's FPN) or by the labelled ones
    (detectron2: the prior of mask classifiers)."""
    auxiliary_weight: float = 0.4
    """Weight of each prediction of an earlier map, where a per-pixel decoder makes some."""
    ohem_pixels: int | None = None
    """Keep this many of the hardest pixels per image in the main loss; None keeps all."""
    cross_entropy: float = 1.0
    """Weight of the cross-entropy of the main prediction of pixels; those of the next four are beside it."""
    dice: float = 0.0
    tversky: float = 0.0
    tversky_alpha: float = 0.3
    """Cost of a pixel that is wrongly found, against 1 - this of one that is missed; 0.5 is the Dice loss."""
    lovasz: float = 0.0
    focal: float = 0.0
    focal_gamma: float = 2.0
    """Exponent by which well-classified pixels weigh less."""
    class_weights: tuple[float, ...] | None = None
    """Weight of each class in the main cross-entropy of pixels, in the class table's order; only their ratios matter.
    `semask doctor` suggests some. None weighs all alike."""


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Source of the images, and their way from the file to the model."""

    kind: Literal["scenes", "files", "shards", "hugging_face"] = "files"
    """Drawn scenes; files in a folder or zip file; WebDataset's tar shards, named by `images`; a dataset that
    `datasets` saved to disk."""
    fraction: float = 1.0
    """Share of the training images, (0, 1]; of one seed, the smaller share lies within the larger."""
    root: str | None = None
    """Folder or zip file of the dataset; scenes need none."""
    classes: str | None = None
    """A packaged class table (ade20k, cityscapes, …), the path of a classes.json or of a checkpoint; None takes
    ROOT/classes.json or, without it, what the labels show."""
    classes_from_data: bool = False
    """The class table decides the model's class count; else the two must agree."""
    images: str = "images/{split}"
    labels: str = "labels/{split}"
    """{class} in labels or label_suffix: one mask per class, as in labels/{class} or _{class}.png."""
    image_suffix: str = ""
    """End of image names behind the stem; empty takes any image extension."""
    label_suffix: str = ".png"
    image_column: str | None = None
    """hugging_face only: the column of images; None finds it by its name."""
    label_column: str | None = None
    """hugging_face only: the column of label images; None finds it by its name."""
    channels: int = 3
    """Channels of an image. Other than 3 are read as they are stored (TIFF, PNG), such as those of satellites, and
    model.mean and model.std must have a value for each."""
    value_range: tuple[float, float] | None = None
    """Stored values that become 0 and 1; values beyond are clipped. None takes those of the file's type: 0 and 255, or
    65535. Types without a largest value, such as floats, need it."""
    train_split: str = "train"
    val_split: str = "val"
    base_scale: tuple[int, int] | None = None
    """(long, short) box [px] an image is fitted into, ratio kept, before scale jitter; None keeps its size.
    With short_edges: in the test alone."""
    base_ratio: float = 1.0
    """Factor on the image's own size where base_scale is None."""
    scale_choices: tuple[float, ...] | None = None
    """Scale jitter as a discrete draw; give this or scale_range, not both."""
    scale_range: tuple[float, float] | None = None
    """Scale jitter drawn uniformly from [low, high]."""
    short_edges: tuple[int, ...] | None = None
    """Scale jitter as a draw of the short side [px], in place of scale_choices and scale_range (detectron2)."""
    long_edge: int = 4096
    """With short_edges: the long side stays within this [px], even if the short one must be shorter."""
    antialias: bool = False
    """Average over all pixels that fall into one where images are made smaller (Pillow, and so detectron2), rather
    than over the nearest four."""
    jpeg_draft: bool = False
    """Training: decode a JPEG at a half, a quarter or an eighth of its size where the drawn size is no larger, which is
    faster. Pixels are then means of those they cover, and differ from those of published recipes."""
    crop: tuple[int, int] = (512, 512)
    """(height, width) of the training crop [px]."""
    padding: float | None = None
    """Value, in [0, 1], of pixels around an image smaller than the crop; None is the mean, 0 once normalised."""
    cat_max_ratio: float = 0.75
    """Redraw a crop, up to ten times, while one class covers this share of its labelled pixels; 1 accepts any."""
    flip: float = 0.5
    """Share of crops that are mirrored left to right."""
    vertical_flip: float = 0.0
    """Share of crops that are turned upside down."""
    rotate: bool = False
    """Turn crops by a random number of quarter turns; those that are not square by half turns."""
    photometric: bool = True
    """Distort brightness, contrast, saturation and hue; of images that are not of three 8-bit channels, the first
    two."""
    hue: tuple[int, int] = (-18, 17)
    """Least and greatest turn of the hue, both drawn [steps of two degrees]; detectron2 draws 18 as well."""
    rare_crops: float = 0.0
    """Share of crops that are laid around a pixel of a class of the image, a rare one most likely (DAFormer)."""
    rare_temperature: float = 0.01
    """With rare_crops: classes are drawn by exp((1 - share of the labelled pixels) / this); large makes all alike."""
    repeat_threshold: float | None = None
    """Show images of classes that fewer than this share of the images hold more often, √(this / share) times an
    epoch (LVIS); None shows each once."""
    copy_paste: float = 0.0
    """Share of draws that get a region of another training image, in its own random size and place, pasted over."""
    copy_paste_classes: tuple[str, ...] | None = None
    """With copy_paste: names of the classes whose regions are pasted; None pastes any."""
    copy_paste_whole: bool = False
    """With copy_paste: paste all that the other image shows of a class, not one connected region."""
    scene_size: tuple[int, int] = (128, 128)
    """Scenes only: (height, width) [px]."""
    scene_count: int = 200
    """Scenes only: scenes in the validation split; the training split never repeats."""


@dataclass(frozen=True, kw_only=True)
class OptimRecipe:
    """AdamW or SGD with linear warm-up and a falling schedule, stepped once per optimiser step."""

    algorithm: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-4
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW only."""
    momentum: float = 0.9
    """SGD only."""
    nesterov: bool = True
    """SGD only: Nesterov's momentum (Segmenter) or the plain one (mmsegmentation)."""
    schedule: Literal["poly", "cosine"] = "poly"
    """'cosine' falls from the warm-up's end to min_lr along half a wave."""
    power: float = 1.0
    """poly only: exponent of the poly schedule, (lr - min_lr)·(1 - t/steps)^power + min_lr."""
    min_lr: float = 0.0
    """Learning rate at the end, the encoder's too."""
    warmup_steps: int = 1500
    warmup_ratio: float = 1e-6
    """Factor on the learning rate at the first step of the warm-up."""
    encoder_lr_scale: float = 1.0
    """Factor on the learning rate of the encoder."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each block of the encoder to the one before it (BEiT); semantic layers, which
    start anew, have the full rate."""
    no_decay: tuple[str, ...] = ("norm", "relative_position_bias_table", "absolute_pos_embed")
    """Parameters whose name contains one of these are not decayed."""
    norm_decay: bool = True
    """Whether normalisation layers that `no_decay` does not name are decayed (mmsegmentation) or not (detectron2)."""


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Length and manner of the training."""

    steps: int = 80_000
    batch_size: int = 16
    """Images per optimiser step, over all devices and accumulated batches."""
    accumulate: int = 1
    """Forward passes per optimiser step."""
    clip_norm: float | None = None
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that stay as they are, such as encoder.backbone.blocks.0.* or *.norm*; * stands for any
    text. BatchNorms without a trained parameter keep their statistics."""
    early_stop: int | None = None
    """End after so many evaluations in a row without a better mIoU; None trains to the end."""
    freeze_encoder: bool = False
    """Train the decoder alone; the encoder keeps its weights and is in evaluation mode throughout."""
    cached_views: int | None = None
    """With a frozen encoder: encode this many augmented views of every image once and train on what was stored, in
    the folder for temporary files (TMPDIR). None encodes every draw anew."""
    ema: float | None = None
    """Decay of the exponential moving average of the weights; None trains without one."""
    checkpoint_stages: tuple[int, ...] = ()
    """Stages of the encoder, 1 … 4 and finest first, whose activations are made again in the backward pass instead of
    being kept: less memory for up to a third more time, and the same results. A plain ViT has stage 1 alone."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """'auto' is bfloat16 on a GPU that has it, else float32."""
    eval_every: int = 8000
    eval_stride: tuple[int, int] | None = None
    """Stride of sliding windows in evaluations during training; None is that of the test."""
    checkpoint_every: float = 10.0
    """Minutes between two writings of last.ckpt, which is also written around evaluations and when a run is stopped."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TestRecipe:
    """Predictor of an evaluation: windows, scales, flips."""

    mode: Literal["whole", "sliding"] = "whole"
    window: tuple[int, int] = (512, 512)
    stride: tuple[int, int] = (341, 341)
    scales: tuple[float, ...] = (1.0,)
    """Ratios of the base scale; more than one averages the softmax maps (multi-scale test), or a mask classifier's
    scores."""
    flip: bool = False
    blend: Literal["mean", "hann"] = "mean"
    """Weights of overlapping windows: all alike, or falling smoothly towards a window's borders."""
    enlarge: bool = False
    """Enlarge images whose short side is less than the window's, until it fills the window (Segmenter's protocol)."""
    memory_budget: float | None = None
    """[GiB] Scores of whole images, gathered from windows or brought to an image's own size, that need more are made in
    the CPU's memory; None never moves them. What the model itself holds is not counted."""
    batch_size: int = 1
    """Images, and windows, that go through the model at once."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Figures that a paper has for a recipe."""

    parameters: float | None = None
    """[millions]"""
    flops: float | None = None
    """[10^9 multiply-adds] in the paper's convention, one image of the crop's size."""
    all_flops: float | None = None
    """The same with the products of attention, as SegFormer's paper counts them."""
    miou: float | None = None
    """Single-scale mIoU [%]."""
    miou_ms: float | None = None
    """Multi-scale and flip mIoU [%]."""
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One experiment."""

    name: str
    model: ModelRecipe = field(default_factory=ModelRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    test: TestRecipe = field(default_factory=TestRecipe)
    published: Published = field(default_factory=Published)

    def override(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with some fields changed, each named by its path.

        Raises:
            ValueError: A path names no field.

        >>> import semask
        >>> recipe = semask.get_recipe("ade20k/semask-swin-t-fpn").override({"optim.lr": 2e-4, "model.num_classes": 7})
        >>> recipe.optim.lr, recipe.model.num_classes
        (0.0002, 7)
        """
        recipe = self
        for path, value in changes.items():
            recipe = _changed(recipe, path.split("."), value, path)
        return recipe


def _changed(part: Any, names: list[str], value: Any, path: str) -> Any:
    known = [option.name for option in fields(part)] if is_dataclass(part) else []
    if names[0] not in known:
        raise ValueError(f"no field {path!r} in a recipe: {type(part).__name__} has {', '.join(known) or 'no fields'}")
    inner = value if len(names) == 1 else _changed(getattr(part, names[0]), names[1:], value, path)
    return replace(part, **{names[0]: inner})
