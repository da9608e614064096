"""Near-duplicates are detected, other pictures are not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy
from PIL import Image, ImageDraw

from clipmem_core.dataset import near_duplicates
from clipmem_core.dataset.near_duplicates import (
    SIMILAR_FROM,
    near_duplicate_clusters,
    near_duplicates_by_features,
)
from clipmem_core.dataset.pictures import check_picture
from clipmem_core.utils import embeddings
from tests.dataset.samples import drawing


def line(position: int) -> Image.Image:
    """Draw one thin line on white."""
    image = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(image).line((20, position, 236, position), fill="black", width=2)
    return image


def described(
    folder: Path, files: list[tuple[Image.Image, str, dict[str, int]]]
) -> tuple[np.ndarray, list[str]]:
    """Write the pictures, read them as an audit does, and return descriptors and hashes."""
    facts = []
    for i, (image, kind, options) in enumerate(files):
        name = f"{i}.{kind.lower()}"
        image.save(folder / name, **options)
        facts.append(check_picture(name, root=folder, size=32, resize_mode="squash")[0])
    descriptors = [np.frombuffer(fact.descriptor, np.uint8) for fact in facts]
    return np.array(descriptors), [fact.sha256 for fact in facts]


def clusters_of(n: int, similar: Callable[[int, int], bool]) -> list[int]:
    """Compare each row with each, and follow the links: the first row of each cluster."""
    links = [[i == j or similar(i, j) for j in range(n)] for i in range(n)]
    _, component = scipy.sparse.csgraph.connected_components(np.array(links), directed=False)
    return [component.tolist().index(number) for number in component]


def test_rescaled_and_recompressed_copies_are_near_duplicates_and_other_drawings_are_not(
    tmp_path: Path,
) -> None:
    files: list[tuple[Image.Image, str, dict[str, int]]] = []
    for seed in range(8):
        image = drawing(seed)
        files.append((image, "PNG", {}))
        files.append((image.resize((120, 120), Image.Resampling.LANCZOS), "PNG", {}))
        files.append((image, "JPEG", {"quality": 70}))
        files.append((image.resize((700, 700)), "WEBP", {"quality": 80}))
    clusters = near_duplicate_clusters(*described(tmp_path, files))
    assert clusters.tolist() == [4 * (row // 4) for row in range(32)]


def test_the_same_bytes_are_near_duplicates_and_nearly_blank_or_changed_pictures_are_not(
    tmp_path: Path,
) -> None:
    blank = Image.new("RGB", (64, 64), "white")
    files = [(image, "PNG", {}) for image in (blank, drawing(1), blank, drawing(1))]
    assert near_duplicate_clusters(*described(tmp_path, files)).tolist() == [0, 1, 0, 1]
    images = [line(position) for position in range(40, 220, 6)]
    images += [Image.new("RGB", (64 + i, 64), "white") for i in range(5)]
    tinted = Image.merge("RGB", drawing(3).split()[::-1])
    files = [(image, "PNG", {}) for image in (*images, drawing(3), tinted)]
    assert near_duplicate_clusters(*described(tmp_path, files)).tolist() == list(range(len(files)))


def noisy_copies(pictures: int, copies: int, *, seed: int) -> np.ndarray:
    """Return descriptors of which many are about as far apart as the thresholds."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 256, (pictures, 4, 4, 3)) * rng.uniform(0.02, 1, (pictures, 1, 1, 1))
    originals = np.kron(low, np.ones((1, 4, 4, 1))).reshape(pictures, 768)
    repeated = np.repeat(originals, copies, axis=0)
    noise = rng.normal(size=repeated.shape) * repeated.std(axis=1, keepdims=True)
    noisy = repeated + noise * rng.choice([0.0, 0.01, 0.02, 0.04, 0.06, 0.08], (len(repeated), 1))
    return noisy.round().clip(0, 255).astype(np.uint8)[rng.permutation(len(repeated))]


def test_the_clusters_equal_those_of_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "QUERIES", 37)
    monkeypatch.setattr(near_duplicates, "BLOCK", 50)
    descriptors = noisy_copies(30, 5, seed=0)
    values = descriptors.astype(float)
    contrasts = descriptors.std(axis=1)

    def similar(i: int, j: int) -> bool:
        contrast = min(contrasts[i], contrasts[j])
        gap = np.abs(values[i] - values[j])
        rms = np.sqrt((gap**2).mean()) / contrast
        peak = gap.max() / contrast
        return bool(rms < 0.03 or (contrast >= 25 and rms < 0.1 and peak < 0.35))

    clusters = near_duplicate_clusters(descriptors, [str(row) for row in range(len(descriptors))])
    assert clusters.tolist() == clusters_of(len(descriptors), similar)
    assert 30 < len(set(clusters.tolist())) < 150


def test_clusters_by_features_are_those_of_a_slow_loop() -> None:
    rng = np.random.default_rng(4)
    centres = rng.normal(size=(12, 6))
    features = np.concatenate(
        [centres + rng.normal(scale=0.1, size=centres.shape) for _ in range(5)]
    )
    unit = features - features.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = clusters_of(len(features), lambda i, j: bool(unit[i] @ unit[j] >= SIMILAR_FROM))
    assert near_duplicates_by_features(features).tolist() == expected
