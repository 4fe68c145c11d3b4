"""A plain Vision Transformer as an encoder: one map, as fine as its patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar, Literal

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from semask.models.encoders.chain import family_of
from semask.ops.attention import attention, queries_keys_values
from semask.ops.memory import checkpoint_stage
from semask.structures import Features

Resizing = Literal["bilinear", "bicubic"]

_DEIT = "timm.models.deit"
FAMILIES = ("timm.models.vision_transformer", _DEIT, "timm.models.eva")
"""Plain ViTs: ViT, DeiT, DINOv2, MAE, SigLIP, and timm's EVA family, as DINOv3."""


def timm_vit(
    name: str,
    *,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    image_size: tuple[int, int] | None = None,
    patch_size: int | None = None,
    norm_eps: float | None = None,
    in_channels: int = 3,
) -> VisionTransformer | Eva:
    """Build a timm ViT with random weights, without a head, for images of `in_channels` and of any size.

    `image_size` (height, width) [px] decides the length of the position table, `patch_size` [px] the side of patches
    and `norm_eps` the epsilon of all LayerNorms; None keeps those of the named model. `dropout` acts on tokens, on
    attention and in the MLPs.
    """
    # Without pooling no head is left; DeiT's constructor has no such option, and its head no weights.
    options: dict[str, Any] = {} if family_of(name) == _DEIT else {"global_pool": ""}
    options |= {"num_classes": 0, "dynamic_img_size": True, "drop_path_rate": drop_path, "in_chans": in_channels}
    if dropout:
        options |= dict.fromkeys(("pos_drop_rate", "attn_drop_rate", "proj_drop_rate"), dropout)
    norm = None if norm_eps is None else partial(nn.LayerNorm, eps=norm_eps)
    given = {"img_size": image_size, "patch_size": patch_size, "norm_layer": norm}
    options |= {option: value for option, value in given.items() if value is not None}
    network: VisionTransformer | Eva = timm.create_model(name.split(".", 1)[0], **options)
    # No check of sizes there: its message, which names the size, makes a compiler specialise on every size.
    network.patch_embed.img_size = None
    for module in network.modules():
        if type(module) is Attention:
            module.__class__ = FastAttention
    patch = network.patch_embed.patch_size
    if image_size is not None and any(side % step for side, step in zip(image_size, patch, strict=True)):
        raise ValueError(
            f"image_size {image_size} is no multiple of {name!r}'s patches of {patch[0]} px, to which images are padded"
        )
    return network


