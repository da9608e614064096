"""The row of an arm and seed: memorization, utility and price, from that seed's f and g alone."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audits.prepare import membership_of, sides_of, utility_rows
from clipmem_core.audits.progress import last_line
from clipmem_core.audits.store import SNAPSHOTS, Audit, read_array, read_embeddings, read_utility
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.encoders import contributions
from clipmem_core.scores.membership import Sides
from clipmem_core.scores.memorization import membership_auroc
from clipmem_core.scores.utility import retrieval_recalls
from clipmem_core.studies.store import (
    ARM,
    CLIPMEM_CANDIDATE,
    CLIPMEM_EXTERNAL,
    EPOCH,
    IMAGE_EXTERNAL,
    MEMBERSHIP_AUROC,
    PEAK_MB,
    RETRIEVAL,
    SAMPLES_SEEN,
    SECONDS,
    TEXT_EXTERNAL,
)
from clipmem_core.training.files import LOG, TRAJECTORY

RECALLS = tuple(f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))


def point(
    audit: Audit, number: int, settings: dict[str, Any], compared: np.ndarray, place: Mapping[str, int]
) -> dict[str, Any]:
    """Return the row of an arm and seed.

    Args:
        audit: the arm's; its members f-number and g-number are done.
        number: of the seed in this audit, from 0.
        settings: what the arm's row says it is.
        compared: pairs that every arm trains on if its group does, bool [n_pairs].
        place: the seed's number in the study, and that of its split where seeds have their own.

    Returns:
        arm, seed, split where there are several, the settings; memorization over compared candidates; utility, the mean
        of f and g; the samples that one of them saw, the seconds that both trained, and the larger peak of memory.
    """
    names = (f"f-{number}", f"g-{number}")
    folders = [audit.member(name) for name in names]
    return {
        ARM: audit.name,
        **place,
        **settings,
        **memorization(list(map(read_embeddings, folders)), _sides(audit, names), compared),
        **_utility(folders),
        **_price(folders),
    }


def times(audit: Audit, number: int, compared: np.ndarray, place: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return memorization after each epoch whose embeddings were kept: arm, seed, epoch and its numbers.

    Retrieval is there too, each pair's captions taken for one, their mean.
    """
    names = (f"f-{number}", f"g-{number}")
    sides = _sides(audit, names)
    rows = []
    for epoch in audit.record.snapshots:
        folders = [audit.member(name) / SNAPSHOTS / str(epoch) for name in names]
        embedded = list(map(read_embeddings, folders))
        found = memorization(embedded, sides, compared)
        recall = float(np.mean([_retrieval(image, text, utility_rows(sides)) for image, text in embedded]))
        rows.append({ARM: audit.name, **place, EPOCH: epoch, **found, RETRIEVAL: recall})
    return rows


def memorization(embedded: list[tuple[np.ndarray, np.ndarray]], sides: Sides, compared: np.ndarray) -> dict[str, float]:
    """Measure what f and g memorized from their embeddings.

    Args:
        embedded: μ_I and μ_T of f and of g, [n_pairs, dim] each.
        sides: of these two, and the external pairs that centre alignments.
        compared: pairs that every arm trains on if its group does, bool [n_pairs].
    """
    (f_image, f_text), (g_image, g_text) = embedded
    membership, external = sides.membership, sides.external
    candidate = (membership.group == c.CANDIDATE) & compared
    f, g = (pair_terms(image, text, external)[c.ALIGNMENT] for image, text in embedded)
    parts, fits = contributions([f_image, g_image], [f_text, g_text], sides)
    kept = dataclasses.replace(membership, group=membership.group[compared], trained=membership.trained[:, compared])
    return {
        CLIPMEM_CANDIDATE: float((f - g)[candidate].mean()),
        MEMBERSHIP_AUROC: membership_auroc([f[compared], g[compared]], kept)[1],
        c.CLIPMEM_IMAGE: float(parts[c.CLIPMEM_IMAGE][candidate].mean()),
        c.CLIPMEM_TEXT: float(parts[c.CLIPMEM_TEXT][candidate].mean()),
        CLIPMEM_EXTERNAL: float((f - g)[external].mean()),
        IMAGE_EXTERNAL: float(parts[c.CLIPMEM_IMAGE][external].mean()),
        TEXT_EXTERNAL: float(parts[c.CLIPMEM_TEXT][external].mean()),
        "map_fit": float(np.mean(list(fits.values()))),
    }


def _retrieval(image: np.ndarray, text: np.ndarray, external: np.ndarray) -> float:
    """Return the mean of the six recalls on some external pairs, by the embeddings of all."""
    image, text = (np.asarray(vectors)[external] for vectors in (image, text))
    return float(np.mean(list(retrieval_recalls(image, text, np.arange(len(external))).values())))


def _sides(audit: Audit, names: tuple[str, str]) -> Sides:
    membership = membership_of(audit.membership[[c.PAIR_ID, c.GROUP, *names]])
    return sides_of(audit, audit.record.config, membership)


def _utility(folders: list[Path]) -> dict[str, float]:
    metrics = [read_utility(folder) for folder in folders]
    means = {name: float(np.mean([one[name] for one in metrics])) for name in metrics[0]}
    return {RETRIEVAL: float(np.mean([means[name] for name in RECALLS])), **means}


def _price(folders: list[Path]) -> dict[str, float]:
    seen = [int(np.isfinite(read_array(folder / TRAJECTORY, shared=True)[..., 0]).sum()) for folder in folders]
    ends = [last_line(folder / LOG) for folder in folders]
    return {
        SAMPLES_SEEN: seen[0],
        SECONDS: round(sum(end.get("seconds", math.nan) for end in ends), 2),
        PEAK_MB: max(end.get("peak_mb", math.nan) for end in ends),
    }
