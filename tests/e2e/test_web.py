"""A model in a browser: the page of `semask export --format web` gives the labels of its file, from a disk, offline."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import semask
from semask.data.checks.cache import cache_folder
from semask.exports.metadata import Metadata
from semask.exports.runtime import open_export
from semask.exports.web import INTEGRITY, LARGEST, PACKAGE, PARTS, VERSION, check_web, web_runtime, write_web_page
from semask.recipes import DataRecipe, TestRecipe
from tests.e2e.browser import Browser, chromium
from tests.facts import facts, missing
from tests.unit.small_model import NAMES, exported

needs_browser = pytest.mark.skipif(chromium() is None, reason="no Chromium")
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="no npm")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports as pages by their input."""
    folder = tmp_path_factory.mktemp("web")
    exported(folder / "bytes", format="web")
    exported(folder / "floats", format="web", input="floats")
    # smaller images are padded
    exported(folder / "fixed", format="web", size=(112, 144), output="confidence")
    return folder


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as browser:
        yield browser


def segmented(browser: Browser, image: Path, folder: Path) -> Image.Image:
    """The label map that a person downloads."""
    browser.value("document.getElementById('save').hidden = true")
    browser.choose("#file", image)
    browser.wait("!document.getElementById('save').hidden && !document.getElementById('file').disabled")
    browser.value("document.getElementById('save').click()")
    path = folder / f"{image.stem}_labels.png"
    browser.wait(path.is_file)
    with Image.open(path) as found:
        return found.copy()