class FastAttention(Attention):  # type: ignore[misc]
    """timm's attention of all tokens to all by `semask.ops.attention`, outside of training."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        unusual = attn_mask is not None or is_causal or getattr(self, "gate", None) is not None
        if self.training or unusual or not self.fused_attn:
            attended: Tensor = super().forward(x, attn_mask, is_causal)
            return attended
        query, key, value = queries_keys_values(self.qkv(x), self.num_heads).unbind(0)
        mixed = attention(self.q_norm(query), self.k_norm(key), value)
        return self.proj_drop(self.proj(self.norm(mixed.transpose(1, 2).flatten(2))))


class ViTEncoder(nn.Module):
    """A ViT whose patch tokens become a map; class, distillation and register tokens take part and are dropped.

    With `out_layers` there is a map of each of these layers, all of one stride, and no final norm: for SETR.

    `position_resize` None leaves the position table to timm, for backbones that were trained so. Otherwise its grid
    is resized without antialiasing where the number of tokens, not the shape of the grid, differs from the table's.

    Source: Segmenter (arXiv:2105.05633) §3.1; the rule on the number of tokens from the authors' code.
    """

    num_checkpointable: ClassVar[int] = 1

    def __init__(
        self,
        backbone: VisionTransformer | Eva,
        *,
        position_resize: Resizing | None = None,
        out_layers: Sequence[int] | None = None,
        class_token: bool = True,
    ) -> None:
        """`backbone` comes from `timm_vit`, and loses the layers behind the last of the `out_layers`, counted from 1.

        `position_resize` is for tables with a row for every token. Without `class_token`, which needs it, that token is
        dropped before the first layer.
        """
        super().__init__()
        depth = len(backbone.blocks)
        rows, columns = backbone.patch_embed.grid_size
        height, width = backbone.patch_embed.patch_size
        if not class_token and position_resize is None:
            raise ValueError(
                "the class token can be left out only where position_resize is set; use "
                "--model.encoder.position-resize bilinear or bicubic, or --model.encoder.class-token true"
            )
        if out_layers is not None:
            first, last = (out_layers[0], out_layers[-1]) if out_layers else (0, 0)
            if list(out_layers) != sorted({*out_layers}) or not 1 <= first <= last <= depth:
                raise ValueError(
                    f"out_layers are rising numbers of layers, 1 … {depth} here, got {tuple(out_layers)}; use "
                    f"--model.encoder.out-layers {depth // 2} {depth}, for example"
                )
            # no output reads the layers behind the last, nor the final norm
            backbone.blocks = backbone.blocks[:last]
            backbone.norm = nn.Identity()
        table = getattr(backbone, "pos_embed", None)
        full = rows * columns + len(_extra_tokens(backbone)) if isinstance(backbone, VisionTransformer) else None
        registers = getattr(backbone, "reg_token", None) is not None
        if position_resize is not None and (table is None or registers or table.shape[1] != full):
            raise ValueError(
                f"{type(backbone).__name__} here has no position table with a row for every token, so position_resize "
                f"{position_resize!r} cannot act; set it to None (--model.encoder.position-resize None)"
            )
        if position_resize is not None and rows != columns:
            raise ValueError(
                f"position_resize {position_resize!r} reads the position table as a square, and image_size makes one "
                f"of {rows}×{columns} patches; give a square image_size (any image may be used with it)"
            )
        if height != width:
            raise ValueError(f"patches must be square, got {height}×{width}")
        self.backbone = backbone
        self.position_resize = position_resize
        self.out_layers = None if out_layers is None else tuple(out_layers)
        self.class_token = class_token
        maps = 1 if out_layers is None else len(out_layers)
        self.channels: tuple[int, ...] = (backbone.embed_dim,) * maps
        self.strides: tuple[int, ...] = (height,) * maps
        self.size_multiple: int = height
        self.channels_last = True
        self.semantic = nn.ModuleList()

    @property
    def depth(self) -> int:
        return len(self.backbone.blocks)

    @property
    def num_extra(self) -> int:
        """The number of tokens before the patches: class, distillation and register tokens."""
        return int(self.backbone.num_prefix_tokens) if self.class_token else 0

    def forward(self, images: Float[Tensor, "b c H W"]) -> Features:
        """Encode normalised images whose sides are multiples of the patch; every map is b d H/P W/P."""
        if self.out_layers is None:
            return Features((self._map(self.tokens(images), images),))
        if self.position_resize is not None:
            return Features(tuple(self._run(images)[1]))
        indices = [number - 1 for number in self.out_layers]
        maps = self.backbone.forward_intermediates(images, indices=indices, norm=False, intermediates_only=True)
        return Features(tuple(maps))

    def _run(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the layers one by one, from tokens of this class's own; return the last tokens and the wanted maps."""
        tokens, maps = self.embed(images), []
        for number, block in enumerate(self.backbone.blocks, start=1):
            tokens = checkpoint_stage(block, tokens, modules=(block,)) if self.checkpointed_stages else block(tokens)
            if number in (self.out_layers or ()):
                maps.append(self._map(tokens, images))
        return tokens, maps

    def _map(self, tokens: Tensor, images: Tensor) -> Tensor:
        # patch tokens to a map
        grid = (images.shape[-2] // self.size_multiple, images.shape[-1] // self.size_multiple)
        return tokens[:, self.num_extra :].transpose(1, 2).unflatten(-1, grid)

    def tokens(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b n d"]:
        """Return all tokens after the last norm: class and others first, patches row by row."""
        if self.position_resize is None:
            return self.backbone.forward_features(images)
        return self.backbone.norm(self._run(images)[0])

    def fix_size(self, height: int, width: int) -> None:
        """Resize timm's position table once, for images of one size [px] alone: not every runtime does it as timm."""
        if self.position_resize is None and isinstance(self.backbone, VisionTransformer):
            self.backbone.set_input_size((height, width))

    @property
    def checkpointed_stages(self) -> frozenset[int]:
        """The stages whose activations are not kept, see `checkpoint_stages`: 1 or none."""
        return frozenset({1} if self.backbone.grad_checkpointing else ())

    @checkpointed_stages.setter
    def checkpointed_stages(self, stages: frozenset[int]) -> None:
        self.backbone.set_grad_checkpointing(bool(stages))

    def embed(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b n d"]:
        """Return the input of the first block, where this class resizes the table itself."""
        assert self.position_resize is not None
        vit = self.backbone
        # patch embedding, after the other tokens
        patches = vit.patch_embed(images)
        grid = (patches.shape[1], patches.shape[2])
        extra = [token.expand(patches.shape[0], -1, -1) for token in _extra_tokens(vit)]
        tokens = torch.cat((*extra, patches.flatten(1, 2)), dim=1)
        # position embedding
        table = vit.pos_embed
        if table.shape[1] != tokens.shape[1]:
            table = resize_positions(table, grid, num_extra=len(extra), mode=self.position_resize)
        # without a class token, it is dropped after its position was added
        out = vit.norm_pre(vit.pos_drop(tokens + table))
        return out if self.class_token else out[:, len(extra) :]

    def attention(
        self, images: Float[Tensor, "b c H W"], keep: Callable[[Tensor], Tensor], *, layers: Sequence[int]
    ) -> list[Tensor]:
        """Return `keep(attention)` of every named layer, all in one pass.

        `keep` takes b heads n n, each row of sum 1, tokens as in `tokens`, and returns b heads and any further
        dimensions; the matrices themselves are freed. Parallel attentions of a layer, and the two of a differential
        one, count as further heads.
        """
        kept: list[list[Tensor]] = [[] for _ in layers]
        with ExitStack() as stack:
            for layer, found in zip(layers, kept, strict=True):
                for module in self.backbone.blocks[layer].modules():
                    # attention modules, or blocks that are one themselves
                    if hasattr(module, "fused_attn") and hasattr(module, "attn_drop"):
                        # the unfused path alone computes the weights, as the input of their dropout
                        stack.callback(setattr, module, "fused_attn", module.fused_attn)
                        module.fused_attn = False
                        hook = module.attn_drop.register_forward_pre_hook(
                            lambda _, inputs, found=found: found.append(keep(inputs[0]))
                        )
                        stack.callback(hook.remove)
            self.tokens(images)
        return [torch.cat(found, dim=1) for found in kept]


def resize_positions(
    table: Float[Tensor, "1 n d"], grid: tuple[int, int], *, num_extra: int, mode: Resizing
) -> Float[Tensor, "1 m d"]:
    """Resize a position table, whose patches are a square, to a grid; its first `num_extra` rows stay.

    Without antialiasing and without aligned corners.
    """
    # the rows of other tokens stay
    extra, patches = table[:, :num_extra], table[:, num_extra:]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise ValueError(
            f"a position table of {table.shape[1]} rows, {num_extra} of them for other tokens, is no square; "
            "are these the weights of another kind of model?"
        )
    # as a map, resized
    square = patches.transpose(1, 2).unflatten(-1, (side, side))
    resized = F.interpolate(square.float(), size=grid, mode=mode, align_corners=False).to(table.dtype)
    return torch.cat((extra, resized.flatten(2).transpose(1, 2)), dim=1)


def _extra_tokens(vit: VisionTransformer) -> list[Tensor]:
    return [token for token in (vit.cls_token, getattr(vit, "dist_token", None)) if token is not None]
