"""Judges captions from elsewhere: the probability that each is wrong for its picture, and the best
caption of each pair.

A candidate belongs to a pair of the audit, or to a new pair, whose picture the audit has never
seen. Nothing is trained, and only models that did not train on a pair are used: all of them for a
new pair. A candidate for a pair of the audit is compared with the pair's other captions and not
with other candidates; the captions of a new pair are compared with each other.

The audit fitted log-likelihood ratios (`errors/batch.py`): of fit_out against pictures with
another caption, of agreement and margin_out against decoys, of words against replaced ones.
How many captions of the batch are wrong is estimated from the batch (`batch_probabilities`), so the
audit's share does not matter. The captions of a new pair have all three ratios, as in the audit. A
candidate for a pair of the audit has the first one only if it has no siblings, or if the siblings
probably belong to another picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from scipy.special import expit

from clipmem_core.auditing.folder.jobs import Screen
from clipmem_core.auditing.folder.prepare import DataSet, faults_without_model, load_pictures
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
    text_blocks,
)
from clipmem_core.auditing.run.word_models import HALVES, RATIOS
from clipmem_core.auditing.tables.fault_tables import fault_cause
from clipmem_core.auditing.tables.scoring import TowerFit, fit_towers, open_audit_bridge
from clipmem_core.config import AuditConfig, SourceOptions, data_folder
from clipmem_core.dataset.checks import not_captions
from clipmem_core.dataset.containers import as_name, is_missing, normal_reference, tidy
from clipmem_core.dataset.languages import is_read
from clipmem_core.dataset.records import Row, Rows, in_image_folder, merge_rows
from clipmem_core.dataset.sentences import sentences_of
from clipmem_core.dataset.source import RawPairs, read_source
from clipmem_core.errors.batch import Fitted
from clipmem_core.errors.calibration import HALF
from clipmem_core.errors.misfit import HeldOut, fit_beside, nan_mean
from clipmem_core.features.cache import ReportCount
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.features.tower_by_language import languages_read
from clipmem_core.review import search
from clipmem_core.review.cards import REPLACES, WRONG_WORDS
from clipmem_core.review.queries import ROW, cached, fetch, fetch_by_id
from clipmem_core.scores.membership import draw_word_halves
from clipmem_core.scores.score_tables import captions_of_sentences
from clipmem_core.training.model import encode_image
from clipmem_core.training.word_model import CaptionWords, load_model, predicts
from clipmem_core.utils.columns import (
    AGREEMENT,
    CAPTION,
    CAPTIONS,
    FIT_OUT,
    IMAGE,
    LABEL,
    MARGIN_OUT,
    P_PAIR,
    P_WRONG,
    PAIR_ID,
    PARTS,
    REASON,
    SENTENCE,
    SHA256,
    SIMILARITY_OUT,
    SOURCE,
)
from clipmem_core.utils.embeddings import unit
from clipmem_core.utils.io import SUFFIXES, InputError, read_frame, read_json
from clipmem_core.utils.ragged import Ragged

# The pair of each candidate: of the audit by pair_id or image, unless the picture at hand is
# another one, else by the bytes of the picture; a new pair has the row −1. `same`: so many pairs
# have this key.
_FIND_PAIRS = f"""
    SELECT coalesce(found, -1) AS {ROW}, reason,
        coalesce(pair.pair_id, matched.pair_id, picture) AS pair_id,
        coalesce(pair.image, picture) AS image, coalesce(pair.captions, []) AS captions,
        coalesce(pair.sha256, at_hand) AS sha256
    FROM (
        SELECT requested.* EXCLUDE (reason),
            if(same = 1 OR at_hand IS NOT NULL, {ROW}, NULL) AS found, CASE
            WHEN caption IS NULL THEN 'caption is empty'
            WHEN found IS NOT NULL OR at_hand IS NOT NULL THEN NULL
            WHEN same > 1 THEN same || ' pairs of the audit have its image'
            WHEN requested.reason IS NULL OR NOT has_images
                THEN 'no pair of the audit has its pair_id or image'
            ELSE requested.reason END AS reason
        FROM requested LEFT JOIN (
            SELECT number, {ROW}, count(*) OVER (PARTITION BY number, key) AS same FROM (
                SELECT number, at_hand, sha256, {ROW}, 1 AS key
                FROM requested JOIN parquet ON requested.pair_id = parquet.pair_id
                UNION ALL
                SELECT number, at_hand, sha256, {ROW}, 2 AS key
                FROM requested JOIN parquet ON requested.image = parquet.image
                UNION ALL
                SELECT number, at_hand, sha256, {ROW}, 3 AS key
                FROM requested JOIN parquet ON requested.at_hand = parquet.sha256
            )
            WHERE at_hand IS NULL OR at_hand = sha256
            QUALIFY row_number() OVER (PARTITION BY number ORDER BY key, {ROW}) = 1
        ) USING (number)
    ) AS matched LEFT JOIN parquet AS pair ON pair.{ROW} = found ORDER BY number
