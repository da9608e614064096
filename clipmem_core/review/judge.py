"""Candidate captions: the probability that each is wrong for its picture, and the best caption of
each pair.

Only models that did not train on the pair are used. A candidate is compared with the captions that
the pair has, not with other candidates.

    p_other    it belongs to another picture, by the picture alone: its `csls_out` on the curve of
               `p_pair`
    q_caption  it belongs to another picture, by its siblings too: agreement and margin_out on the
               curve of `p_caption`
    q_word     it has a wrong word: the mean ratio of its words on the curve of `p_word`

If all captions of the pair belong to another picture (its `p_pair`), they say nothing about the
candidate. So the candidate does with p_mismatch = p_pair · p_other + (1 − p_pair) · q_caption;
without siblings p_mismatch = p_other. A caption of another picture has no wrong word: p_word =
(1 − p_mismatch) · q_word, and p_wrong = p_mismatch + p_word.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.audit.console import RichScreen, make_table
from clipmem_core.audit.settings import towers_of
from clipmem_core.audit.store import (
    CAPTION_TABLE,
    CONFIG,
    FITTED,
    MEMBERS,
    MEMBERSHIP,
    PAIRS,
    SCORES,
    WORD_MODELS,
    Audit,
    broken_files,
    read_embeddings,
    read_prepared,
)
from clipmem_core.columns import (
    AGREEMENT,
    CAPTION,
    CAPTIONS,
    CSLS_OUT,
    IMAGE,
    MARGIN_OUT,
    P_CAPTION,
    P_PAIR,
    P_WORD,
    P_WRONG,
    PAIR_ID,
    SHA256,
    SIMILARITY_OUT,
)
from clipmem_core.embeddings import Vectors
from clipmem_core.io import InputError, read_json
from clipmem_core.review import search
from clipmem_core.review.queries import ROW, cached, fetch_pairs, stamp
from clipmem_core.scores import detectors
from clipmem_core.scores.alignment import unit
from clipmem_core.scores.evidence import HALF, agreement, log_ratio, surprise
from clipmem_core.scores.membership import draw_word_halves
from clipmem_core.scores.prevalence import posterior_at
from clipmem_core.scores.words import Words, mean_ratio, number_words
from clipmem_core.tables import check_suffix, read_frame, write_frame

OWN = "own"  # column: the pair has this caption already
BEST = "best"  # column: of the pair's captions the least likely to be wrong
_COLUMNS = (SIMILARITY_OUT, MARGIN_OUT, AGREEMENT, P_PAIR, P_CAPTION, P_WORD, P_WRONG)
_PLACE = "_place"  # of a pair among those with candidates
_NUMBER = "_number"  # of a caption in its pair
_BLOCK = 2_048  # candidates whose evidence is in memory at a time
_SHOWN = 20  # candidates of the printed table
_CUT = 60  # characters of a printed caption
_HALVES = {"0": (-1, 1), "1": (0,)}  # the halves of the pairs that each word model predicts


def judge_captions(
    audit: Audit,
    candidates: pd.DataFrame,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    all_captions: bool = True,
) -> pd.DataFrame:
    """Return the probability that candidates are wrong, beside those of the captions that their
    pairs have.

    Args:
        candidates: caption, and pair_id or image; several rows a pair. Other columns are returned
            too.
        progress: called with the candidates that are finished, and all.
        all_captions: return the captions that the pairs have too.

    Returns:
        A row a caption, pair by pair, the captions that it has first: pair_id, image, caption, own,
        best (of the pair's captions the least likely to be wrong), similarity_out, margin_out,
        agreement, p_pair, p_caption, p_word, p_wrong. The scores of captions that pairs have are
        the audit's. Without `all_captions` a row a candidate, in their order.
    """
    audit.check_finished()
    if audit.record.config.features:
        raise InputError(
            f"audit {audit.name!r} has precomputed features: nothing new can be embedded"
        )
    fitted = read_json(audit.folder / FITTED)
    if fitted["missing"]:
        raise InputError(f"audit {audit.name!r} cannot judge captions: {fitted['missing']}")
    for name in broken_files(audit.folder):
        if name.startswith(MEMBERS):  # its embeddings may be those of other pairs
            raise InputError(f"{audit.folder / name} is damaged: run the audit again to replace it")
    pairs, place = _find_pairs(audit, candidates)
    current = _current_captions(audit, pairs)
    new = candidates.reset_index(drop=True)
    new[[PAIR_ID, IMAGE]] = pairs[[PAIR_ID, IMAGE]].iloc[place].to_numpy()
    new[_PLACE] = place
    new[OWN] = False
    scores = []
    for at in range(0, len(new), _BLOCK):
        scores.append(_judge_block(audit, fitted, pairs, current, new[at : at + _BLOCK]))
        progress(min(at + _BLOCK, len(new)), len(new))
    new[[*_COLUMNS]] = np.concatenate(scores)
    table = pd.concat([current, new], ignore_index=True)
    # p_pair counts against a candidate as far as it does not fit the picture. So it does here
    # against the captions that the pair has.
    fit = _posterior(fitted, "pairs", current[CSLS_OUT].to_numpy())
    wrong = table[P_WRONG].sub(current[P_PAIR] * (1 - fit), fill_value=0.0)
    table[BEST] = table.index.isin(wrong.dropna().groupby(table[_PLACE]).idxmin())
    order = table.sort_values(_PLACE, kind="stable") if all_captions else table[len(current) :]
    table = order.reset_index(drop=True)
    table = table.drop(columns=[_PLACE, _NUMBER, CSLS_OUT])
    first = [PAIR_ID, IMAGE, CAPTION, OWN, BEST, *_COLUMNS]
    return table[[*first, *(name for name in table if name not in first)]]


def _find_pairs(audit: Audit, candidates: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the pairs of candidates in the order of their first candidates, and each candidate's
    place among them."""
    key = next((name for name in (PAIR_ID, IMAGE) if name in candidates), None)
    if key is None or CAPTION not in candidates:
        raise InputError(
            f"the candidates have the columns {', '.join(map(str, candidates))}: name one caption, "
            "and one pair_id or image"
        )
    has_text = [isinstance(text, str) and bool(text.strip()) for text in candidates[CAPTION]]
    if not all(has_text):
        raise InputError(
            f"row {has_text.index(False) + 1} of the candidates has no caption: write one, or "
            "remove the row"
        )
    values = candidates[key].astype(str)
    columns = [ROW, *(f'"{name}"' for name in (IMAGE, CAPTIONS, SHA256))]
    pairs = fetch_pairs(audit.folder / PAIRS, columns, values.unique(), key=key).to_pandas()
    counts = values.map(pairs[key].value_counts()).fillna(0).tolist()
    for number, count in enumerate(counts, start=1):
        if count != 1:
            what = f"{count:.0f} pairs have" if count else "no pair has"
            value = values.iloc[number - 1]
            raise InputError(
                f"row {number} of the candidates: {what} the {key} {value!r} in audit "
                f"{audit.name!r}"
            )
    place, listed = pd.factorize(values)
    return pairs.set_index(key, drop=False).loc[listed].reset_index(drop=True), place


def _current_captions(audit: Audit, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the captions that pairs have, their stored scores, and csls_out and the place of their
    pair."""
    table = pairs[[PAIR_ID, IMAGE, CAPTIONS]].rename_axis(_PLACE).reset_index()
    table = table.rename(columns={CAPTIONS: CAPTION}).explode(CAPTION)
    table[_NUMBER] = table.groupby(_PLACE).cumcount()
    columns = [f'"{CAPTION}" AS {_NUMBER}', *(f'"{name}"' for name in _COLUMNS)]
    stamp(audit.folder / CAPTION_TABLE)  # a missing one has no row for `fetch_pairs`
    scores = fetch_pairs(audit.folder / CAPTION_TABLE, columns, pairs[PAIR_ID]).to_pandas()
    fit = fetch_pairs(audit.folder / SCORES, [CSLS_OUT], pairs[PAIR_ID]).to_pandas()
    table = table.merge(scores, on=[PAIR_ID, _NUMBER], how="left")
    return table.merge(fit, on=PAIR_ID, how="left").assign(**{OWN: True})


def _judge_block(
    audit: Audit,
    fitted: dict[str, Any],
    pairs: pd.DataFrame,
    current: pd.DataFrame,
    candidates: pd.DataFrame,
) -> np.ndarray:
    """Return the scores `_COLUMNS` of candidates, [n_candidates, n_columns]."""
    texts = candidates[CAPTION].tolist()
    place = candidates[_PLACE].to_numpy()
    rows = pairs[ROW].to_numpy()[place]
    # captions that are probably wrong say nothing about a candidate
    usable = current[~(current[P_CAPTION] > HALF)]
    by_place = defaultdict(list)
    for at, *numbered in usable[[_PLACE, _NUMBER, CAPTION]].itertuples(index=False):
        by_place[at].append(numbered)
    siblings = [
        [(number, caption) for number, caption in by_place[at] if caption != text]
        for at, text in zip(place, texts, strict=True)
    ]
    similarity, margin, fit = _out_of(audit, texts, rows).T
    agree = np.full((len(texts), 2), np.nan)
    by_siblings = np.full(len(texts), np.nan)
    if fitted["ratio"] is not None:
        agree = _agreement(audit, texts, rows, siblings)
        ratios = log_ratio(np.array(fitted["ratio"]), np.column_stack([agree, margin]))
        by_siblings = _posterior(fitted, "captions", -ratios)
    by_picture = _posterior(fitted, "pairs", fit)
    alone = np.isnan(by_siblings)
    wrong_pair = current.groupby(_PLACE)[P_PAIR].first().fillna(0.0).to_numpy()[place]
    by_both = wrong_pair * by_picture + (1 - wrong_pair) * by_siblings
    mismatch = np.where(alone, by_picture, by_both)
    captions = [
        [text, *(caption for _, caption in part)]
        for text, part in zip(texts, siblings, strict=True)
    ]
    words = np.full(len(texts), np.nan)
    if "words" in fitted["curves"]:
        words = _posterior(fitted, "words", -_word_ratios(audit, pairs.iloc[place], captions))
    by_word = (1 - mismatch) * np.nan_to_num(words)
    p_pair = np.where(alone, mismatch, 0.0)
    p_caption = np.where(alone, 0.0, mismatch)
    p_wrong = mismatch + by_word
    return np.column_stack([similarity, margin, agree[:, 0], p_pair, p_caption, by_word, p_wrong])


def _posterior(fitted: dict[str, Any], kind: str, fit: np.ndarray) -> np.ndarray:
    """Return the probability that captions are wrong; NaN without a fitted curve or without a
    score."""
    curve = fitted["curves"].get(kind)
    return posterior_at(curve, fit) if curve else np.full(len(fit), np.nan)


def _out_of(audit: Audit, texts: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Return similarity, margin and CSLS of candidates for the pairs of some rows, [n, 3].

    Means over the members that were not trained on the pair; NaN if all were.
    """
    sides = search.read_sides(audit)
    beside = detectors.external_used(sides.external)
    membership = sides.membership
    by_member = []
    for name, trained in zip(membership.members, membership.trained, strict=True):
        chosen = np.flatnonzero(~trained[rows])
        values = np.full((len(rows), 3), np.nan)
        if len(chosen):
            image, text = read_embeddings(audit.member(name))
            vectors = search.embed_texts(audit, [texts[at] for at in chosen.tolist()], member=name)
            values[chosen] = _beside_external(vectors, image, text, rows[chosen], beside)
        by_member.append(values)
    return detectors.nan_mean(by_member)


def _beside_external(
    vectors: np.ndarray, image: Vectors, text: Vectors, rows: np.ndarray, beside: np.ndarray
) -> np.ndarray:
    """Return similarity, margin and CSLS of captions by one member, [n, 3].

    Args:
        vectors: unit embeddings of the captions, [n, dim].
        image, text: embeddings of all pairs, [n_pairs, dim].
        rows: the pairs of the captions, [n].
        beside: the external pairs that they are compared with, [n_beside].
    """
    pictures = unit(image[rows])
    similarity = np.vecdot(vectors, pictures)
    by_image = pictures @ unit(text[beside]).T
    by_text = vectors @ unit(image[beside]).T
    itself = rows[:, None] == beside
    by_image[itself] = by_text[itself] = -np.inf
    scores = detectors.caption_scores(vectors, rows, image, beside)
    return np.column_stack([scores, detectors.csls(similarity, by_image, by_text)])


def _agreement(
    audit: Audit, texts: Sequence[str], rows: np.ndarray, siblings: Sequence[list[tuple[int, str]]]
) -> np.ndarray:
    """Return the `agreement` of candidates with numbered captions of their pairs, [n, 2]; NaN
    without any."""
    stored, first = search.features_of_captions(audit)
    features = search.text_features_of(audit.record.config, texts)
    compared = [
        np.vstack([vector, stored[[first[row] + number for number, _ in part]]])
        for vector, row, part in zip(features, rows, siblings, strict=True)
    ]
    start = np.cumsum([0, *map(len, compared)])
    return agreement(np.concatenate(compared), start)[start[:-1]]


def _word_ratios(
    audit: Audit, pairs: pd.DataFrame, captions: Sequence[Sequence[str]]
) -> np.ndarray:
    """Return the mean log-likelihood ratio that a word is wrong, of the first of some captions of
    each pair, [n_pairs].

    By the word model that was not trained on the pair; NaN without a word that it predicts.
    """
    ratios = np.full(len(pairs), np.nan)
    for name, halves in _HALVES.items():
        chosen = np.flatnonzero(np.isin(_word_halves(audit)[pairs[ROW]], halves))
        if len(chosen):
            listed = [captions[at] for at in chosen.tolist()]
            ratios[chosen] = _ratios_of_half(audit, name, pairs.iloc[chosen], listed)
    return ratios


def _ratios_of_half(
    audit: Audit, name: str, pairs: pd.DataFrame, captions: Sequence[Sequence[str]]
) -> np.ndarray:
    """Return `_word_ratios` by one model."""
    import torch  # slow to import

    from clipmem_core.audit.word_table import predicted_evidence
    from clipmem_core.features.embed import FeatureExtractor
    from clipmem_core.training.word_model import Predictions, predict

    torch.set_num_threads(1)
    model, vocabulary, by_kind = _word_model(audit, name)
    words = number_words(captions, like=vocabulary)
    tower = towers_of(audit.record.config).image
    assert tower is not None
    pictures = FeatureExtractor(tower, audit.record.pictures).images(pairs)
    first = np.isin(np.arange(len(words.caption_start) - 1), words.pair_start[:-1])
    compared = np.where(np.repeat(first, np.diff(words.caption_start)), 0, -1)
    predicted = Predictions.empty(len(words.ids))
    predict(model, words, pictures, np.arange(len(pairs)), compared, predicted)
    evidence, kinds = predicted_evidence(words, predicted, np.zeros_like(compared))
    ratios = mean_ratio(surprise(by_kind, evidence[:, 0], kinds), words.caption_start)
    return ratios[words.pair_start[:-1]]


@cached(2, MEMBERSHIP, CONFIG)
def _word_halves(audit: Audit) -> np.ndarray:
    """Return which word model was trained on each pair, 0 or 1, and −1 for external pairs,
    [n_pairs]."""
    group = search.read_sides(audit).membership.group
    clusters = read_prepared(audit.folder).clusters
    return draw_word_halves(group, clusters, seed=audit.record.config.seed)


def _word_model_files(audit: Audit, name: str) -> list[Path]:
    folder = audit.folder / WORD_MODELS
    return [folder / f"{name}.pt", folder / "ratios.json"]


@cached(4, paths=_word_model_files)
def _word_model(audit: Audit, name: str) -> tuple[Any, Words, list[np.ndarray]]:
    """Return a word model, the words of the data set, and the log-likelihood ratio of a wrong word
    of each kind."""
    from clipmem_core.audit.word_table import load_model

    model, ratios = _word_model_files(audit, name)
    return *load_model(model), list(map(np.array, read_json(ratios)))


def judge_file(
    audit: Audit, path: Path, out: Path | None, *, all_captions: bool, screen: RichScreen
) -> None:
    """Judge the candidates of a file, print the likeliest wrong ones, and write the result. Without
    `out` it is beside the file, with `-judged` in its name."""
    out = out or path.with_stem(f"{path.stem}-judged")
    candidates = read_frame(path)
    check_suffix(out)
    table = judge_captions(audit, candidates, screen.captions, all_captions=all_captions)
    write_frame(table, out)
    judged = table[~table[OWN]].sort_values(P_WRONG, ascending=False)
    shown = judged[[PAIR_ID, CAPTION, P_WRONG, BEST]].head(_SHOWN).astype(object)
    shown = shown.where(shown.notna(), None)
    shown[CAPTION] = shown[CAPTION].str[:_CUT]
    shown[BEST] = shown[BEST].map({True: "yes", False: ""})
    title = f"captions, the likeliest wrong first ({len(shown):,} of {len(judged):,})"
    screen.progress.console.print(
        make_table(title, shown.to_dict("records"), shown.columns.tolist())
    )
    screen.say(
        f"{out}: candidates: {len(judged):,}; pairs: {judged[PAIR_ID].nunique():,}, "
        f"with a candidate as the best caption: {judged[BEST].sum():,}"
    )
