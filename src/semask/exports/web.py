"""A page that runs an ONNX file in a browser without a network: model, runtime and all else in one HTML file."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
from base64 import b64encode
from pathlib import Path

from semask.data.checks.cache import cache_folder
from semask.exports.metadata import Form, Metadata
from semask.files import atomic_write
from semask.inference.colours import numbered_classes
from semask.visualization.pages.page import render

PAGE = "model.html"
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of the package's archive, in base64 as npm has it."""
PARTS = {
    "runtime": "ort.wasm.min.js",
    "loader": "ort-wasm-simd-threaded.mjs",
    "wasm": "ort-wasm-simd-threaded.wasm",
}
"""Files of the package: WebAssembly on the CPU alone."""
LARGEST = 64 * 2**20
"""Size of a model that phones unpack and run [bytes]."""
POLICY = "content-security-policy"
"""In place of the page's policy, which has the hashes of its scripts."""


def check_web(metadata: Metadata) -> None:
    """Check that a browser gives a model's answers: it has pixels of 8 bits, and neither windows, scales nor flips.

    Raises:
        ValueError: It does not; the message names the flags that make it possible.
    """
    form, data, test = metadata.form, metadata.recipe.data, metadata.recipe.test
    if len(form.mean) not in (1, 3) or data.value_range is not None:
        raise ValueError("--format web reads images as browsers do, RGB or grey of 8 bits, and this model reads others")
    needed = {
        "--data.base-scale None": data.base_scale is not None,
        "--data.base-ratio 1": data.base_ratio != 1,
        "--test.mode whole": test.mode == "sliding",
        "--test.scales 1": test.scales != (1.0,),
        "--test.flip False": test.flip,
        "--batch 1": form.batch not in (None, 1),
        "--output labels": form.output not in ("labels", "confidence"),
    }
    if flags := " ".join(flag for flag, missing in needed.items() if missing):
        raise ValueError(
            "--format web runs the network alone, once and at the image's own size, and paints its labels; this recipe "
            f"does more: use {flags}"
        )


def write_web_page(path: Path, model: Path, metadata: Metadata, package: dict[str, bytes]) -> None:
    """Write the page of an ONNX file.

    Raises:
        ValueError: The file is too large.
    """
    if (size := model.stat().st_size) > LARGEST:
        raise ValueError(
            f"--format web is for small models, which phones can hold: up to {LARGEST >> 20} MiB, and this one has "
            f"{size >> 20} MiB; use --precision fp16 or int8, a smaller model, or --format onnx"
        )
    contents = package | {"model": model.read_bytes()}
    parts = {name: b64encode(gzip.compress(content, 6, mtime=0)).decode() for name, content in contents.items()}
    text = render("web.html", policy=POLICY, form=_facts(metadata), parts=parts, version=VERSION)
    sources = {"script": ["blob:", "'wasm-unsafe-eval'"], "style": []}
    for tag, content in re.findall(r"<(script|style)>(.*?)</\1>", text, flags=re.DOTALL):
        sources[tag].append(f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'")
    policy = [f"{tag}-src {' '.join(allowed)}" for tag, allowed in sources.items()]
    policy = ["default-src 'none'", *policy, "base-uri 'none'", "form-action 'none'"]
    with atomic_write(path) as part:
        part.write_text(text.replace(POLICY, "; ".join(policy), 1), encoding="utf-8")


def _facts(metadata: Metadata) -> dict[str, object]:
    form: Form = metadata.form
    classes = metadata.classes or numbered_classes(form.num_classes)
    listed = [{"name": n, "colour": c} for n, c in zip(classes.names, classes.colours, strict=True)]
    own = {"name": metadata.recipe.name, "classes": listed, "channels": len(form.mean)}
    return own | {name: getattr(form, name) for name in ("input", "output", "size", "padding")}


def web_runtime(folder: Path | None) -> dict[str, bytes]:
    """The files of ONNX Runtime Web by part: from an unpacked package, else from npm's, which is fetched once.

    Raises:
        ValueError: They are not there and cannot be fetched, or are not those that this release was tested with.
    """
    if folder is not None:
        paths = {part: next(folder.rglob(name), None) for part, name in PARTS.items()}
        if missing := [PARTS[part] for part, path in paths.items() if path is None]:
            raise ValueError(f"--runtime {str(folder)!r} has no {missing[0]}; give the unpacked package {PACKAGE}")
        return {part: path.read_bytes() for part, path in paths.items() if path is not None}
    archive = cache_folder() / f"{PACKAGE}-{VERSION}.tgz"
    if not archive.is_file():
        _fetch(archive)
    content = archive.read_bytes()
    if b64encode(hashlib.sha512(content).digest()).decode() != INTEGRITY:
        raise ValueError(f"{str(archive)!r} is not {PACKAGE} {VERSION} as it was published; remove it")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as files:
        for part, name in PARTS.items():
            member = files.extractfile(f"package/dist/{name}")
            assert member is not None
            found[part] = member.read()
    return found


def _fetch(archive: Path) -> None:
    """Let npm bring the package.

    Raises:
        ValueError: There is no npm, or it has no network.
    """
    own = (
        f"run `npm pack {PACKAGE}@{VERSION}` and `tar xf {archive.name}` where there is one, and give --runtime package"
    )
    if (npm := shutil.which("npm")) is None:
        raise ValueError(f"--format web needs {PACKAGE} {VERSION}, and npm, which fetches it, is not installed; {own}")
    with tempfile.TemporaryDirectory() as place:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--pack-destination", place]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place)
        if done.returncode or not (Path(place) / archive.name).is_file():
            reason = (done.stderr.strip().splitlines() or ["no archive was written"])[-1]
            raise ValueError(f"npm could not fetch {PACKAGE} {VERSION} ({reason}); {own}")
        with atomic_write(archive) as part:
            shutil.copyfile(Path(place) / archive.name, part)
