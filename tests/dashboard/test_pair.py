import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from clipmem_core.audits.store import MEMBERSHIP, PAIRS, Audit, write_json, write_table
from clipmem_core.review import score_breakdown
from tests.dashboard.test_deciding import current, press
from tests.dashboard.test_pages import open_page, texts
from tests.fixtures import HOSTILE, Copy

PAIR = "pages/pair.py"
NAMES = {"ensemble": ["r0-f0", "r0-f1", "r1-f0", "r1-f1"]}
SEEN_BY_ALL = "every model saw this pair"


def true_membership(audit: Audit, names: list[str]) -> pd.DataFrame:
    """Who trains on what, as the protocol has it: f and g by group, otherwise the folds of each repeat by row."""
    table = audit.membership[["pair_id", "group"]]
    for name in names:
        learned = {"f": "candidate", "g": "independent"}.get(name[0])
        fold = (table["group"] == "scored") & (np.arange(len(table)) % 2 != int(name[-1]))
        table = table.assign(**{name: table["group"].isin(["shared", learned]) if learned else fold})
    return table


@pytest.fixture
def whole(copy: Copy) -> Callable[..., Audit]:
    """Copy a made audit and give its members embeddings of random directions; true membership of their protocol."""

    def made(protocol: str = "ensemble") -> Audit:
        audit = copy(protocol)
        rng = np.random.default_rng(0)
        names = NAMES.get(protocol, list(audit.record.members))
        write_json(audit.folder / "config.json", audit.record.values | {"members": names})
        for path in (audit.member(name) / f"{side}.npy" for name in names for side in ("image", "text")):
            path.parent.mkdir(parents=True, exist_ok=True)
            vectors = rng.normal(size=(len(audit.pairs), 8)).astype(np.float32)
            np.save(path, np.float32(0.9) * vectors / np.linalg.norm(vectors, axis=1)[:, None])
        write_table(audit.folder / MEMBERSHIP, true_membership(audit, names))
        return audit

    return made


def shown(app: AppTest) -> str:
    return " ".join(element.value for kind in ("markdown", "caption") for element in app.get(kind))


def subheaders(app: AppTest) -> list[str]:
    return [element.value for element in app.subheader]


def pair_of(audit: Audit, group: str) -> str:
    return audit.scores.query("group == @group")["pair_id"].iloc[-1]


@pytest.mark.parametrize("protocol", ["ensemble", "paper"])
def test_without_a_pair_the_likeliest_wrong_caption_opens(whole: Callable[..., Audit], protocol: str) -> None:
    audit = whole(protocol)
    app = open_page(PAIR, audit="made")
    wanted = audit.scores.sort_values("misfit", ascending=False)["pair_id"].iloc[0]
    assert app.query_params["pair"] == wanted
    assert f"id: {wanted}" in texts(app)
    assert f"1 of {audit.scores['misfit'].count()}" in shown(app)
    assert len(app.image) == 1 + 2 * 6
    assert not app.error
    assert not [text for text in texts(app) if "cannot be shown" in text]


@pytest.mark.parametrize(
    ("protocol", "group"), [("ensemble", "external"), ("paper", "shared"), ("paper", "independent")]
)
def test_a_pair_of_any_group_opens(whole: Callable[..., Audit], protocol: str, group: str) -> None:
    app = open_page(PAIR, audit="made", pair=pair_of(whole(protocol), group))
    assert not [text for text in texts(app) if "cannot be shown" in text]
    assert (SEEN_BY_ALL in shown(app)) == (group == "shared")


