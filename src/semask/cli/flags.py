"""From arguments to a command's settings: a name first where there is one, then flags by tyro."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from semask.files import check_writable
from semask.recipes import DataRecipe, Recipe, TrainRecipe
from semask.recipes.bounds import check_flags, check_numbers

T = TypeVar("T")
HELP = ("-h", "--help", "--help-all")
SHORT = {(TrainRecipe, "freeze"), (TrainRecipe, "early_stop")}
"""Fields whose flags have no prefix: --freeze, not --train.freeze."""
STORED = {
    *("kind", "root", "classes", "images", "labels", "image_suffix", "label_suffix", "image_column", "label_column"),
    *("channels", "value_range"),
}
"""Fields of a DataRecipe for the places of images and labels, and the reading of their files."""


def parse(target: Callable[..., T], arguments: Sequence[str], *, prog: str, **options: Any) -> T:
    """Call a function, or make a dataclass, with the values of the arguments; `options` go to tyro.

    Booleans may be spelled true and false. --help and wrong arguments leave by SystemExit, with status 0 and 2.
    """
    # tyro reads True and False, alone or after `--flag=`
    spelled = [re.sub(r"^(--[^=]+=)?(true|false)$", lambda m: (m[1] or "") + m[2].title(), each) for each in arguments]
    result: T = tyro.cli(
        target, prog=prog, args=["--help" if each == "--help-all" else each for each in spelled], **options
    )
    check_flags(result)
    return result


def parse_over(
    settings: type[T],
    recipe: Recipe,
    arguments: Sequence[str],
    *,
    prog: str,
    description: str,
    first: Sequence[str],
    data: Collection[str] | None = None,
) -> tuple[T, Recipe]:
    """Parse flags over a recipe: return the settings, and the recipe with the values of the flags.

    Fields of `settings` that are also fields of recipes start at the recipe's values. --help lists of these the flags
    in `first` alone, such as data.root; --help-all lists all of them, of a DataRecipe only the fields in `data`, where
    the others do not concern the command.
    """
    # the parts of a recipe that this command has flags for
    names = {field.name for field in dataclasses.fields(settings)} & {  # type: ignore[arg-type]
        field.name for field in dataclasses.fields(Recipe)
    }
    default = settings(**{name: getattr(recipe, name) for name in names})
    # a short help names the most used flags, --help-all every one
    short = bool({"-h", "--help"} & {*arguments})
    if short:
        description += f"\n\nThis lists the flags that are used most. `{prog} --help-all` lists all."
    # every field of a recipe parses, also those that help leaves out
    asking = bool({*HELP} & {*arguments})
    registry = _field_rules(first if short else None, data if asking else None, default)
    parsed = parse(settings, arguments, prog=prog, description=description, default=default, registry=registry)
    changed = dataclasses.replace(recipe, **{name: getattr(parsed, name) for name in names})
    check_numbers(changed)
    return parsed, changed


def split_name(arguments: Sequence[str], *, usage: str, hint: str = "") -> tuple[str | None, list[str]]:
    """Split `NAME [flags]`; `usage` ends in the kind of NAME, and the name is None for help.

    Raises:
        ValueError: a flag is in the place of the name.
    """
    if not arguments or arguments[0] in HELP:
        return None, [*arguments] or ["--help"]
    if arguments[0].startswith("-"):
        noun = usage.rpartition(" ")[2]
        raise ValueError(f"{noun} comes first: `{usage} [flags]`; got {arguments[0]!r}. {hint}".rstrip())
    return arguments[0], [*arguments[1:]]


def take(flag: str, arguments: Sequence[str], *, hint: str = "") -> tuple[str | None, list[str]]:
    """The value of a flag, None without it, and the other arguments; for flags on which other flags depend.

    Raises:
        ValueError: nothing follows the flag.
    """
    # --flag=value, or --flag value
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2], [*arguments[:place], *arguments[place + 1 :]]
        if argument == flag:
            if place + 1 == len(arguments):
                raise ValueError(f"{flag} needs a value{hint}")
            return arguments[place + 1], [*arguments[:place], *arguments[place + 2 :]]
    return None, [*arguments]


def check_record(out: Path | None) -> None:
    """Check before a computation that its record can be written, to a file that ends in .json.

    Companions (.npz, .html, …) take the same name with their own suffix.
    """
    if out is not None:
        if out.suffix != ".json" or out.is_dir():
            raise ValueError(f"--out takes a file that ends in .json; got {str(out)!r}")
        check_writable(out.parent)


def _field_rules(first: Sequence[str] | None, data: Collection[str] | None, default: Any) -> ConstructorRegistry:
    """Rules for tyro: fields with short names, and fields hidden from the help.

    Of recipes those are hidden that are not `first`, and of a DataRecipe those that are not in `data`; None hides none.
    tyro does not parse hidden flags.
    """
    # every part of a dotted name as (class of its owner, field)
    shown = set()
    for path in (flag.replace("-", "_").split(".") for flag in first or ()):
        for depth in range(1, len(path)):
            owner = operator.attrgetter(".".join(path[:depth]))(default)
            shown.add((type(owner), path[depth]))
    registry, asking = ConstructorRegistry(), False

    def annotated(owner: Any, field: Any) -> Any:
        marks = [tyro.conf.arg(prefix_name=False)] if (owner, field.name) in SHORT else []
        hidden = (first is not None and (owner, field.name) not in shown) or (
            data is not None and owner is DataRecipe and field.name not in data
        )
        marks += [tyro.conf.Suppress] if hidden else []
        return dataclasses.replace(field, type=Annotated[field.type, *marks]) if marks else field

    @registry.struct_rule
    def annotate(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal asking
        if asking or not getattr(info.type, "__module__", "").startswith(("semask.recipes", "semask.training.options")):
            return None
        # ask the next rule, without recursion into this one
        asking = True
        spec = ConstructorRegistry.get_struct_spec(info)
        asking = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        return dataclasses.replace(spec, fields=tuple(annotated(info.type, field) for field in spec.fields))

    return registry