"""
_PICTURE = "_picture"  # the picture of a candidate in its data set; None if it is not at hand
OWN = "own"  # column: the pair has this caption already
NEW = "new"  # column: the audit has never seen the pair
BEST = "best"  # column: of the pair's captions the least likely to be wrong
_COLUMNS = [SIMILARITY_OUT, MARGIN_OUT, AGREEMENT, *PARTS, P_WRONG]
_AT = "_at"  # number of a candidate
_PAIR = "_pair"  # number of a pair among those with candidates
_UNIT = "_unit"  # number of the new pair or candidate that a caption belongs to
_REPLACED = "_replaced"  # what a candidate replaces: a list of captions or sentences
_CURRENT = f"""
    SELECT {_PAIR}, pair_id, image, captions[caption + 1] AS caption, fit_out,
        {", ".join(_COLUMNS)}
    FROM parquet JOIN pairs USING (pair_id) ORDER BY {_PAIR}, parquet.caption
"""
_BLOCK = 512  # new pairs, or candidates, whose evidence is in memory at a time
_FEW = 2  # texts at most that are embedded one by one, as a page asks about them
_SHOWN = 10  # candidates of the printed table
_CUT = 60  # characters of a printed caption


@dataclass(frozen=True, eq=False)
class Candidates:
    """Captions to judge."""

    table: pd.DataFrame  # caption, pair_id or image, and why a caption cannot be judged
    pairs: pd.DataFrame  # the pair of each: its row (−1: new), pair_id, image, captions, sha256
    data_set: DataSet | None  # the pictures at hand, if any


def read_candidates(
    audit: Audit, source: str, options: SourceOptions, screen: Screen
) -> Candidates:
    """Read any source that an audit reads, or a table of captions for pairs of the audit."""
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        table = read_frame(path)
        if _has_candidates(table):
            return table_candidates(audit, table, options.image_folder, path, screen.pictures)
    raw = read_source(source, options, data=data_folder(), say=screen.say)
    table = raw.pairs.explode(CAPTIONS).rename(columns={CAPTIONS: CAPTION})
    table = table.dropna(axis=1, how="all").assign(**{_PICTURE: table[IMAGE]})
    refused = raw.quarantine[[SOURCE, PAIR_ID, REASON]].rename(columns={SOURCE: IMAGE})
    return _matched(audit, pd.concat([table, refused], ignore_index=True), raw, screen.pictures)


def _has_candidates(table: pd.DataFrame) -> bool:
    return CAPTION in table and (PAIR_ID in table or IMAGE in table)


def table_candidates(
    audit: Audit,
    table: pd.DataFrame,
    folder: str = "",
    file: Path = Path("candidates"),
    progress: ReportCount = lambda done, total: None,
) -> Candidates:
    """Return the captions of a table; pictures are looked for in a folder, or beside the file."""
    if not _has_candidates(table):
        raise InputError(
            f"the candidates have the columns {', '.join(map(str, table))}: name one caption, "
            "and one pair_id or image"
        )
    table = table.explode(CAPTION, ignore_index=True)
    listed = table.reindex(columns=[IMAGE, CAPTION, LABEL, PAIR_ID])
    rows = [Row(str(at), *cells) for at, *cells in listed.itertuples()]
    found = in_image_folder(Rows(file.parent, "table", rows), folder, file)
    rows = list(found.rows)
    raw = RawPairs(found.root.absolute(), "table", *merge_rows(replace(found, rows=rows)))
    reasons = _reasons(raw.quarantine)
    table[REASON] = [reasons.get(row.source) for row in rows]
    table[_PICTURE] = [
        None if row.source in reasons else normal_reference(row.image) for row in rows
    ]
    return _matched(audit, table, raw, progress)


def _reasons(quarantine: pd.DataFrame) -> dict[str, str]:
    return dict(zip(quarantine[SOURCE], quarantine[REASON], strict=True))


def _matched(audit: Audit, table: pd.DataFrame, raw: RawPairs, progress: ReportCount) -> Candidates:
    """Open the pictures, and find the pairs of the audit."""
    pictures = table.pop(_PICTURE)
    data_set = None
    sha256 = dict[Any, str]()
    if len(raw.pairs):
        config = replace(audit.record.config, captions=0, drop_near_duplicates=False)
        data_set = load_pictures(raw, config, progress=progress)
        sha256 = data_set.pairs.set_index(IMAGE)[SHA256].to_dict()
        broken = pictures.map(_reasons(data_set.quarantine)).astype(object)
        table[REASON] = broken.fillna(table[REASON])
    table[CAPTION] = ["" if is_missing(text) else tidy(str(text)) for text in table[CAPTION]]
    columns = table.reindex(columns=[PAIR_ID, IMAGE, CAPTION, REASON])
    texts = {name: pa.array(map(as_name, columns[name]), pa.string()) for name in columns}
    for name, values in (("picture", pictures), ("at_hand", pictures.map(sha256))):
        texts[name] = pa.array(values, pa.string(), from_pandas=True)
    facts = {"number": range(len(table)), "has_images": [IMAGE in table] * len(table)}
    requested = pa.table(texts | facts)
    pairs = fetch(audit.folder / PAIRS, _FIND_PAIRS, requested=requested).to_pandas()
    table[REASON] = pairs.pop(REASON)
    return Candidates(table, pairs, data_set)


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
    config = audit.record.config
    added = [OWN, NEW, BEST, *_COLUMNS]
    given = candidates.table.drop(columns=added, errors="ignore").assign(**{OWN: False})
    languages = languages_read(config)
    can_read = given[CAPTION].map(lambda text: is_read(text, languages)).astype(bool)
    unread = "the text tower does not read its language"
    given[REASON] = given[REASON].mask(given[REASON].isna() & ~can_read, unread)
    refused = given[REASON].notna()
    if refused.all():
        first = given[REASON].get(0, "there is none")
        raise InputError(f"no caption can be judged; the first: {first}")
    pairs = candidates.pairs[~refused]
    given[NEW] = (candidates.pairs[ROW] < 0) & ~refused
    if given[NEW].any() and (config.unlock or not config.lock_image):
        raise InputError(
            f"audit {audit.name!r} trains its image encoders and can judge captions of its own "
            "pairs alone: audit with --preset locked to judge new pairs"
        )
    new = given[~refused].assign(**pairs[[PAIR_ID, IMAGE]])
    new[_PAIR] = pairs.groupby([ROW, IMAGE], sort=False).ngroup()
    new = new.rename_axis(_AT).reset_index()
    pairs = pairs.drop_duplicates([ROW, IMAGE], ignore_index=True)
    if candidates.data_set is not None:  # cached here: blocks do not know the new folder
        _picture_features(audit, candidates.data_set.raw.root, pairs[pairs[ROW] < 0])
    current = _current_captions(audit, pairs)
    new[_UNIT] = np.where(new[NEW], -1 - new[_PAIR], np.arange(len(new)))
    replaced = new.get(REPLACES, [None] * len(new))
    new[_REPLACED] = [[text] if isinstance(text, str) else [] for text in replaced]
    judged = new.drop_duplicates([_UNIT, CAPTION]).sort_values(_UNIT, kind="stable")
    if audit.record.sentences:
        sentences = _sentences(judged)
        sentences[_REPLACED] = sentences[_REPLACED].map(sentences_of)
        scores = _judge_units(audit, fitted, pairs, _sentences(current), sentences, progress)
        scored = pd.DataFrame(scores, columns=_COLUMNS)
        scored[SENTENCE] = sentences[SENTENCE].to_numpy()
        judged[_COLUMNS] = captions_of_sentences(scored)[_COLUMNS].to_numpy()
    else:
        judged[_COLUMNS] = _judge_units(audit, fitted, pairs, current, judged, progress)
    new = new.merge(judged[[_UNIT, CAPTION, *_COLUMNS]], on=[_UNIT, CAPTION])
    table = pd.concat([current, new], ignore_index=True)
    # p_pair counts against a candidate as far as it does not fit the picture. So it does here
    # against the captions that the pair has.
    fit = expit(fitted.ratio_at("pairs", current[FIT_OUT].to_numpy()))
    wrong = table[P_WRONG].sub(current[P_PAIR] * (1 - fit), fill_value=0.0)
    table[BEST] = table.index.isin(wrong.dropna().groupby(table[_PAIR]).idxmin())
    not_judged = given[refused].assign(**{BEST: False})
    if all_captions:
        table = pd.concat([table.sort_values(_PAIR, kind="stable"), not_judged])
    else:
        table = pd.concat([table[len(current) :].set_index(_AT), not_judged]).sort_index()
    first = [PAIR_ID, IMAGE, CAPTION, *added, REASON]
    others = candidates.table.columns.difference(first, sort=False)
    return table[[*first, *others]].reset_index(drop=True)


def _sentences(captions: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each sentence of captions, with its number in the caption."""
    table = captions.copy()
    table[CAPTION] = [sentences_of([caption]) for caption in captions[CAPTION]]
    table[SENTENCE] = [range(len(part)) for part in table[CAPTION]]
    return table.explode([CAPTION, SENTENCE], ignore_index=True)


