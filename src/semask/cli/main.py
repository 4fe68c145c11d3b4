"""The entry point `semask COMMAND`, which imports the module of that sub-command alone."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence

COMMANDS = {
    "demo": "Train on drawn scenes, evaluate and segment: the whole way in a few minutes",
    "doctor": "Check a data set: errors, class frequencies, duplicates, statistics, class weights",
    "prepare": "Turn official downloads of published datasets into the folders that recipes read",
    "train": "Train a model by a recipe",
    "ablate": "Train all rows of an ablation table alike and compare them, seed by seed",
    "evaluate": "Score a checkpoint: mIoU with its interval, every class, outlines, sizes, calibration, a page",
    "compare": "Compare two evaluations of the same images, with intervals",
    "report": "Make a table of several evaluations or measurements of speed, and a plot",
    "robustness": "Score a checkpoint on corrupted images: noise, blur, weather and digital, by strength",
    "bench": "Measure speed, memory and cost, beside other recipes and other libraries' models",
    "predict": "Segment an image or a folder of images",
    "export": "Write a model for other runtimes, such as ONNX, with the proof that it is the same",
    "convert": "Turn published weights into a checkpoint, or a checkpoint into one of transformers",
    "models": "List all recipes with their size, cost and published scores",
}
"""Purpose of each module in `semask.cli`; every one has main(arguments), which may return an exit status."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers of these settings."""
KEPT = 2**25
"""The most that glibc takes for `M_MMAP_THRESHOLD` [bytes]."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command and return the exit status.

    0: success. 1: data that `doctor` finds unfit, a loss that is NaN or infinite, a file that could not be read or
    written, too little memory. 2: wrong input. 130: an interruption. 141: the reader of the output left early. 143: a
    run ended by SIGTERM. With SEMASK_DEBUG=1 in the environment, tracebacks are shown.
    """
    _ready_streams()
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    # a host that calls this keeps its own way; measurements are of what other programs have
    if arguments is None and name != "bench":
        _keep_blocks()
    try:
        status = run(name, rest)
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader, such as `head`, has enough; without this, Python complains once more when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _fail("interrupted", status=130)
    except (ValueError, FloatingPointError) as error:
        return _fail(str(error), status=2 if isinstance(error, ValueError) else 1)
    except OSError as error:
        return _fail(f"{error}; is there space left, and may you read and write there?", status=1)
    except Exception as error:
        return _fail(_fix_of(error), status=1)
    return status


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a sub-command, or print help or the version; return the exit status.

    Raises:
        ValueError: there is no such sub-command; the message names the nearest one.
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
    """The overview of all sub-commands."""
    lines = "\n".join(f"  {name:<12}{purpose}" for name, purpose in COMMANDS.items())
    return f"""usage: semask COMMAND [--help] …

Semantic segmentation with transformers: SeMask and Segmenter.

{lines}

`semask COMMAND --help` explains a command; `semask --version` prints the version."""


def _ready_streams() -> None:
    """Let printing never fail: closed streams discard the text, and characters outside the encoding are escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if reconfigure := getattr(getattr(sys, name), "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _keep_blocks() -> None:
    """Let glibc keep blocks of up to 32 MiB that are freed, for the next layer that asks for one.

    Given back, they are filled with zeros at every use: a tenth of a small model's time (docs/decisions/0029). The
    environment's own choice stays.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    import ctypes

    # other C libraries have none
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in ((M_MMAP_THRESHOLD, KEPT), (M_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(parameter, value)


def _fix_of(error: Exception) -> str:
    """The cause and fix of what the machine lacks; all else is a defect, and raised on."""
    message = str(error)
    if isinstance(error, RuntimeError) and message.startswith("DataLoader worker"):
        return (
            "a process that loads images was ended from outside, mostly for want of memory "
            f"({message.strip()}); use fewer --workers, or --workers 0"
        )
    # torch's OutOfMemoryError by its name, since torch may not be imported here
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not memory and "can't allocate memory" not in message:
        raise error
    return (
        "the memory is too small: train with a smaller --train.batch-size or a larger --train.accumulate; evaluate and "
        "predict with --test.mode sliding and --test.batch-size 1"
    )


def _fail(message: str, *, status: int) -> int:
    import traceback

    from rich.text import Text

    from semask.text import console, printable

    # of an error in a loading process, torch's message is the whole traceback
    message = re.sub(r"(?ms)\ACaught (\w+) in DataLoader worker.*^(?:[\w.]+\.)?\1: ", "", message)
    if os.environ.get("SEMASK_DEBUG") == "1":
        traceback.print_exc()
    console(stderr=True).print(Text("semask: ", style="bold red") + Text(printable(message, lines=True)))
    return status


if __name__ == "__main__":
    sys.exit(main())
