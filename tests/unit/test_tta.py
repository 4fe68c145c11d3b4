from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.inference import Pipeline, sliding, tta
from semask.ops.lazy_scores import InMemory
from semask.ops.resize import fit_size
from tests.unit.toy_predictors import bilinear, gradient, positional, symmetric


def test_flip_leaves_a_symmetric_model_as_it_is() -> None:
    images = torch.rand(2, 3, 17, 26)
    once, twice = tta(symmetric, ratios=(1.0,)), tta(symmetric, ratios=(1.0,), flip=True)
    torch.testing.assert_close(twice(images), once(images))
    torch.testing.assert_close(once(images), symmetric(images).softmax(1))
    windows = sliding(symmetric, window=(17, 10), stride=(8, 8))  # 0, 8, 16: mirrored the same
    torch.testing.assert_close(tta(windows, ratios=(1.0,), flip=True)(images), tta(windows, ratios=(1.0,))(images))


def test_several_scales_in_the_papers_order() -> None:
    """Logits → original size → softmax → un-flip → mean; softmax before resizing would differ."""
    images = torch.rand(1, 3, 24, 36) * 8
    maps, other_order = [], []
    for ratio in (0.5, 1.0, 1.75):
        size = fit_size(24, 36, (40, 30), ratio)
        for flip in (False, True):
            seen = bilinear(images.flip(-1) if flip else images, size)
            probabilities = bilinear(gradient(seen), (24, 36)).softmax(1)
            early = bilinear(gradient(seen).softmax(1), (24, 36))
            maps.append(probabilities.flip(-1) if flip else probabilities)
            other_order.append(early.flip(-1) if flip else early)
    got = tta(gradient, box=(40, 30), ratios=(0.5, 1.0, 1.75), flip=True)(images)
    torch.testing.assert_close(got, torch.stack(maps).mean(0))
    torch.testing.assert_close(got.sum(1), torch.ones(1, 24, 36))
    assert not torch.allclose(got, torch.stack(other_order).mean(0), atol=1e-4)


def test_scores_of_masks_are_averaged_as_they_are() -> None:
    """Sums over queries in [0, q] are no logits: a softmax would flatten them."""
    images = torch.rand(2, 3, 20, 31) * 5
    maps = []
    for ratio in (0.5, 1.5):
        size = fit_size(20, 31, (20, 31), ratio)
        for flip in (False, True):
            seen = bilinear(images.flip(-1) if flip else images, size)
            scores = bilinear(gradient(seen), (20, 31))
            maps.append(scores.flip(-1) if flip else scores)
    got = tta(Pipeline(lambda x: InMemory(gradient(x)), scores_are_logits=False), ratios=(0.5, 1.5), flip=True)(images)
    torch.testing.assert_close(got, torch.stack(maps).mean(0))
    assert float(got.max()) > 1


def segmenter_protocol(image: np.ndarray, window: int, stride: int, ratios: tuple[float, ...]) -> np.ndarray:
    """Segmenter's protocol (steps 1 to 5 and the mean), once more and plainly, for one image 3×H×W fitted to itself."""
    _, ori_height, ori_width = image.shape
    versions = []
    for ratio in ratios:
        box = int(max(ori_height, ori_width) * ratio), int(min(ori_height, ori_width) * ratio)
        factor = min(box[0] / max(ori_height, ori_width), box[1] / min(ori_height, ori_width))
        size = int(ori_height * factor + 0.5), int(ori_width * factor + 0.5)
        scaled = bilinear(torch.from_numpy(image)[None], size)
        for flip in (False, True):
            version = torch.flip(scaled, (3,)) if flip else scaled
            height, width = size
            if min(height, width) < window:
                if height < width:
                    height, width = window, int(width / height * window)
                else:
                    height, width = int(height / width * window), window
                version = bilinear(version, (height, width))
            sums, visits = np.zeros((3, height, width)), np.zeros((height, width))
            anchors_down = [y for y in range(0, height, stride) if y < height - window] + [height - window]
            anchors_across = [x for x in range(0, width, stride) if x < width - window] + [width - window]
            for y in anchors_down:
                for x in anchors_across:
                    logits = positional(version[:, :, y : y + window, x : x + window])[0].numpy()
                    sums[:, y : y + window, x : x + window] += logits
                    visits[y : y + window, x : x + window] += 1
            mean = bilinear(torch.from_numpy(sums / visits)[None], (ori_height, ori_width))[0].numpy()
            if flip:
                mean = mean[:, :, ::-1]
            exponentials = np.exp(mean - mean.max(0))
            versions.append(exponentials / exponentials.sum(0))
    return np.mean(versions, axis=0)


@given(
    st.tuples(st.integers(2, 30), st.integers(2, 30)),  # at half of one pixel the two round differently
    st.integers(5, 20),
    st.floats(0.5, 1.0),
    st.sampled_from([(1.0,), (0.5, 1.0, 1.75)]),
    st.integers(1, 50),
)
@settings(max_examples=20, deadline=None)
def test_segmenters_protocol(
    size: tuple[int, int], window: int, share: float, ratios: tuple[float, ...], batch_size: int
) -> None:
    stride = int(window * share)
    images = torch.rand(1, 3, *size) * 6
    predict = tta(
        sliding(positional, window=(window, window), stride=(stride, stride), batch_size=batch_size),
        ratios=ratios,
        flip=True,
        enlarge_to=window,
    )
    expected = segmenter_protocol(images[0].numpy(), window, stride, ratios)
    np.testing.assert_allclose(predict(images)[0].numpy(), expected, atol=2e-5, rtol=0)
