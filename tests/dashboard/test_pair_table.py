from collections.abc import Callable

import pytest

from clipmem_core.audits.store import Audit
from clipmem_core.review.decisions import open_review
from tests.dashboard.test_browse import BROWSE, address, ids
from tests.dashboard.test_pages import open_page

Copy = Callable[..., Audit]


def test_the_table_shows_the_same_page(copy: Copy) -> None:
    audit = copy()
    open_review(audit).decide([ids(open_page(BROWSE))[1]], "keep")
    app = open_page(BROWSE, size="12", page="2")
    grid = ids(app)
    app.segmented_control(key="layout").select("table").run()
    assert address(app)["layout"] == "table"
    table = app.dataframe[0].value
    scores = audit.scores.set_index("pair_id").loc[grid]
    assert table["clipmem"].tolist() == pytest.approx(scores["clipmem"].tolist())
    assert table["picture"].str.startswith("data:image/jpeg;base64,").all()
    assert all(f"pair={pair.replace('/', '%2F')}" in link for pair, link in zip(grid, table["pair"], strict=True))
    assert not ids(app)
    first = open_page(BROWSE, size="12", layout="table").dataframe[0].value
    assert first["decision"].tolist() == ["", "keep", *[""] * 10]
    assert first["caption"][0].startswith("<script>document.title = 'taken'</script><b>bold")
    assert "\n" not in "".join(first["caption"])
    assert first["caption"].str.len().max() == 86
