"""The published datasets by name."""

from __future__ import annotations

from semask.data.published.ade20k import ADE20K
from semask.data.published.camvid import CAMVID
from semask.data.published.cityscapes import CITYSCAPES, CITYSCAPES_COARSE
from semask.data.published.coco_stuff import COCO_STUFF_10K, COCO_STUFF_164K
from semask.data.published.official import Official
from semask.data.published.pascal_context import PASCAL_CONTEXT
from semask.data.published.voc import VOC, VOC_AUGMENTED

DATASETS: dict[str, Official] = {
    "ade20k": ADE20K,
    "cityscapes": CITYSCAPES,
    "cityscapes-coarse": CITYSCAPES_COARSE,
    "pascal-context": PASCAL_CONTEXT,
    "coco-stuff10k": COCO_STUFF_10K,
    "coco-stuff164k": COCO_STUFF_164K,
    "voc": VOC,
    "voc-aug": VOC_AUGMENTED,
    "camvid": CAMVID,
}
"""What `semask prepare` makes."""
