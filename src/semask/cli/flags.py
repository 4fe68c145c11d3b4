"""Flags from types by tyro, with a nearest right name for every mistyped one."""

from __future__ import annotations

import difflib
import io
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, TypeVar

import tyro

T = TypeVar("T")


def parse(target: Callable[..., T], arguments: Sequence[str], *, prog: str, **options: Any) -> T:
    """Call a function, or make a dataclass, with what the arguments say; `options` go to tyro.

    Yes and no may be written true and false. --help and wrong arguments leave by SystemExit, with status 0 and 2.
    """
    arguments = [respell(argument) for argument in arguments]
    try:
        result: T = tyro.cli(target, prog=prog, args=arguments, **options)
        return result
    except SystemExit as leaving:
        if leaving.code not in (0, None):
            for flag, near in mistyped(arguments, known_flags(target, **options)):
                print(f"{flag} is no flag of `{prog}`; did you mean {near}?", file=sys.stderr)
        raise


def respell(argument: str) -> str:
    """Return true and false, alone or behind `--flag=`, as tyro wants them: True and False."""
    return re.sub(r"^(--[^=]+=)?(true|false)$", lambda found: (found[1] or "") + found[2].capitalize(), argument)


def check_json(out: Path | None) -> None:
    """Refuse a file for a record that is a folder, or whose name what goes beside it (.npz, .html, …) would take."""
    if out is not None and (out.suffix != ".json" or out.is_dir()):
        raise ValueError(
            f"--out names a file that ends in .json, and the others go beside it under its name; got {str(out)!r}"
        )


def known_flags(target: Callable[..., Any], **options: Any) -> list[str]:
    """Return all flags of a function or dataclass, as its help names them."""
    told = io.StringIO()
    with redirect_stdout(told), suppress(SystemExit):
        tyro.cli(target, args=["--help"], **options)
    return sorted(set(re.findall(r"--[a-z][a-z0-9.-]*[a-z0-9]", told.getvalue())))


def mistyped(arguments: Sequence[str], known: Sequence[str]) -> list[tuple[str, str]]:
    """Return the flags that are not known, each with the nearest that is, if one is near."""
    flags = [argument.partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")]
    near = {flag: difflib.get_close_matches(flag, known, n=1) for flag in flags if flag not in known}
    return [(flag, names[0]) for flag, names in near.items() if names]
