"""An audit of long captions: its sentences, what is computed of them, and what it leaves as it
is."""

import numpy as np

from clipmem_core import columns as c
from clipmem_core.audit.store import CAPTION_TABLE, SENTENCE_TABLE, WORD_TABLE, Audit, read_table
from clipmem_core.audit.verdict import summary_lines


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
    parts = captions[[c.P_PAIR, c.P_CAPTION, c.P_WORD]].sum(axis=1)
    np.testing.assert_allclose(parts, captions[c.P_WRONG], atol=1e-9)
    assert "one sentence" in summary_lines(long.verdict)[0]
