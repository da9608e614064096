import html
import re
from collections.abc import Callable
from pathlib import Path

from clipmem_core.audits.store import Audit, write_json
from clipmem_core.dashboard.cards import card_html
from clipmem_core.dashboard.numbers import Noise
from clipmem_core.review.cards import PairCard
from tests.dashboard.test_browse import BROWSE, card_texts
from tests.dashboard.test_pages import open_page, texts
from tests.made_audit import HOSTILE

Copy = Callable[..., Audit]


def test_captions_appear_as_they_are_and_only_as_text(copy: Copy) -> None:
    copy()
    app = open_page(BROWSE, size="12")
    shown = " ".join(card_texts(app))
    for caption in HOSTILE[:4] + HOSTILE[5:8]:
        assert f"<bdi>{html.escape(caption)}</bdi>" in shown
    assert "x" * 160 + "…" in shown
    assert "x" * 700 in shown
    tags = set(re.findall(r"<(\w+)", shown))
    assert tags == {"div", "span", "bdi", "details", "summary", "p"}
    parsed = [element.value for kind in ("markdown", "caption", "error", "info") for element in app.get(kind)]
    for word in ("script", "latex", "javascript:", "material/delete", "struck", "# heading"):
        assert not [value for value in parsed if word in value]


def test_what_others_wrote_is_escaped_wherever_a_card_shows_it() -> None:
    text = '<b onclick="x">&'
    card = PairCard(0, text, text, (text,), text, text, text, {"clipmem": None})
    drawn = card_html(card, Noise(), order="clipmem")
    assert "<b " not in drawn
    assert drawn.count(html.escape(text)) == 6  # caption twice, label, id, group, planted
    assert card_html(PairCard(0, "", "", (), None, None, "", {}), Noise(), order="se")


def test_missing_pictures_leave_a_placeholder(copy: Copy, tmp_path: Path) -> None:
    audit = copy()
    write_json(audit.folder / "config.json", audit.record.values | {"root": str(tmp_path / "gone")})
    app = open_page(BROWSE)
    assert len(app.image) == 24
    assert len([text for text in texts(app) if text.startswith("Picture cannot be read")]) == 24