def test_a_link_opens_its_pair_with_all_that_is_known_of_it(
    whole: Callable[..., Audit], monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = whole()
    monkeypatch.setattr(score_breakdown, "LEAST", 0)
    monkeypatch.setattr(score_breakdown, "LEAD", 0)
    app = open_page(PAIR, audit="made", order="clipmem", pair="images/020.png")
    pair, score = audit.pairs.iloc[20], audit.scores.iloc[20]
    facts = {*pair["captions"], f"label: {pair['label']}", f"{pair['width']} × {pair['height']} pixels"}
    assert facts <= set(texts(app))
    assert f"{(audit.scores['clipmem'] > score['clipmem']).sum() + 1} of 100" in shown(app)
    assert "planted: miscaption" in " ".join(element.value for element in app.get("html"))
    means, members = (table.value for table in app.dataframe)
    assert means.loc["positive"].tolist()[:2] == pytest.approx([score["positive_in"], score["positive_out"]], abs=6e-4)
    assert members["member"].tolist() == list(audit.record.members)
    assert members["trained"].tolist() == audit.membership.loc[20, list(audit.record.members)].tolist()
    use = next(button for button in app.button if button.label == "Use")
    row, worst = int(use.key.split("-")[-1]), score_breakdown.suggested_captions(audit, 20).worst
    use.click().run()
    lines = app.text_area[0].value.split("\n")
    own, other = ([" ".join(caption.split()) for caption in audit.pairs["captions"][at]] for at in (20, row))
    assert lines[worst] in other
    assert [line for place, line in enumerate(lines) if place != worst] == [
        line for place, line in enumerate(own) if place != worst
    ]
    assert current(audit, "images/020.png") is None  # saved only when that is asked for


@pytest.mark.parametrize(
    ("members", "verdict", "around"),
    [
        (4, {"se_kind": "moderated", "external_sd": 0.31}, " ± 0.02"),
        (8, {"se_kind": "sd of external", "external_sd": 0.31}, " (noise 0.31)"),
    ],
)
def test_clipmem_stands_beside_what_it_may_be_off_by(
    copy: Copy, members: int, verdict: dict[str, object], around: str
) -> None:
    audit = copy()
    write_json(audit.folder / "verdict.json", verdict)
    names = [f"r{row // 2}-f{row % 2}" for row in range(members)]
    write_json(audit.folder / "config.json", audit.record.values | {"members": names})
    write_table(audit.folder / "scores.parquet", audit.scores.assign(clipmem=0.2, se=0.02))
    app = open_page(PAIR, audit="made", pair="images/020.png")
    (clipmem,) = [metric.value for metric in app.metric if metric.label == "clipmem"]
    assert clipmem == f"0.20{around}"


@pytest.mark.parametrize("row", [0, 1, 2, 6])
def test_hostile_captions_are_text(whole: Callable[..., Audit], row: int) -> None:
    whole()
    app = open_page(PAIR, audit="made", pair=f"images/{row:03d}.png")
    assert HOSTILE[row] in texts(app)
    parsed = [
        element.value for kind in ("markdown", "caption", "error", "warning", "info") for element in app.get(kind)
    ]
    parsed += [button.label for button in app.button]
    for word in ("script", "latex", "javascript:", "material/delete:", "struck", "# heading"):
        assert not [value for value in parsed if word in value]


def test_an_unknown_pair_is_one_line_and_a_way_back(copy: Copy) -> None:
    copy()
    for pair in ("../../etc/passwd", "[x](javascript:alert(1))", "' OR 1=1 --"):
        app = open_page(PAIR, audit="made", pair=pair)
        assert app.warning[0].value == "This audit has no such pair."
        assert f"requested: {pair}" in texts(app)
        assert not app.image
        assert not app.error
    assert open_page(PAIR, audit="made", group="candidate").info[0].value == "No pair fits this selection."


def test_previous_and_next_walk_in_the_order_of_the_selection(copy: Copy) -> None:
    audit = copy()
    wanted = audit.scores.dropna(subset="misfit").sort_values("misfit", ascending=False)["pair_id"].tolist()
    app = open_page(PAIR, audit="made", order="misfit")
    walked = [app.query_params["pair"]]
    for _ in range(3):
        press(app, "Next")
        walked.append(app.query_params["pair"])
    assert walked == wanted[:4]
    press(app, "Previous")
    assert app.query_params["pair"] == wanted[2]
    for pair, label in ((wanted[0], "Previous"), (wanted[-1], "Next")):
        app = open_page(PAIR, audit="made", order="misfit", pair=pair)
        assert [button.label for button in app.button if button.disabled] == [label]
    assert app.query_params["order"] == "misfit"


def test_a_picture_outside_the_data_set_is_not_shown(copy: Copy, tmp_path: Path) -> None:
    audit = copy()
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(Path(audit.record.root) / "images/000.png", tmp_path / "secret.png")
    write_json(audit.folder / "config.json", audit.record.values | {"root": str(root)})
    write_table(audit.folder / PAIRS, audit.pairs.assign(image="../secret.png"))
    app = open_page(PAIR, audit="made", pair="images/020.png")
    assert [text for text in texts(app) if text.startswith("Picture cannot be read") and "leaves" in text]
    assert "id: images/020.png" in texts(app)


def test_without_members_files_the_rest_is_shown_and_each_gap_is_one_line(whole: Callable[..., Audit]) -> None:
    audit = whole()
    shutil.rmtree(audit.folder / "members")
    app = open_page(PAIR, audit="made", pair="images/020.png")
    gaps = [text for text in texts(app) if "cannot be shown" in text]
    assert [gap.split(" cannot")[0] for gap in gaps] == [
        "Single members",
        "Suggestions",
        "Nearest pictures",
        "Nearest captions",
    ]
    assert all("run the audit again" in gap and str(audit.folder) in gap and "\n" not in gap for gap in gaps)
    assert "where the score comes from" in " ".join(subheaders(app)).lower()
    assert not app.error


def test_a_missing_index_is_told_where_its_neighbours_would_be(whole: Callable[..., Audit]) -> None:
    audit = whole()
    (audit.member("r0-f0") / "text.npy").unlink()
    app = open_page(PAIR, audit="made", pair="images/020.png")
    gaps = [text.split(" cannot")[0] for text in texts(app) if "cannot be shown" in text]
    assert "Nearest captions" in gaps
    assert "Nearest pictures" not in gaps
    app.selectbox(key="nearest_member").select("r1-f1").run()
    assert "Nearest captions" not in [text.split(" cannot")[0] for text in texts(app)]
