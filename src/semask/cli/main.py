"""The entry point: a sub-command's name leads to its module, and nothing else is imported."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "demo": "Train on drawn scenes, measure and segment: the whole way in a few minutes",
    "doctor": "Read a data set once: what is wrong, class frequencies, duplicates, statistics, class weights",
    "prepare": "Turn official downloads of published datasets into the folders that recipes read",
    "train": "Train a model by a recipe",
    "ablate": "Train all rows of an ablation table alike and compare them, seed by seed",
    "evaluate": "Score a checkpoint: mIoU with its interval, every class, outlines, sizes, calibration, a page",
    "compare": "Tell two evaluations of the same images apart, with intervals",
    "report": "Make a table of several evaluations or measurements of speed, and a plot",
    "robustness": "Score a checkpoint on corrupted pictures: noise, blur, weather and digital, by strength",
    "bench": "Measure speed, memory and cost, beside other recipes and other libraries' models",
    "predict": "Segment a picture or a folder of pictures",
    "convert": "Turn published weights into a checkpoint, or a checkpoint into one of transformers",
    "models": "List all recipes with their size, cost and published scores",
}
"""What each module in `semask.cli` does; every one has main(arguments), which may return an exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command and return the exit status.

    0 is well; 1 data that `doctor` finds unfit, a loss that left the numbers, a file that could not be read or written,
    or too little memory; 2 wrong input; 130 an interruption; 141 a reader of the output that left early; 143 a run
    ended by SIGTERM. With SEMASK_DEBUG=1 in the environment, tracebacks are shown.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        status = run(name, rest)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; without this, Python complains once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _fail("interrupted", status=130)
    except Exception as error:
        return _explain(error)
    return status


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a sub-command, or tell what was asked for; return its status, 0 where it gives none.

    A ValueError names the nearest sub-command.
    """
    if name in {"-h", "--help"}:
        print(usage())
    elif name == "--version":
        from importlib.metadata import version

        print(f"semask {version('semask')}")
    elif name in COMMANDS:
        status: int | None = importlib.import_module(f"semask.cli.{name}").main(arguments)
        return status or 0
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(COMMANDS)}."
        raise ValueError(f"no command called {name!r}; {hint}")
    return 0


def usage() -> str:
    """Return the overview of all sub-commands."""
    lines = [f"  {name:<12}{does}" for name, does in COMMANDS.items()]
    return "\n".join(
        [
            "usage: semask COMMAND [--help] …",
            "",
            "Semantic segmentation with transformers: SeMask and Segmenter.",
            "",
            *lines,
            "",
            "`semask COMMAND --help` tells more; `semask --version` gives the version.",
        ]
    )


def _explain(error: Exception) -> int:
    """Tell what went wrong in a line and return the exit status; a defect of our own is raised again."""
    if isinstance(error, ValueError):
        return _fail(str(error), status=2)
    if isinstance(error, FloatingPointError):
        return _fail(str(error), status=1)
    if isinstance(error, OSError):
        return _fail(f"{error}; is there space left, and may you read and write there?", status=1)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, by its name: torch may not be imported here
        hint = (
            "train with a smaller --train.batch-size or more --train.accumulate; evaluate and predict with "
            "--test.mode sliding and --test.batch-size 1"
        )
        return _fail(f"the device's memory is too small: {hint}", status=1)
    raise error


def _fail(message: str, *, status: int) -> int:
    import traceback

    from rich.console import Console
    from rich.text import Text

    if os.environ.get("SEMASK_DEBUG") == "1":
        traceback.print_exc()
    Console(stderr=True, soft_wrap=True).print(Text("semask: ", style="bold red") + Text(message))
    return status


if __name__ == "__main__":
    sys.exit(main())
