"""One caption of several removed or edited: every export has the pair with the captions that are left."""

import json
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.audit.store import CAPTION_TABLE, PAIRS, Audit, write_table
from clipmem_core.export import write
from clipmem_core.review.bulk_edit import preview, store_changes
from clipmem_core.review.decisions import Edit, open_review
from tests.fixtures import Copy

REMOVED, EDITED, BULK = "images/020.png", "images/021.png", "images/022.png"


@pytest.fixture
def audit(copy: Copy) -> Audit:
    made = copy()
    pairs = made.pairs.set_index("pair_id", drop=False)
    for pair_id in (REMOVED, EDITED, BULK):
        pairs.at[pair_id, "captions"] = ["a frog", "a toad", "a newt in a pond"]
        pairs.at[pair_id, "injected"] = None
    write_table(made.folder / PAIRS, pairs)
    rows = [(pair_id, place, place / 4, -place / 4) for pair_id in (REMOVED, EDITED) for place in range(3)]
    scores = pd.DataFrame(rows, columns=["pair_id", "caption", "similarity_out", "misfit"])
    scores.loc[0, "misfit"] = float("nan")
    write_table(made.folder / CAPTION_TABLE, scores)
    review = open_review(made)
    review.edit({REMOVED: Edit(("a frog", "a newt in a pond"), 0)})
    review.edit({EDITED: Edit(("a frog", "a treefrog", "a newt in a pond"), 0)})
    store_changes(made, preview(made, [BULK], "a ", "one "))
    return made


NOW = {
    REMOVED: ["a frog", "a newt in a pond"],
    EDITED: ["a frog", "a treefrog", "a newt in a pond"],
    BULK: ["one frog", "one toad", "one newt in one pond"],
}


@pytest.mark.parametrize("name", ["decisions.csv", "decisions.parquet"])
def test_decisions_have_old_and_new_captions_and_the_scores_of_each(audit: Audit, tmp_path: Path, name: str) -> None:
    write(audit, "decisions", tmp_path / name)
    path = tmp_path / name
    table = (pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)).set_index("pair_id")

    def listed(pair_id: str, column: str) -> list[object] | None:
        value = table.at[pair_id, column]
        if not isinstance(value, str):
            return None if value is None or isinstance(value, float) else [None if v != v else v for v in value]
        return json.loads(value)

    for pair_id, captions in NOW.items():
        assert listed(pair_id, "captions") == captions
        assert listed(pair_id, "own_captions") == ["a frog", "a toad", "a newt in a pond"]
    assert listed(REMOVED, "caption_similarity_out") == [0, 0.25, 0.5]
    assert listed(REMOVED, "caption_misfit") == [None, -0.25, -0.5]
    assert listed(BULK, "caption_misfit") is None
