"""Audits of captions with a trigger word, and of lists of tags."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipmem_core.auditing.folder import prepare
from clipmem_core.auditing.folder.settings import towers_of
from clipmem_core.auditing.folder.store import WORD_TABLE, Audit, read_table
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.dataset.scenes import draw_scenes
from clipmem_core.features.embed import FeatureExtractor
from clipmem_core.review.judge import judge_captions, table_candidates
from tests.audit.small import Silent, config_of
from tests.audit.test_locked import flags


def audit_of(folder: Path, start: str, captions: list[list[str]] | None = None) -> Audit:
    """Audit drawn pictures with other captions, by default their own after a trigger word."""
    draw_scenes(folder, pairs=220, seed=0)
    file = folder / "captions.jsonl"
    rows = list(map(json.loads, file.read_text().splitlines()))
    for number, row in enumerate(rows):
        texts = captions[number] if captions else [f"sks, {text}" for text in row["captions"]]
        row["captions"] = texts
    file.write_text("\n".join(map(json.dumps, rows)))
    return run_audit(
        str(file), config_of(flags(start, "--members", "4")), name="a", screen=Silent()
    )


def test_a_trigger_word_is_neither_embedded_nor_predicted(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "data"))
    audit = audit_of(tmp_path / "set", start)
    record = audit.record
    assert (record.trigger_words, record.tag_lists) == (("sks",), False)
    texts = [text for texts in audit.pairs["captions"] for text in texts]
    only_grammar = "sks, There is something to see here."  # it stays as it is
    texts = [text if text == only_grammar else text.removeprefix("sks, ") for text in texts]
    expected = FeatureExtractor(towers_of(record.config).text).captions(texts)[:]
    np.testing.assert_array_equal(prepare.caption_features(audit)[:], expected)
    assert "sks" not in set(read_table(audit.folder / WORD_TABLE)["word"])
    table = pd.DataFrame({"pair_id": audit.pairs["pair_id"][:20]})
    with_word = table.assign(caption=[texts[0] for texts in audit.pairs["captions"][1:21]])
    without = with_word.assign(caption=with_word["caption"].str.removeprefix("sks, "))
    judged = [
        judge_captions(audit, table_candidates(audit, each), all_captions=False)
        for each in (with_word, without)
    ]
    for score in ("similarity_out", "margin_out"):
        np.testing.assert_allclose(judged[0][score], judged[1][score], atol=1e-5)


def test_a_tag_is_one_word(start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    tags = ["red hair", "blue hair", "long dress", "looking at viewer", "sky", "tree", "solo"]
    captions = [[f"1girl, {', '.join(rng.choice(tags, 2, replace=False))}"] for _ in range(220)]
    audit = audit_of(tmp_path / "set", start, captions)
    assert (audit.record.trigger_words, audit.record.tag_lists) == (("1girl",), True)
    words = read_table(audit.folder / WORD_TABLE)
    assert set(words["word"]) == set(tags)
    texts = audit.pairs.set_index("pair_id")["captions"]
    for row in words.itertuples():
        assert texts[row.pair_id][row.caption][row.start :].startswith(row.word)
