"""Segment an image by a file of `semask export`, with ONNX Runtime, NumPy and Pillow alone.

python onnx_only.py exported/model.onnx street.jpg labels.png
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def segment(model: str, image: str, out: str) -> None:
    """Write the label map of an image as a PNG of class ids, with the classes' colours as its palette."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    record = json.loads(session.get_modelmeta().custom_metadata_map["semask"])
    form, classes = record["export"], (record["classes"] or {}).get("classes", [])
    if form["output"] not in ("labels", "confidence") or form["input"] != "bytes" or form["size"]:
        sys.exit(f"{model} needs more than this script; export with --output labels --input bytes, without --size")

    # upright, and white below transparent pixels
    photo = ImageOps.exif_transpose(Image.open(image)).convert("RGBA")
    photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")
    labels = session.run(["labels"], {"images": np.asarray(photo)[None]})[0][0]

    found = Image.fromarray(labels)
    if classes:
        found.putpalette([channel for each in classes for channel in each["colour"]])
    found.save(out)
    for index, pixels in enumerate(np.bincount(labels.ravel())):
        if pixels:
            print(f"{pixels / labels.size:6.1%}  {classes[index]['name'] if classes else index}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"usage: {Path(sys.argv[0]).name} MODEL.onnx IMAGE LABELS.png")
    segment(*sys.argv[1:])
