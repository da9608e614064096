"""An audit of long captions: its sentences, what is computed of them, and what it leaves as it
is."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from clipmem_core.auditing.folder.store import (
    CAPTION_TABLE,
    SENTENCE_TABLE,
    WORD_TABLE,
    Audit,
    read_table,
)
from clipmem_core.dataset.sentences import sentences_of
from clipmem_core.review.judge import judge_captions, table_candidates
from clipmem_core.utils import columns as c


def test_each_sentence_is_a_row_with_its_place(long: Audit) -> None:
    table = read_table(long.folder / SENTENCE_TABLE)
    captions = long.pairs.set_index(c.PAIR_ID)[c.CAPTIONS]
    assert table.groupby(c.PAIR_ID).size().eq(5).all()
    for row in table.sample(40, random_state=0).to_dict("records"):
        text = captions[row[c.PAIR_ID]][row[c.CAPTION]][row[c.START] : row[c.END]]
        assert text.endswith(".")
        assert text.count(".") == 1
    words = read_table(long.folder / WORD_TABLE).sample(40, random_state=0)
    for word in words.to_dict("records"):
        caption = captions[word[c.PAIR_ID]][word[c.CAPTION]]
        assert caption[word[c.START] :].startswith(word[c.WORD])


def test_a_caption_is_wrong_if_one_of_its_sentences_is(long: Audit) -> None:
    sentences = read_table(long.folder / SENTENCE_TABLE)
    captions = read_table(long.folder / CAPTION_TABLE).set_index([c.PAIR_ID, c.CAPTION])
    assert len(captions) == 2 * 330
    for key, part in sentences.groupby([c.PAIR_ID, c.CAPTION]):
        p_pair = part[c.P_PAIR].iloc[0]
        right = 1 - p_pair
        for p_wrong in part[c.P_WRONG]:
            right *= (1 - p_wrong) / (1 - p_pair)
        np.testing.assert_allclose(captions.loc[key, c.P_WRONG], 1 - right, atol=1e-9)
    parts = captions[c.PARTS].sum(axis=1)
    np.testing.assert_allclose(parts, captions[c.P_WRONG], atol=1e-9)
    assert long.verdict["part"] == "sentence"


def test_a_long_caption_is_judged_by_its_sentences(
    long: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(long.folder.parents[1]))
    captions = [each[0] for each in long.pairs[c.CAPTIONS]]
    rows = np.arange(0, 320, 2)
    mixed = []
    for row in rows:
        first, _, last = sentences_of([captions[row]])
        mixed.append(f"{first} {sentences_of([captions[row + 1]])[1]} {last}")
    right = [captions[row] for row in rows]
    table = pd.DataFrame({c.PAIR_ID: [*long.pairs[c.PAIR_ID][rows]] * 2, "replaces": right * 2})
    table["caption"] = [*right, *mixed]
    judged = judge_captions(long, table_candidates(long, table), all_captions=False)
    is_wrong = np.repeat([False, True], len(rows))
    assert judged["caption"].tolist() == table["caption"].tolist()
    assert roc_auc_score(is_wrong, judged[c.P_WRONG]) > 0.75
    np.testing.assert_allclose(judged[c.PARTS].sum(axis=1), judged[c.P_WRONG], atol=1e-9)