def _picture_features(audit: Audit, folder: Path, pairs: pd.DataFrame) -> Any:
    tower = search.towers_here(audit.record.config).image
    return FeatureExtractor(tower, folder).images(pairs)


def _text_features(config: AuditConfig, texts: Sequence[str]) -> Any:
    """Return the locked text tower's features of texts, float32 [n, width]; cached on disk if they
    are more than a few, which a person has just written."""
    if len(texts) <= _FEW:
        return np.concatenate([search.features_of_text(config, text) for text in texts])
    extractor = FeatureExtractor(search.towers_here(config).text)
    return extractor.captions(texts)[:].astype(np.float32)


def _current_captions(audit: Audit, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the captions that pairs have, their stored scores, and fit_out and the number of
    their pair."""
    stored = pairs[pairs[ROW] >= 0].drop(columns=ROW).rename_axis(_PAIR).reset_index()
    fit = fetch_by_id(audit.folder / SCORES, FIT_OUT, stored[PAIR_ID])
    stored[FIT_OUT] = stored[PAIR_ID].map(fit).astype(float)
    table = fetch(audit.folder / CAPTION_TABLE, _CURRENT, pairs=stored).to_pandas()
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
    # If all captions of a pair belong to another picture, they say nothing about a candidate.
    usable = current[~(current[P_PAIR] > HALF)]
    by_pair = usable.groupby(_PAIR)[CAPTION].agg(list).to_dict()
    by_unit = judged.groupby(_UNIT, sort=False)
    texts = by_unit[CAPTION].agg(list).tolist()
    numbers = by_unit[_PAIR].first().to_numpy()
    siblings = [
        [text for text in by_pair.get(at, []) if text not in (*own, *replaced)]
        for at, own, replaced in zip(numbers, texts, by_unit[_REPLACED].first(), strict=True)
    ]
    units = Ragged.of_lists(texts)
    blocks = []
    for at in range(0, len(units), _BLOCK):
        part = slice(at, at + _BLOCK)
        block = pairs.iloc[numbers[part]]
        blocks.append(_evidence(audit, fitted, block, texts[part], siblings[part]))
        progress(int(units.start[: part.stop + 1][-1]), len(judged))
    beside, agree, words, towers = np.split(np.concatenate(blocks), [3, 6, 7], axis=1)
    wrong = fitted.judge(
        units,
        beside,
        towers,
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
    siblings: Sequence[list[str]],
) -> np.ndarray:
    """Return similarity, margin and csls, agreement in two columns and how specific they are, the
    mean ratio of the words of captions, and how well captions fit by the towers, [n_captions, 7 +
    n_similarities]; NaN without evidence.

    Args:
        pairs: the pair of each unit, [n_units].
        texts: the captions of each unit, to judge.
        siblings: the other captions of each unit's pair.
    """
    units = Ragged.of_lists(texts)
    rows = pairs[ROW].to_numpy()
    is_new = rows < 0
    has_words = "words" in fitted.curves
    pictures: Any = None
    towers = _towers(audit)
    if has_words or is_new.any() or towers:
        pictures = _picture_features(audit, audit.record.pictures, pairs)
    agree = np.full((units.n_items, 3), np.nan)
    record = audit.record
    flat = record.embedded(chain.from_iterable(texts))
    config = record.config
    features: Any = None
    if fitted.ratio is not None or config.lock_text:
        features = _text_features(config, flat)
    if fitted.ratio is not None:
        own = np.split(features, units.start[1:-1])
        extractor = FeatureExtractor(search.towers_here(config).text)
        of_siblings = extractor.captions(record.embedded(chain.from_iterable(siblings)))[:]
        others = np.split(of_siblings, Ragged.of_lists(siblings).start[1:-1])
        compared = [np.vstack(both) for both in zip(own, others, strict=True)]
        of_compared = Ragged.of_lists(compared)
        judged = of_compared.first[units.owner] + units.number
        agree = fitted.agreement(np.concatenate(compared), of_compared, judged)
    words = [np.full(units.n_items, np.nan)]
    if has_words:
        half = np.where(is_new, 2, _word_halves(audit)[rows])
        for number, name in enumerate(HALVES):
            ratios = _word_model(audit, name).mean_ratios(texts, siblings, pictures[:])
            words.append(np.where(predicts(number, half)[units.owner], ratios, np.nan))
    in_out = search.read_in_out(audit)
    membership = in_out.membership
    beside = [np.full((units.n_items, 3), np.nan)]
    for name, trained in zip(membership.members, membership.trained, strict=True):
        has_trained = trained[rows] & ~is_new
        if has_trained.all():
            continue
        embeddings = read_embeddings(audit.member(name))
        image = unit(embeddings[0][np.maximum(rows, 0)])
        if is_new.any():
            model, _ = search.open_member(audit, name)
            with torch.inference_mode():
                new = torch.from_numpy(pictures[np.flatnonzero(is_new)]).float()
                image[is_new] = encode_image(model, new).numpy()
        text = search.embed_texts(audit, flat, name, features)
        held_out = HeldOut.of(*embeddings, in_out.held_out)
        values = fit_beside(text, units, image, rows, held_out)
        values[has_trained[units.owner]] = np.nan
        beside.append(values)
    columns = [nan_mean(beside), agree, nan_mean(words)]
    if towers:
        text = units.mean(unit(features))
        bridge = open_audit_bridge(config)
        both = bridge and bridge(pictures[:], text)
        own = np.maximum(rows, -1)
        values = towers.model.values(pictures[:], text, both, (own, own))
        columns.append(values[units.owner])
    return np.column_stack(columns)


@cached(2, SCORES)
def _towers(audit: Audit) -> TowerFit | None:
    texts = [part for block in text_blocks(audit) for part in block]
    return fit_towers(audit, Ragged.of_lists(texts))


@cached(2, MEMBERSHIP, CONFIG)
def _word_halves(audit: Audit) -> np.ndarray:
    """Return which word model was trained on each pair, 0 or 1, and −1 for held-out pairs,
    [n_pairs]."""
    group = search.read_in_out(audit).membership.group
    clusters = read_prepared(audit.folder).groups
    return draw_word_halves(group, clusters, seed=audit.record.config.seed)


@cached(4, f"{WORD_MODELS}/{RATIOS}")
def _word_model(audit: Audit, half: str) -> CaptionWords:
    folder = audit.folder / WORD_MODELS
    model = load_model(folder / f"{half}.pt")
    return CaptionWords(*model, list(map(np.array, read_json(folder / RATIOS))))


def _causes(candidates: Candidates) -> list[str]:
    """Return the probable causes of faults among new pairs: repeated captions and pictures, and
    text that is no caption."""
    data_set = candidates.data_set
    found = candidates.pairs
    shown = found[IMAGE][(found[ROW] < 0) & candidates.table[REASON].isna()]
    if data_set is None or shown.empty:
        return []
    chosen = data_set.pairs[IMAGE].isin(shown).to_numpy()
    pairs = data_set.pairs[chosen].reset_index(drop=True)
    return list(map(fault_cause, faults_without_model(pairs, data_set.clusters[chosen])))


@dataclass(frozen=True)
class Summary:
    """What a judgement found: the worst captions, sentences, and the shares of captions that are
    wrong and that were not judged."""

    worst: pd.DataFrame
    causes: list[str]  # of faults among new pairs, and why captions were not judged
    count: str
    numbers: str
    wrong: float
    not_judged: float

    def as_markdown(self) -> str:
        """Return the count, and the worst captions as a table of HTML, whose text is no markup."""
        cells = self.worst.replace(r"\s+", " ", regex=True)  # an empty line would end the HTML
        table = cells.to_html(index=False, float_format="{:.2f}".format)
        return f"{self.count}\n\n{table}\n"


def summarize(candidates: Candidates, table: pd.DataFrame) -> Summary:
    """Summarize a table of `judge_captions`."""
    judged = table[~table[OWN] & table[REASON].isna()]
    expected = judged[PARTS].sum()
    share = expected.sum() / max(judged[P_WRONG].count(), 1)
    worst = judged.nlargest(_SHOWN, P_WRONG)
    worst[CAPTION] = worst[CAPTION].str[:_CUT]
    worst["wrong"] = worst[PARTS].fillna(0.0).idxmax(axis=1).map(WRONG_WORDS)
    reasons = table[REASON].value_counts().items()
    parts = [f"{name} {expected[part]:,.1f}" for part, name in WRONG_WORDS.items()]
    line = f"About {expected.sum():,.0f} of {len(judged):,} captions are wrong ({share:.1%})"
    not_judged = [f"{count:,} not judged: {reason}" for reason, count in reasons]
    return Summary(
        worst[[PAIR_ID, CAPTION, P_WRONG, "wrong"]],
        [*_causes(candidates), *not_judged],
        f"{line}: {', '.join(parts)}.",
        f"candidates: {len(judged):,}; pairs: {judged[PAIR_ID].nunique():,}, "
        f"new: {judged[PAIR_ID][judged[NEW]].nunique():,}; "
        f"with a candidate as the best caption: {judged[BEST].sum():,}",
        float(share),
        float(table.loc[~table[OWN], REASON].notna().mean()),
    )
