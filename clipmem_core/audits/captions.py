"""One caption at a time, where pairs have several: what a member leaves of each, and the table of all members."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.atomic import replacing
from clipmem_core.audits.store import CAPTION_SCORES, PAIRS, Audit, read_array, read_table
from clipmem_core.scores.detectors import caption_misfit, external_used, gaps, margins, odd_captions, similarities
from clipmem_core.scores.membership import Sides

SEVERAL = "no pair has more than one caption"
NOT_KEPT = "the members left nothing of single captions: they were embedded before there was such a score"


def noted_captions(
    blocks: Iterable[np.ndarray],
    image_file: Path,
    caption_start: np.ndarray,
    external: np.ndarray,
    learned: np.ndarray,
    path: Path,
) -> Iterator[np.ndarray]:
    """Yield embeddings of captions as they come, and leave what is measured on each at their end.

    Args:
        blocks: embeddings of captions in order, float32 [n, dim].
        image_file: the embeddings of the member's pictures, written already.
        caption_start: int64 [n_pairs + 1].
        external: true for external pairs, [n_pairs].
        learned: as of `learned_by_caption`, [n_captions].
        path: of the file, float32 [n_captions, 3]: similarity, margin, learned.
    """
    image = read_array(image_file, shared=True)
    owner = np.repeat(np.arange(len(caption_start) - 1), np.diff(caption_start))
    beside, found, done = external_used(external), [], 0
    for vectors in blocks:
        own = owner[done : done + len(vectors)]
        done += len(vectors)
        similarity = similarities(vectors, image, own)
        found.append(np.column_stack([similarity, margins(vectors, similarity, own, image, beside)]))
        yield vectors
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.column_stack([np.concatenate(found), learned]).astype(np.float32))


def caption_table(audit: Audit, counts: np.ndarray, sides: Sides) -> tuple[pd.DataFrame | None, str]:
    """Return captions.parquet, one row a caption, or None and why there is none; `counts` are how many each pair has.

    Returns:
        pair_id; caption, its place in the pair from 0; similarity_out and margin_out, means over the members that never
        saw the pair; learned, over those that did; misfit = −(z(learned) + z(margin_out)), by margin_out
        alone for held-out pairs and captions that no epoch drew;
        gap, how far margin_out lies below that of the pair's others; odd, whether that is far.
    """
    if counts.max(initial=0) < 2:
        return None, SEVERAL
    members = sides.membership.members
    paths = [audit.member(name) / CAPTION_SCORES for name in members]
    if not all(path.is_file() for path in paths):
        return None, NOT_KEPT
    owner = np.repeat(np.arange(len(counts)), counts)
    totals, seen = np.zeros((3, len(owner))), np.zeros((3, len(owner)))
    for path, trained in zip(paths, sides.membership.trained, strict=True):
        values = read_array(path, shared=True)
        inside = trained[owner]
        for place, counted in enumerate((~inside, ~inside, inside)):
            known = counted & ~np.isnan(values[:, place])
            totals[place, known] += values[known, place]
            seen[place] += known
    with np.errstate(invalid="ignore"):
        similarity, margin, late = totals / np.where(seen > 0, seen, np.nan)
    gap = gaps(margin, owner)
    return pd.DataFrame(
        {
            c.PAIR_ID: read_table(audit.folder / PAIRS, columns=[c.PAIR_ID])[c.PAIR_ID].to_numpy()[owner],
            c.CAPTION: (np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.int32),
            c.SIMILARITY_OUT: similarity,
            c.MARGIN_OUT: margin,
            c.LEARNED: late,
            c.MISFIT: caption_misfit(late, margin),
            c.GAP: gap,
            c.ODD: odd_captions(gap),
        }
    ), ""
