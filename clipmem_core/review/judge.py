"""Candidate captions: the probability that each is wrong for its picture, and the best caption of
each pair.

Only models that did not train on a pair are used: all of them for a new pair, whose picture the
audit has never seen. Nothing is trained. A candidate for a pair of the audit is compared with the
captions that the pair has, except the one in whose place it is put, and not with other candidates.
The captions of a new pair are compared with each other.

The audit fitted log-likelihood ratios (`errors/calibration.py`): of csls_out against pictures with
another caption, of agreement and margin_out against decoys, of words against others in their place.
How many captions of the batch are wrong is estimated from the batch (`batch_probabilities`), so the
audit's share does not matter. The captions of a new pair have all three ratios, as in the audit. A
candidate for a pair of the audit has the first one only if it has no siblings, or if they probably
belong to another picture and say nothing.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from clipmem_core.auditing.folder.prepare import DataSet
from clipmem_core.auditing.folder.store import (
    CAPTION_TABLE,
    CONFIG,
    FITTED,
    MEMBERSHIP,
    PAIRS,
    SCORES,
    WORD_MODELS,
    Audit,
    read_embeddings,
    read_prepared,
)
from clipmem_core.auditing.run.preflight import faults_without_model
from clipmem_core.auditing.run.word_table import HALVES, RATIOS
from clipmem_core.auditing.tables.fault_tables import cause_of
from clipmem_core.dataset.checks import not_captions
from clipmem_core.dataset.languages import is_read
from clipmem_core.dataset.readers.containers import as_name
from clipmem_core.dataset.sentences import sentences_of
from clipmem_core.errors.calibration import HALF, Fitted
from clipmem_core.errors.misfit import HeldOut, fit_beside, nan_mean
from clipmem_core.errors.runs import Fits, find_runs
from clipmem_core.features.cache import ReportCount
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.features.tower_by_language import languages_read
from clipmem_core.review import encoding, search
from clipmem_core.review.cards import WRONG_WORDS
from clipmem_core.review.judge_input import PICTURE, REPLACES, Candidates
from clipmem_core.review.queries import ROW, cached, fetch_numbered, fetch_pairs, stamp
from clipmem_core.scores.membership import draw_word_halves
from clipmem_core.scores.score_tables import captions_of_sentences
from clipmem_core.training.word_scores import CaptionWords, load_model, predicts
from clipmem_core.utils.columns import (
    AGREEMENT,
    CAPTION,
    CAPTIONS,
    CSLS_OUT,
    IMAGE,
    MARGIN_OUT,
    P_CAPTION,
    P_CHECK,
    P_PAIR,
    P_WORD,
    P_WRONG,
    PAIR_ID,
    PARTS,
    REASON,
    SENTENCE,
    SHA256,
    SIMILARITY_OUT,
)
from clipmem_core.utils.embeddings import unit
from clipmem_core.utils.io import InputError, read_json
from clipmem_core.utils.ragged import Ragged

OWN = "own"  # column: the pair has this caption already
NEW = "new"  # column: the audit has never seen the pair
BEST = "best"  # column: of the pair's captions the least likely to be wrong
_COLUMNS = (SIMILARITY_OUT, MARGIN_OUT, AGREEMENT, *PARTS, P_WRONG)
_AT = "_at"  # number of a candidate
_PLACE = "_place"  # of a pair among those with candidates
_UNIT = "_unit"  # number of the new pair or candidate that a caption belongs to
_NUMBER = "_number"  # of a caption in its pair
_REPLACED = "_replaced"  # what a candidate replaces: a list of captions or sentences
_BLOCK = 2_048  # captions whose evidence is in memory at a time
_SHOWN = 10  # candidates of the printed table
_CUT = 60  # characters of a printed caption
# New pairs among which displaced captions are searched
_FEWEST_ORDERED = 100
_MOST_ORDERED = 20_000


def check_judges(audit: Audit) -> Fitted:
    """Return what an audit fitted on its captions; refuse one that cannot judge others."""
    audit.check_finished()
    if audit.record.config.features:
        raise InputError(
            f"audit {audit.name!r} has precomputed features: nothing new can be embedded"
        )
    fitted: Fitted = read_json(audit.folder / FITTED, Fitted)
    if fitted.missing:
        raise InputError(f"audit {audit.name!r} cannot judge captions: {fitted.missing}")
    return fitted


def judge_captions(
    audit: Audit,
    candidates: Candidates,
    progress: ReportCount = lambda done, total: None,
    *,
    all_captions: bool = True,
) -> pd.DataFrame:
    """Return the probability that candidates are wrong, beside those of the captions that their
    pairs have.

    Args:
        candidates: several rows a pair. Other columns of their table are returned too.
        progress: called with the captions that are finished, and all.
        all_captions: return the captions that the pairs have too.

    Returns:
        A row a caption, pair by pair, the captions that it has first: pair_id, image, caption, own,
        new, best (of the pair's captions the least likely to be wrong), similarity_out, margin_out,
        agreement, p_pair, p_caption, p_word, p_wrong, reason (why it was not judged). The scores of
        captions that pairs have are the audit's. Without `all_captions` a row a candidate, in their
        order.
    """
    fitted = check_judges(audit)
    added = (OWN, NEW, BEST, *_COLUMNS)
    given = candidates.table.drop(columns=[*added], errors="ignore").assign(**{OWN: False})
    languages = languages_read(audit.record.config)
    for at, text in given.loc[given[REASON].isna(), CAPTION].items():
        if not is_read(text, languages):
            given.loc[at, REASON] = "the text tower does not read its language"
    if given[REASON].notna().all():
        first = given[REASON].get(0, "there is none")
        raise InputError(f"no caption can be judged; the first: {first}")
    given[NEW] = (given[ROW] < 0) & given[REASON].isna()
    new = given[given[REASON].isna()].rename_axis(_AT).reset_index()
    config = audit.record.config
    if new[NEW].any() and (config.unlock or not config.lock_image):
        raise InputError(
            f"audit {audit.name!r} trains its image encoders and can judge captions of its own "
            "pairs alone: audit with --preset locked to judge new pairs"
        )
    new[_PLACE] = pd.factorize(new[ROW].astype(object).where(~new[NEW], new[PICTURE]))[0]
    pairs = _pairs(audit, new.drop_duplicates(_PLACE), candidates.data_set)
    new[[PAIR_ID, IMAGE]] = pairs[[PAIR_ID, IMAGE]].iloc[new[_PLACE]].to_numpy()
    current = _current_captions(audit, pairs)
    new[_UNIT] = np.where(new[NEW], -1 - new[_PLACE], np.arange(len(new)))
    replaced = new.get(REPLACES, [None] * len(new))
    new[_REPLACED] = [[text] if isinstance(text, str) else [] for text in replaced]
    judged = new.drop_duplicates([_UNIT, CAPTION]).sort_values(_UNIT, kind="stable")
    if audit.record.sentences:
        sentences = _sentences(judged)
        sentences[_REPLACED] = sentences[_REPLACED].map(sentences_of)
        scores = _judge_units(audit, fitted, pairs, _sentences(current), sentences, progress)
        scored = pd.DataFrame(scores, columns=[*_COLUMNS])
        scored[SENTENCE] = sentences[SENTENCE].to_numpy()
        judged[[*_COLUMNS]] = captions_of_sentences(scored)[[*_COLUMNS]].to_numpy()
    else:
        judged[[*_COLUMNS]] = _judge_units(audit, fitted, pairs, current, judged, progress)
    new = new.merge(judged[[_UNIT, CAPTION, *_COLUMNS]], on=[_UNIT, CAPTION])
    table = pd.concat([current, new], ignore_index=True)
    # p_pair counts against a candidate as far as it does not fit the picture. So it does here
    # against the captions that the pair has.
    fit = expit(fitted.ratio_at("pairs", current[CSLS_OUT].to_numpy()))
    wrong = table[P_WRONG].sub(current[P_PAIR] * (1 - fit), fill_value=0.0)
    table[BEST] = table.index.isin(wrong.dropna().groupby(table[_PLACE]).idxmin())
    refused = given[given[REASON].notna()].assign(**{BEST: False})
    if all_captions:
        table = pd.concat([table.sort_values(_PLACE, kind="stable"), refused])
    else:
        table = pd.concat([table[len(current) :].set_index(_AT), refused]).sort_index()
    inner = [_AT, _PLACE, _UNIT, _NUMBER, _REPLACED, CSLS_OUT, PICTURE, ROW]
    table = table.drop(columns=inner, errors="ignore").reset_index(drop=True)
    first = [PAIR_ID, IMAGE, CAPTION, *added, REASON]
    return table[[*first, *(name for name in table if name not in first)]]


def _sentences(captions: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each sentence of captions, with its number in the caption; `_NUMBER` is that
    in the pair."""
    table = captions.copy()
    table[CAPTION] = [sentences_of([caption]) for caption in captions[CAPTION]]
    table[SENTENCE] = [range(len(part)) for part in table[CAPTION]]
    table = table.explode([CAPTION, SENTENCE], ignore_index=True)
    return table.assign(**{_NUMBER: table.groupby(_PLACE).cumcount()})


def _pairs(audit: Audit, firsts: pd.DataFrame, data_set: DataSet | None) -> pd.DataFrame:
    """Return the pairs of candidates, the first of each given: row (−1: new), pair_id, image,
    captions, sha256."""
    columns = [PAIR_ID, IMAGE, CAPTIONS, SHA256]
    rows = firsts[ROW].tolist()
    stored = fetch_numbered(audit.folder / PAIRS, columns, [row for row in rows if row >= 0])
    sha256 = {} if data_set is None else data_set.pairs.set_index(IMAGE)[SHA256].to_dict()
    names = firsts.get(PAIR_ID, firsts[PICTURE]).map(as_name)
    listed = [
        stored[row] if row >= 0 else (name or picture, picture, [], sha256[picture])
        for row, name, picture in zip(rows, names, firsts[PICTURE], strict=True)
    ]
    pairs = pd.DataFrame(listed, columns=columns).assign(**{ROW: rows})
    config = audit.record.config
    if data_set is not None and (pairs[ROW] < 0).any():  # in their folder, which blocks do not know
        tower = encoding.towers_here(config).image
        FeatureExtractor(tower, data_set.raw.root).images(pairs[pairs[ROW] < 0])
    return pairs


def _current_captions(audit: Audit, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the captions that pairs have, their stored scores, and csls_out and the place of their
    pair."""
    table = pairs[pairs[ROW] >= 0].rename_axis(_PLACE).reset_index()
    table = table[[_PLACE, PAIR_ID, IMAGE, CAPTIONS]].rename(columns={CAPTIONS: CAPTION})
    table = table.explode(CAPTION)
    table[_NUMBER] = table.groupby(_PLACE).cumcount()
    stamp(audit.folder / CAPTION_TABLE)  # a missing one has no row for `fetch_pairs`
    columns = [f"caption AS {_NUMBER}", *_COLUMNS]
    for name, selected in ((CAPTION_TABLE, columns), (SCORES, [CSLS_OUT])):
        scores = fetch_pairs(audit.folder / name, selected, pairs[PAIR_ID]).to_pandas()
        table = table.merge(scores, how="left")  # on the columns that both have
    return table.assign(**{OWN: True, NEW: False})


def _judge_units(
    audit: Audit,
    fitted: Fitted,
    pairs: pd.DataFrame,
    current: pd.DataFrame,
    judged: pd.DataFrame,
    progress: ReportCount,
) -> np.ndarray:
    """Return the scores `_COLUMNS` of captions in the order of their units, [n, n_columns]."""
    by_place = defaultdict(list)
    # If all captions of a pair belong to another picture, they say nothing about a candidate.
    usable = current[~(current[P_PAIR] > HALF)]
    for at, *numbered in usable[[_PLACE, _NUMBER, CAPTION]].itertuples(index=False):
        by_place[at].append(numbered)
    by_unit = judged.groupby(_UNIT, sort=False)
    texts = by_unit[CAPTION].agg(list).tolist()
    places = by_unit[_PLACE].first().to_numpy()
    siblings = [
        [(number, text) for number, text in by_place[place] if text not in (*own, *replaced)]
        for place, own, replaced in zip(places, texts, by_unit[_REPLACED].first(), strict=True)
    ]
    units = Ragged.of_lists(texts)
    step = max(1, _BLOCK // int(units.counts.max()))
    blocks = []
    for at in range(0, len(units), step):
        part = slice(at, at + step)
        block = pairs.iloc[places[part]]
        blocks.append(_evidence(audit, fitted, block, texts[part], siblings[part]))
        progress(units.start[at : part.stop + 1][-1].item(), len(judged))
    beside, agree, words = np.split(np.concatenate(blocks), [3, 6], axis=1)
    wrong = fitted.judge(
        units,
        beside,
        agree,
        words[:, 0],
        is_new=judged[NEW].to_numpy(),
        not_captions=not_captions(judged[CAPTION].tolist()) != "",
    )
    return np.column_stack([beside[:, :2], agree[:, 0], wrong[[*PARTS, P_WRONG]]])


def _evidence(
    audit: Audit,
    fitted: Fitted,
    pairs: pd.DataFrame,
    texts: Sequence[list[str]],
    siblings: Sequence[list[tuple[int, str]]],
) -> np.ndarray:
    """Return similarity, margin and csls, agreement in two columns and how specific they are, and
    the mean ratio of the words of captions, [n_captions, 7].

    Args:
        audit, fitted: an audit and what it fitted.
        pairs: the pair of each unit, [n_units].
        texts: the captions of each unit, to judge.
        siblings: the other captions of each unit's pair, with their numbers there.
    """
    units = Ragged.of_lists(texts)
    rows = pairs[ROW].to_numpy()
    agree = np.full((units.n_items, 3), np.nan)
    if fitted.ratio is not None:
        agree = _agreement(audit, fitted, texts, rows, siblings)
    words = np.full(units.n_items, np.nan)
    pictures: Any = None
    if "words" in fitted.curves or (rows < 0).any():
        tower = encoding.towers_here(audit.record.config).image
        pictures = FeatureExtractor(tower, audit.record.pictures).images(pairs)
    if "words" in fitted.curves:
        words = _word_ratios(audit, texts, rows, siblings, pictures)
    return np.column_stack([_fit_beside(audit, texts, rows, pictures), agree, words])


def _fit_beside(
    audit: Audit, texts: Sequence[list[str]], rows: np.ndarray, pictures: Any
) -> np.ndarray:
    """Return `fit_beside` of captions, [n_captions, 3]: means over the members that were not
    trained on the pair; NaN if all were. `pictures` has the features of each unit's picture, if any
    is new."""
    sides = search.read_sides(audit)
    membership = sides.membership
    owner = Ragged.of_lists(texts).owner
    by_member = []
    for name, trained in zip(membership.members, membership.trained, strict=True):
        chosen = np.flatnonzero((rows < 0) | ~trained[rows])
        values = np.full((len(owner), 3), np.nan)
        if len(chosen):
            embeddings = read_embeddings(audit.member(name))
            listed = [texts[at] for at in chosen.tolist()]
            text = encoding.embed_texts(audit, [*chain.from_iterable(listed)], name)
            own = rows[chosen]
            image = unit(embeddings[0][np.maximum(own, 0)])
            if (own < 0).any():
                image[own < 0] = encoding.embed_pictures(audit, pictures[chosen[own < 0]], name)
            beside = HeldOut.of(*embeddings, sides.held_out)
            units = Ragged.of_lists(listed)
            values[np.isin(owner, chosen)] = fit_beside(text, units, image, own, beside)
        by_member.append(values)
    return nan_mean(by_member)


def _agreement(
    audit: Audit,
    fitted: Fitted,
    texts: Sequence[list[str]],
    rows: np.ndarray,
    siblings: Sequence[list[tuple[int, str]]],
) -> np.ndarray:
    """Return the `agreement` of captions with the others of their unit and with numbered captions
    of its pair, NaN without any, and how specific they are if the audit fitted it, [n_captions,
    3]."""
    stored, captions = search.features_of_captions(audit)
    units = Ragged.of_lists(texts)
    features = encoding.text_features_of(audit.record.config, [*chain.from_iterable(texts)])
    compared = []
    for own, row, others in zip(np.split(features, units.start[1:-1]), rows, siblings, strict=True):
        numbers = np.array([number for number, _ in others], int)
        compared.append(np.vstack([own, stored[captions.start[row] + numbers]]))
    compared_units = Ragged.of_lists(compared)
    judged = compared_units.first[units.owner] + units.number
    return fitted.agreement(np.concatenate(compared), compared_units, judged)


def _word_ratios(
    audit: Audit,
    texts: Sequence[list[str]],
    rows: np.ndarray,
    siblings: Sequence[list[tuple[int, str]]],
    pictures: Any,
) -> np.ndarray:
    """Return the mean log-likelihood ratio that a word is wrong, of each caption, [n_captions].

    By the word model that was not trained on the pair, or the mean of both; NaN without a word that
    it predicts.
    """
    half = np.where(rows < 0, 2, _word_halves(audit)[rows])
    owner = Ragged.of_lists(texts).owner
    by_model = []
    for number, name in enumerate(HALVES):
        chosen = np.flatnonzero(predicts(number, half))
        ratios = np.full(len(owner), np.nan)
        if len(chosen):
            own = [texts[at] for at in chosen.tolist()]
            others = [[text for _, text in siblings[at]] for at in chosen.tolist()]
            model = _word_model(audit, name)
            ratios[np.isin(owner, chosen)] = model.mean_ratios(own, others, pictures[chosen])
        by_model.append(ratios)
    return nan_mean(by_model)


@cached(2, MEMBERSHIP, CONFIG)
def _word_halves(audit: Audit) -> np.ndarray:
    """Return which word model was trained on each pair, 0 or 1, and −1 for held-out pairs,
    [n_pairs]."""
    group = search.read_sides(audit).membership.group
    clusters = read_prepared(audit.folder).groups
    return draw_word_halves(group, clusters, seed=audit.record.config.seed)


def _word_model_files(audit: Audit, name: str) -> list[Path]:
    folder = audit.folder / WORD_MODELS
    return [folder / f"{name}.pt", folder / RATIOS]


@cached(4, paths=_word_model_files)
def _word_model(audit: Audit, name: str) -> CaptionWords:
    model, ratios = _word_model_files(audit, name)
    return CaptionWords(*load_model(model), list(map(np.array, read_json(ratios))))


def new_incidents(audit: Audit, candidates: Candidates) -> list[str]:
    """Return the probable causes of faults among new pairs, in the order of their source: repeated
    captions and pictures, text that is no caption, and captions of other pairs in order."""
    data_set = candidates.data_set
    table = candidates.table
    if data_set is None:
        return []
    shown = table[PICTURE][(table[ROW] < 0) & table[REASON].isna()]
    chosen = data_set.pairs[IMAGE].isin(shown).to_numpy()
    pairs = data_set.pairs[chosen].reset_index(drop=True)
    if not len(pairs):
        return []
    causes = [fault.cause for fault in faults_without_model(pairs, data_set.clusters[chosen])]
    if not _FEWEST_ORDERED <= len(pairs) <= _MOST_ORDERED:
        return causes
    features = FeatureExtractor(encoding.towers_here(audit.record.config).image).images(pairs)[:]
    texts = [text for captions in pairs[CAPTIONS] for text in captions]
    captions = Ragged.of_lists(pairs[CAPTIONS])
    names = audit.record.members
    image = [encoding.embed_pictures(audit, features, name) for name in names]
    text = [captions.mean(encoding.embed_texts(audit, texts, name)) for name in names]
    never = np.zeros((len(names), len(pairs)), bool)
    fits = Fits.of(image, text, never, seed=audit.record.config.seed)
    return [*(cause_of(run, pairs[CAPTIONS].tolist()) for run in find_runs(fits)), *causes]


@dataclass(frozen=True)
class Summary:
    """What a judgement found: the worst captions, sentences, and the shares of captions that are
    wrong and that were not judged."""

    title: str
    worst: pd.DataFrame
    causes: list[str]  # of faults among new pairs, and why captions were not judged
    count: str
    numbers: str
    wrong: float
    not_judged: float

    def as_markdown(self) -> str:
        rows = [[_as_markdown(value) for value in row] for row in self.worst.to_numpy()]
        head = [[*self.worst], ["---"] * self.worst.shape[1]]
        return "\n".join([self.count, "", *(" | ".join(row) for row in [*head, *rows]), ""])


def _as_markdown(value: Any) -> str:
    """Return a value as a cell of a Markdown table, in which nothing is markup."""
    text = f"{value:.2f}" if isinstance(value, float) else " ".join(str(value).split())
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def summarize(audit: Audit, candidates: Candidates, table: pd.DataFrame) -> Summary:
    """Summarize a table of `judge_captions`."""
    judged = table[~table[OWN] & table[REASON].isna()]
    expected = judged[[*PARTS]].sum()
    share = expected.sum() / max(judged[P_WRONG].count(), 1)
    worst = judged.nlargest(_SHOWN, P_WRONG)
    worst[CAPTION] = worst[CAPTION].str[:_CUT]
    worst["wrong"] = worst[[*PARTS]].fillna(0.0).idxmax(axis=1).map(WRONG_WORDS)
    reasons = table[REASON].value_counts().items()
    are = "caption is" if round(expected.sum()) == 1 else "captions are"
    kinds = {
        P_CHECK: "no captions at all",
        P_PAIR: "with all captions of their pair",
        P_CAPTION: "alone",
        P_WORD: "in a word",
    }
    parts = [f"{expected[name]:,.1f} {words}" for name, words in kinds.items() if expected[name]]
    line = f"About {expected.sum():,.0f} of {len(judged):,} {are} wrong ({share:.1%})"
    return Summary(
        f"captions, the likeliest wrong first ({len(worst):,} of {len(judged):,})",
        worst[[PAIR_ID, CAPTION, P_WRONG, "wrong"]],
        [
            *new_incidents(audit, candidates),
            *(f"{count:,} not judged: {reason}" for reason, count in reasons),
        ],
        f"{line}: {', '.join(parts)}.",
        f"candidates: {len(judged):,}; pairs: {judged[PAIR_ID].nunique():,}, "
        f"new: {judged[PAIR_ID][judged[NEW]].nunique():,}; "
        f"with a candidate as the best caption: {judged[BEST].sum():,}",
        float(share),
        float(table.loc[~table[OWN], REASON].notna().mean()),
    )