@needs_browser
@needs_npm
@pytest.mark.parametrize("kind", ["bytes", "floats", "fixed"])
def test_labels_in_a_browser_are_those_of_the_file(web: Path, tmp_path: Path, browser: Browser, kind: str) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (97, 131, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "odd.png")
    clear = np.dstack([pixels[:33, :65], np.where(rng.random((33, 65)) < 0.5, 255, 0).astype(np.uint8)])
    Image.fromarray(clear).save(tmp_path / "transparent.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    browser.open(web / kind / "model.html")
    browser.wait("!document.getElementById('file').disabled")
    for name in ("odd", "transparent", "grey"):
        image = tmp_path / f"{name}.png"
        expected = semask.load(web / kind / "model.onnx").predict(image)
        found = segmented(browser, image, tmp_path)
        assert np.array_equal(np.array(found), expected.numpy()), name
        assert len(np.unique(found)) > 2, name
        palette = np.array(found.getpalette()).reshape(-1, 3)[: len(NAMES)]
        assert expected.colours is not None
        assert [tuple(colour) for colour in palette] == [*expected.colours]
        # the legend: every class that there is, the largest first
        counts = np.bincount(expected.numpy().flatten(), minlength=len(NAMES))
        rows = browser.value("[...document.querySelectorAll('#legend .name')].map((each) => each.textContent)")
        assert rows == [NAMES[index] for index in np.argsort(-counts, kind="stable") if counts[index]]
    # the class under the pointer, and its probability where the file has it
    row, column = len(expected) // 3, expected.shape[1] // 2
    browser.value(
        "{ const box = document.getElementById('image').getBoundingClientRect();"
        "document.getElementById('stage').dispatchEvent(new PointerEvent('pointermove', {"
        f"clientX: box.left + {column + 0.5} * box.width / {expected.shape[1]},"
        f"clientY: box.top + {row + 0.5} * box.height / {len(expected)}}})); }}"
    )
    shown = browser.value("document.getElementById('pixel').textContent")
    assert missing(shown, row, column, NAMES[expected[row, column]]) == []
    assert (" %" in shown) == (kind == "fixed")
    # the page needs nothing else, and its policy is kept
    assert browser.errors() == []
    assert {address.partition(":")[0] for address in browser.requests()} <= {"file", "blob"}


@needs_browser
@needs_npm
def test_broken_images_and_large_ones(web: Path, tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    browser.open(web / "bytes" / "model.html")
    browser.wait("!document.getElementById('file').disabled")
    browser.choose("#file", tmp_path / "broken.png")
    browser.wait("document.getElementById('status').classList.contains('bad')")
    # the next one is segmented nevertheless, made smaller
    Image.new("RGB", (1536, 48), (90, 120, 30)).save(tmp_path / "wide.png")
    assert segmented(browser, tmp_path / "wide.png", tmp_path).size == (1024, 32)
    assert browser.value("document.getElementById('status').classList.contains('bad')") is False


@needs_npm
def test_the_policy_allows_one_script(web: Path) -> None:
    text = (web / "bytes" / "model.html").read_text()
    policy = text.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    rules = {name: allowed for name, *allowed in (rule.split() for rule in policy.split("; "))}
    assert rules["default-src"] == ["'none'"]
    assert [each for each in rules["script-src"] if not each.startswith("'sha256-")] == ["blob:", "'wasm-unsafe-eval'"]
    assert len(rules["script-src"]) == 3
    assert not any("unsafe-inline" in allowed for allowed in rules.values())


@pytest.fixture(scope="module")
def metadata(web: Path) -> Metadata:
    return open_export(web / "bytes" / "model.onnx").metadata


@needs_npm
def test_refuses_what_a_browser_would_do_otherwise(metadata: Metadata) -> None:
    plain, data = TestRecipe(), DataRecipe()
    for recipe, test, form, flags in (
        (data, TestRecipe(mode="sliding"), {"output": "raw"}, ("--test.mode whole", "--output labels")),
        (data, TestRecipe(scales=(0.5, 1.0), flip=True), {}, ("--test.scales 1", "--test.flip False")),
        (replace(data, base_scale=(2048, 512)), plain, {}, ("--data.base-scale None",)),
        (replace(data, base_ratio=0.5), plain, {}, ("--data.base-ratio 1",)),
        (data, plain, {"batch": 4}, ("--batch 1",)),
        (replace(data, value_range=(0.0, 4095.0)), plain, {}, ("--format web",)),
        (replace(data, channels=4), plain, {"mean": (0.5,) * 4}, ("--format web",)),
    ):
        changed = replace(metadata, recipe=replace(metadata.recipe, data=recipe, test=test))
        with pytest.raises(ValueError, match=facts(*flags)):
            check_web(replace(changed, form=replace(metadata.form, **form)))
    check_web(replace(metadata, form=replace(metadata.form, output="confidence")))


@needs_npm
def test_refuses_large_models(metadata: Metadata, tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(ValueError, match=facts("--format web", "64 MiB", "--precision fp16")):
        write_web_page(tmp_path / "model.html", tmp_path / "model.onnx", metadata, {})
    assert not (tmp_path / "model.html").exists()


@needs_npm
def test_the_runtime_is_the_one_that_was_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = web_runtime(None)
    assert {name: len(content) for name, content in package.items()} == {
        "runtime": 50_196,
        "loader": 24_381,
        "wasm": 14_239_897,
    }
    # from a folder, in any place below it
    (tmp_path / "package/dist").mkdir(parents=True)
    for part, name in PARTS.items():
        (tmp_path / "package/dist" / name).write_bytes(package[part])
    assert web_runtime(tmp_path / "package") == package == web_runtime(tmp_path)
    (tmp_path / "package/dist" / PARTS["wasm"]).unlink()
    with pytest.raises(ValueError, match=facts("--runtime", PARTS["wasm"])):
        web_runtime(tmp_path)
    # another archive in the cache
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    archive = cache_folder() / f"{PACKAGE}-{VERSION}.tgz"
    archive.parent.mkdir()
    archive.write_bytes(b"another")
    with pytest.raises(ValueError, match=facts(str(archive), VERSION)):
        web_runtime(None)
    assert len(INTEGRITY) == 88


def test_without_npm_or_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    command = f"npm pack {PACKAGE}@{VERSION}"
    with pytest.raises(ValueError, match=facts(command, "--runtime")):
        web_runtime(None)
    (tmp_path / "npm").write_text("#!/bin/sh\necho ENOTFOUND >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    with pytest.raises(ValueError, match=facts("ENOTFOUND", command, "--runtime")):
        web_runtime(None)
    assert not (tmp_path / "cache").exists()
