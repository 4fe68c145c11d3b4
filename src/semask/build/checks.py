"""What is refused before anything is built: numbers out of range, and fields that say nothing to the parts chosen."""

from __future__ import annotations

from semask.recipes import EncoderRecipe, ModelRecipe

MAX_CLASSES = 255
"""Label 255 is ignored."""


def check_numbers(spec: ModelRecipe) -> None:
    """Raise a ValueError for class counts, widths and rates out of range."""
    if not 2 <= spec.num_classes <= MAX_CLASSES:
        raise ValueError(
            f"num_classes must lie in 2 … {MAX_CLASSES}, got {spec.num_classes}; to find one kind of thing, make it "
            "and all the rest two classes"
        )
    if not all(deviation > 0 for deviation in spec.std):
        raise ValueError(
            f"model.std divides the channels and must be above 0, got {' '.join(f'{value:g}' for value in spec.std)}; "
            "where a channel has one value everywhere, give 1"
        )
    width = spec.decoder.channels
    if width is not None and width < 1:
        raise ValueError(f"a decoder is at least 1 channel wide, got {width}; None takes the encoder's width")
    rates = {
        "encoder.drop_path": spec.encoder.drop_path,
        "encoder.dropout": spec.encoder.dropout,
        "encoder.semantic_dropout": spec.encoder.semantic_dropout,
        "decoder.dropout": spec.decoder.dropout,
        "decoder.drop_path": spec.decoder.drop_path,
    }
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"model.{name} is a rate and lies in [0, 1), got {rate:g}")


def refuse_fields(spec: EncoderRecipe, fields: tuple[str, ...], whose: str) -> None:
    """Raise a ValueError for fields that say nothing to this backbone, unless they are at their default."""
    default = EncoderRecipe()
    given = [field for field in fields if getattr(spec, field) != getattr(default, field)]
    if given:
        raise ValueError(
            f"{', '.join(given)} can be set for {whose} only, not for {spec.name!r}; unset with "
            + " ".join(f"--model.encoder.{field.replace('_', '-')} {getattr(default, field)}" for field in given)
            + ", or choose a recipe without them"
        )
