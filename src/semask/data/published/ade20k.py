"""ADE20K, the scene parsing benchmark of 150 classes; labels are 0 for other, and 1 … 150.

Source: Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017.
"""

from __future__ import annotations

from semask.data.published.official import Official, by_folder
from semask.recipes.ade20k import ade20k_data

ADE20K = Official(
    title="ADE20K",
    downloads=("ADEChallengeData2016.zip",),
    data=ade20k_data(512, cat_max_ratio=0.75, jitter=True),
    counts={"training": 20210, "validation": 2000},
    gather=by_folder(
        r"images/(?P<split>training|validation)/(?P<stem>[^/]+)\.jpg",
        r"annotations/(?P<split>training|validation)/(?P<stem>[^/]+)\.png",
    ),
)
