"""The requests of the pair component: their answers, and which requests are refused."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from clipmem_core.auditing.folder.store import Audit, write_json
from clipmem_core.dashboard.routes import PREFIX, routes
from clipmem_core.review import judge
from clipmem_core.review.decisions import decided, open_review
from clipmem_core.review.key_presses import MOST_EVENTS
from tests.fixtures import HOSTILE, embed, write_swaps

OWN = {"Origin": "http://testserver"}
CLIENT = "0123456789abcdef"


@pytest.fixture(scope="module")
def server() -> TestClient:
    return TestClient(Starlette(routes=routes()))


@pytest.fixture
def audit(copy: Callable[..., Audit]) -> Audit:
    audit = copy()
    embed(audit)
    return audit


def ask(server: TestClient, name: str, **parameters: object) -> Any:
    answer = server.get(f"/{PREFIX}/{name}", params={"audit": "made", **parameters})
    assert answer.status_code == 200, answer.text
    return answer.json()


def picture(server: TestClient, row: int, **size: int) -> tuple[Image.Image, dict[str, str]]:
    answer = server.get(f"/{PREFIX}/picture", params={"audit": "made", "row": row, **size})
    assert answer.status_code == 200
    return Image.open(io.BytesIO(answer.content)), answer.headers


def send(
    server: TestClient, *events: dict[str, object], headers: dict[str, str] = OWN, **others: object
) -> Any:
    batch = {"audit": "made", "client": CLIENT, "events": list(events), **others}
    return server.post(f"/{PREFIX}/events", headers=headers, content=json.dumps(batch))


def event(
    pair: dict[str, object], number: int, kind: str = "keep", **more: object
) -> dict[str, object]:
    return {
        "number": number,
        "kind": kind,
        "pair_id": pair["pair_id"],
        "caption_key": pair["caption_key"],
        **more,
    }


def test_the_queue_and_its_pairs_as_the_browser_asks_for_them(
    server: TestClient, audit: Audit
) -> None:
    queue = ask(server, "queue", order="misfit", pair=audit.pairs["pair_id"][20])
    assert (
        queue["rows"] == audit.scores["misfit"].dropna().sort_values(ascending=False).index.tolist()
    )
    assert (queue["entry"], queue["decided"], queue["first"]) == (0, {}, 20)
    assert ask(server, "queue", pair="absent")["first"] is None
    pairs = ask(server, "pairs", order="misfit", rows=f"{queue['rows'][0]},1,0")
    assert [pair["row"] for pair in pairs] == [queue["rows"][0], 1, 0]
    assert pairs[2]["captions"][0] == HOSTILE[0]
    assert pairs[0]["score"] == f"misfit {audit.scores['misfit'].max():.2f}"
    assert "injected" not in str(pairs)
    checked = ask(server, "queue", order="random")["rows"]
    assert (len(checked), len(set(checked) & set(queue["rows"]))) == (50, 50)
    assert "spot check" in ask(server, "pairs", order="random", rows=str(checked[0]))[0]["score"]
    ids = audit.pairs["pair_id"][checked]
    open_review(audit).decide(ids[:-1], "keep")
    assert ask(server, "queue", order="random")["rows"] == checked  # a reload stays in the batch
    open_review(audit).decide(ids, "keep")
    assert set(ask(server, "queue", order="random")["rows"]) == set(queue["rows"]) - set(checked)


def test_pictures_come_in_the_size_that_is_asked_for_and_a_grey_square_tells_why(
    server: TestClient, audit: Audit
) -> None:
    assert "X-Fault" not in picture(server, 3)[1]
    Image.new("RGB", (2500, 500)).save(f"{audit.record.root}/{audit.pairs['image'][5]}")
    assert max(picture(server, 5, small=1)[0].size) <= 320
    assert picture(server, 5, full=1)[0].size == (2500, 500)
    write_json(audit.folder / "config.json", audit.record.values | {"root": "/nowhere/\u4e2d"})
    image, headers = picture(server, 4)
    assert "004.png" in headers["X-Fault"]
    assert headers["Cache-Control"] == "no-store"
    assert image.getpixel((0, 0)) == (150, 150, 150)


def test_a_new_caption_is_right_if_it_is_probably_not_wrong(
    server: TestClient, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong, right in ((0.44, True), (0.56, False), (np.nan, True)):
        table = pd.DataFrame({"p_wrong": [wrong, 0.9]})
        monkeypatch.setattr(judge, "judge_captions", lambda *_, table=table, **__: table)
        assert ask(server, "judge", row=1, caption="a fox")["right"] is right


def test_events_are_stored_once_in_their_order_and_seen_by_others(
    server: TestClient, audit: Audit
) -> None:
    first, second, third = ask(server, "pairs", rows="20,21,22")
    batch = [
        event(first, 1),
        event(second, 2, "remove"),
        event(third, 3, "recaption", captions=["a crow"]),
    ]
    for _ in range(2):
        assert send(server, *batch).json() == {"stored": 3, "refused": {}}
    changes = ask(server, "changes", entry=0)
    assert changes["decided"] == {"20": "keep", "21": "remove", "22": "recaption"}
    assert changes["status"].startswith("3 checked, 2 wrong")
    assert ask(server, "pairs", rows=22)[0]["recaptioned"] == ["a crow"]
    assert len(open_review(audit).history()) == 3


def test_a_swap_is_stored_and_undone_as_one_and_refused_after_a_decision(
    server: TestClient, audit: Audit
) -> None:
    write_swaps(audit, {20: 21, 21: 20, 22: 20})
    one, other, third, fourth = ask(server, "pairs", rows="20,21,22,23")
    swap, single, none = one["swap"], third["swap"], fourth["swap"]
    assert (swap["row"], swap["mutual"], swap["captions"]) == (21, True, other["captions"])
    assert (single["pair_id"], single["mutual"], none) == (one["pair_id"], False, None)
    others = [[swap["pair_id"], swap["caption_key"]]]
    for _ in range(2):
        sent = send(server, event(one, 1, "swap", others=others)).json()
        assert sent == {"stored": 1, "refused": {}}
    swapped = [pair["recaptioned"] for pair in ask(server, "pairs", rows="20,21")]
    assert swapped == [other["captions"], one["captions"]]
    assert not decided(audit).neutral[[20, 21]].any()
    batch = [
        event(one, 2, "undo", undoes=[CLIENT, 1]),
        event(other, 3),
        event(one, 4, "swap", others=others),
        event(one, 5, "swap"),
    ]
    assert list(send(server, *batch).json()["refused"]) == ["4", "5"]
    assert ask(server, "changes", entry=0)["decided"] == {"20": None, "21": "keep"}


def test_another_site_stores_nothing(server: TestClient, audit: Audit) -> None:
    (pair,) = ask(server, "pairs", rows=20)
    others = ("http://testserver.evil.test", "http://testserver:81", "null", "")
    for origin in (*others, "//testserver", "ftp://testserver"):
        assert send(server, event(pair, 1), headers={"Origin": origin}).status_code == 403
    with_tls = TestClient(server.app, base_url="https://testserver")
    assert send(with_tls, event(pair, 1)).status_code == 403
    assert not open_review(audit).path.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"events": []},
        {"events": [{"number": 0, "kind": "keep"}]},
        {"events": [{"number": n, "kind": "keep"} for n in range(1, MOST_EVENTS + 2)]},
        {"client": "'; DROP TABLE event"},
    ],
)
def test_what_is_no_batch_is_refused_in_one_line(
    server: TestClient, audit: Audit, wrong: dict[str, object]
) -> None:
    (pair,) = ask(server, "pairs", rows=20)
    refused = send(server, event(pair, 1), **wrong)
    assert refused.status_code == 400
    assert "\n" not in refused.json()["error"]
    assert not open_review(audit).path.exists()


def test_audits_rows_and_entries_that_cannot_be_are_refused(
    server: TestClient, audit: Audit
) -> None:
    (pair,) = ask(server, "pairs", rows=20)
    for name in ("absent", "../made", ""):
        assert send(server, event(pair, 1), audit=name).status_code == 404
        assert server.get(f"/{PREFIX}/queue", params={"audit": name}).status_code == 404
    for value in ("", "-1", "x", "²"):
        parameters = {"audit": "made", "rows": value}
        assert server.get(f"/{PREFIX}/pairs", params=parameters).status_code == 400
    refused = server.get(f"/{PREFIX}/picture", params={"audit": "made", "row": 999_999})
    assert refused.status_code == 404


def test_a_broken_log_is_told_in_one_line_and_the_browser_tries_again(
    server: TestClient, audit: Audit
) -> None:
    (pair,) = ask(server, "pairs", rows=20)
    path = open_review(audit).path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not a log" * 1000)
    refused = send(server, event(pair, 1))
    assert refused.status_code == 503
    assert str(path) in refused.json()["error"]
    assert "\n" not in refused.json()["error"]
