"""Measurements of the members of an arm: a row a seed, and the attack by the arm's other seeds."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audit.prepare import membership_of, sides_of
from clipmem_core.audit.status import last_line
from clipmem_core.audit.store import Audit, read_array, read_embeddings, read_utility
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.attacks import BAVARIA, Shadows, attack, roc
from clipmem_core.scores.encoders import contributions
from clipmem_core.scores.membership import Sides
from clipmem_core.scores.memorization import membership_auroc
from clipmem_core.studies import study_folder as s
from clipmem_core.training.names import LOG, TRAJECTORY

KS = (1, 5, 10)
RECALLS = tuple(f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in KS)
ATTACKED = (*c.ATTACK_METRICS.values(), s.ATTACK_SHADOWS)


def measure(audit: Audit, number: int, compared: np.ndarray) -> dict[str, Any]:
    """Measure the trained members f-number and g-number of an arm's audit on `compared` pairs, bool [n_pairs].

    Utility is the mean of f and g; samples are those of f, seconds the sum of both, and memory is the larger peak.
    """
    names = (f"f-{number}", f"g-{number}")
    folders = [audit.member(name) for name in names]
    means = pd.DataFrame(map(read_utility, folders)).mean()
    utility = {str(name): float(mean) for name, mean in means.items()}
    ends = [last_line(folder / LOG) for folder in folders]
    return {
        **memorization(list(map(read_embeddings, folders)), _sides(audit, names), compared),
        s.RETRIEVAL: float(np.mean([utility[name] for name in RECALLS])),
        **utility,
        s.SAMPLES_SEEN: int(np.isfinite(read_array(folders[0] / TRAJECTORY, shared=True)[..., 0]).sum()),
        s.SECONDS: round(sum(end.get("seconds", math.nan) for end in ends), 2),
        s.PEAK_MB: max(end.get("peak_mb", math.nan) for end in ends),
    }


def memorization(
    embedded: Sequence[tuple[np.ndarray, np.ndarray]], sides: Sides, compared: np.ndarray
) -> dict[str, float]:
    """Measure memorization from μ_I and μ_T of f and of g, [n_pairs, dim] each, on `compared` pairs, bool [n_pairs]."""
    (f_image, f_text), (g_image, g_text) = embedded
    membership, external = sides.membership, sides.external
    candidate = (membership.group == c.CANDIDATE) & compared
    f, g = (pair_terms(image, text, external)[c.ALIGNMENT] for image, text in embedded)
    parts, fits = contributions([f_image, g_image], [f_text, g_text], sides)
    subset = dataclasses.replace(membership, group=membership.group[compared], trained=membership.trained[:, compared])
    return {
        s.CLIPMEM_CANDIDATE: float((f - g)[candidate].mean()),
        s.MEMBERSHIP_AUROC: membership_auroc([f[compared], g[compared]], subset)[1],
        c.CLIPMEM_IMAGE: float(parts[c.CLIPMEM_IMAGE][candidate].mean()),
        c.CLIPMEM_TEXT: float(parts[c.CLIPMEM_TEXT][candidate].mean()),
        s.CLIPMEM_EXTERNAL: float((f - g)[external].mean()),
        "map_fit": float(np.mean(list(fits.values()))),
    }


def _sides(audit: Audit, names: tuple[str, str]) -> Sides:
    membership = membership_of(audit.membership[[c.PAIR_ID, c.GROUP, *names]])
    return sides_of(audit, audit.record.config, membership)


def arms_to_attack(rows: pd.DataFrame) -> list[str]:
    """Return the arms with two seeds or more in which a row was attacked with fewer shadows than exist now."""
    rows = rows.reindex(columns=[s.ARM, s.ATTACK_SHADOWS])
    seeds = rows.groupby(s.ARM)[s.ARM].transform("size")
    return list(dict.fromkeys(rows.loc[(seeds > 1) & (rows[s.ATTACK_SHADOWS] != 2 * (seeds - 1)), s.ARM]))


def attack_arm(seeds: Sequence[tuple[Audit, int, np.ndarray]]) -> list[dict[str, float]]:
    """Attack f and g of each seed of an arm with those of its other seeds as shadows; return the means of f and g.

    `seeds` are the audit of each seed, the seed's number in it, and the compared pairs. If seeds share one split, all f
    are trained on the same pairs, and the attack also uses differences by the other pairs of a group.
    """
    alignments, sides = [], []
    for audit, number, _ in seeds:
        names = (f"f-{number}", f"g-{number}")
        sides.append(_sides(audit, names))
        for name in names:
            alignments.append(pair_terms(*read_embeddings(audit.member(name)), sides[-1].external)[c.ALIGNMENT])
    scored = [
        np.isin(side.membership.group, c.SCORED_GROUPS) & compared
        for side, (_, _, compared) in zip(sides, seeds, strict=True)
    ]
    shadows = Shadows(
        trained=np.concatenate([side.membership.trained for side in sides]),
        attacked=np.repeat(scored, 2, axis=0),
        external=np.repeat([side.external for side in sides], 2, axis=0),
        replicate=np.repeat(np.arange(len(seeds)), 2),
        seed=sides[0].seed,
    )
    curves = [roc(target, BAVARIA) for target in attack(alignments, shadows, attacks=(BAVARIA,))]
    return [
        {column: (f[name] + g[name]) / 2 for name, column in c.ATTACK_METRICS.items()}
        | {s.ATTACK_SHADOWS: len(alignments) - 2}
        for f, g in zip(curves[::2], curves[1::2], strict=True)
    ]
