"""A set of web-like pairs with every fault that people find in crawled and machine-captioned data,
and the row of each: `python -m tests.bench.web_like SOURCE FOLDER` writes it from pictures and
captions of any source, for instance `scenes`, and `... check NAME FOLDER` compares an audit of it
with what was planted.
"""

import shutil
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from clipmem_core import open_audit
from clipmem_core.config import SourceOptions, data_folder
from clipmem_core.dataset.containers import read_bytes
from clipmem_core.dataset.source import read_source
from clipmem_core.review.cards import LIKELY, explain_captions
from clipmem_core.review.decisions import RECAPTION, REMOVE, open_review
from clipmem_core.review.progress_and_repair import decide_incidents, incident_states
from clipmem_core.utils import columns as c
from clipmem_core.utils import draws
from clipmem_core.utils.io import InputError

PAIRS = 3_000
SERVICE = (
    *("I'm unable to help with identifying the contents of this picture.", "Image unavailable"),
    *("I apologize, but there is no image for me to describe.", "ERR_CONNECTION_TIMED_OUT"),
    *("As a large language model, I cannot look at pictures.", "Content blocked by safety filter"),
    *("I can't provide a caption for this content.", '{"detail": "Not Found"}', "null", "N/A"),
    *("The request could not be completed. Please try again later.", "message is empty"),
    *("<html><body><h1>503 Service Unavailable</h1></body></html>", "no image provided"),
    *("Error 500: internal server error", "ValueError: cannot identify image file", "<caption>"),
    *(
        "Write a one-sentence caption for the image below.",
        "{image_caption}",
        "Rate limit hit (429)",
    ),
)
FILE_NAMES = ("IMG_{:04d}.jpg", "DSC{:05d}", "photo-{:d}.png", "untitled-{:d}.jpeg", "p{:07d}")
GIBBERISH = (
    "CafÃ© dâ€™Ã©tÃ© Ã  la plage",
    "xqzkvbnm wrtplkjhg",
    "â€œMÃ¼nchenâ€ schÃ¶n",
    "a1b2c3d4e5 f6g7h8i9",
)
MARKUP = ('<div class="alt">{}</div>', "<p>{}</p>", "[[{}]]", '<img alt="{}" src="x.jpg"/>')
VAGUE = ("Look at this!", "so beautiful", "what a day", "photo of the day", "you will love it")
TEXTS = {
    "file_name": FILE_NAMES,
    "service": SERVICE,
    "gibberish": GIBBERISH,
    "markup": MARKUP,
    "vague": VAGUE,
}
# Planted kinds and their numbers of pairs
KINDS = {
    "placeholder": 90,
    "file_name": 60,
    "service": 60,
    "gibberish": 40,
    "markup": 40,
    "vague": 60,
    "all_wrong": 150,
    "one_wrong": 90,
    "shift": 60,
}
# Errors that the source itself has, as the synthetic set does
OWN_ERRORS = {c.MISCAPTION: "all_wrong", c.VAGUE: "vague"}


def write(source: str, folder: Path) -> None:
    """Write the pictures, captions.csv and truth.csv."""
    options = SourceOptions(scenes_pairs=PAIRS)
    raw = read_source(source, options, data=data_folder())
    pairs = raw.pairs.head(PAIRS).reset_index(drop=True)
    several = pairs[c.CAPTIONS].map(len).max() > 1
    captions = [list(texts) for texts in pairs[c.CAPTIONS]]
    n = len(pairs)
    sizes = {kind: round(size * n / PAIRS) for kind, size in KINDS.items()}
    if not several:
        sizes["one_wrong"] = 0
    rng = draws.rng(0, "web-like")
    start = n // 2
    shifted = np.arange(start, start + sizes.pop("shift"))
    injected = pairs.get(c.INJECTED, pd.Series([None] * n)).map(OWN_ERRORS).to_numpy(object)
    truth = np.where(pd.isna(injected), "", injected)
    shifted = shifted[truth[shifted] == ""]
    free = rng.permutation(np.setdiff1d(np.flatnonzero(truth == ""), shifted))
    truth[shifted] = "shift"
    for row in shifted[::-1]:
        captions[row] = list(pairs[c.CAPTIONS][row - 1])
    for kind, size in sizes.items():
        rows, free = free[:size], free[size:]
        truth[rows] = kind
        sources = np.roll(rows, 1)
        for number, (row, source_row) in enumerate(
            zip(rows.tolist(), sources.tolist(), strict=True)
        ):
            first = captions[row][0]
            if kind in TEXTS:
                text = TEXTS[kind][number % len(TEXTS[kind])]
                if kind == "file_name":
                    text = text.format(int(rng.integers(9_999)))
                texts = [text.format(first) if kind == "markup" else text]
            elif kind == "all_wrong":
                texts = list(pairs[c.CAPTIONS][source_row])
            elif kind == "one_wrong":
                texts = [pairs[c.CAPTIONS][source_row][0], *captions[row][1:]]
            else:
                texts = captions[row]
            captions[row] = texts
    (folder / "images").mkdir(parents=True)
    placeholder = Image.new("RGB", (320, 240), (225, 225, 225))
    ImageDraw.Draw(placeholder).text((90, 110), "image not available", fill=(90, 90, 90))
    rows = []
    for row, image in enumerate(pairs[c.IMAGE]):
        path = folder / "images" / f"{row:05d}.jpg"
        if truth[row] == "placeholder":
            placeholder.save(path, quality=90)
        else:
            path.write_bytes(read_bytes(raw.root, image))
        rows += [(f"images/{path.name}", text) for text in captions[row]]
    pd.DataFrame(rows, columns=["filepath", "title"]).to_csv(folder / "captions.csv", index=False)
    pd.DataFrame({c.IMAGE: [f"images/{row:05d}.jpg" for row in range(n)], "kind": truth}).to_csv(
        folder / "truth.csv", index=False
    )


# What a reason says, by planted kind
SAID = {
    "placeholder": ("placeholder",),
    "file_name": ("file name",),
    "service": ("captioning service",),
    "gibberish": ("Gibberish",),
    "markup": ("Markup",),
    "vague": ("Says nothing",),
    "all_wrong": ("belong to another picture", "belongs to another picture"),
    "one_wrong": ("This caption probably belongs",),
    "shift": ("belong to another picture", "belongs to another picture"),
}


def check(name: str, folder: Path) -> None:
    """Print the count, Σ p_wrong, each fault's decision, and the reasons of the first 200."""
    audit = open_audit(name)
    truth = audit.pairs[[c.PAIR_ID, c.IMAGE]].merge(pd.read_csv(folder / "truth.csv"), how="left")
    kind = truth["kind"].fillna("").to_numpy(object)
    scores = audit.scores
    wrong = audit.verdict["wrong_captions"]["all"]
    total = scores[c.P_WRONG].sum()
    print(f"planted {(kind != '').sum():,}; count {wrong}; sum of p_wrong {total:,.0f}")
    table = scores.assign(kind=kind).groupby("kind")[[c.P_WRONG, *c.PARTS]].mean().round(3)
    table.insert(0, "pairs", pd.Series(kind).value_counts())
    print(table.to_string())
    print(incident_states(audit)[["kind", "pairs", "to_repair", "undecided", "cause"]].to_string())
    rows = scores[c.SUSPICION].nlargest(200).index
    reasons = explain_captions(audit, truth[c.PAIR_ID].iloc[rows].tolist())
    right = []
    for row in rows.tolist():
        about = reasons[truth[c.PAIR_ID][row]]
        said = " ".join(about.reasons.values())
        right.append(any(word in said for word in SAID.get(kind[row], ("",))) and kind[row] != "")
        if not right[-1]:
            print(
                "  ",
                row,
                kind[row] or "right",
                "|",
                said[:90],
                "|",
                audit.pairs[c.CAPTIONS][row][0][:60],
            )
    print(f"reason equals the planted kind: {sum(right)} of {len(right)}")


def follow(name: str, folder: Path) -> None:
    """Follow the main action of every fault and of the pairs that are probably wrong, as Review
    offers it, and count the wrong captions that an export would have. Changes the decisions."""
    audit = open_audit(name)
    states = incident_states(audit)
    for state in states[states["is_open"]].itertuples():
        for action in ("repair", "remove"):
            if action == "remove" or state.to_repair:
                with suppress(InputError):  # a repair may leave nothing
                    print(
                        state.kind,
                        action,
                        decide_incidents(audit, [int(str(state.Index))], action).pairs,
                    )
    pairs = audit.pairs.set_index(c.PAIR_ID)
    likely = audit.scores.loc[audit.scores[c.P_WRONG] >= LIKELY, c.PAIR_ID].tolist()
    review = open_review(audit)
    open_ones = [each for each in review.decisions(likely).values() if not each.decision]
    explained = explain_captions(audit, [each.pair_id for each in open_ones])
    for each in open_ones:
        texts = list(pairs.loc[each.pair_id, c.CAPTIONS])
        about = explained[each.pair_id]
        left = [text for number, text in enumerate(texts) if number not in about.wrong]
        if about.whole or not left:
            review.decide([each.pair_id], REMOVE, audit=name)
        elif len(left) < len(texts):
            review.decide([each.pair_id], RECAPTION, captions=left, audit=name)
    truth = pd.read_csv(folder / "truth.csv", keep_default_na=False).set_index(c.IMAGE)["kind"]
    kinds = truth.loc[pairs[c.IMAGE]].to_numpy(object)
    now = review.decisions(pairs.index)
    kept = [now[pair_id].decision != REMOVE for pair_id in pairs.index]
    same = [not now[pair_id].captions for pair_id in pairs.index]
    left = pd.DataFrame({"kind": kinds, "planted": 1, "left": np.array(kept) & np.array(same)})
    print(left[left["kind"] != ""].groupby("kind")[["planted", "left"]].sum().to_string())
    lost = int((~np.array(kept) & (kinds == "")).sum())
    print(f"right pairs removed: {lost} of {(kinds == '').sum():,}")


if __name__ == "__main__":
    command, first, second = sys.argv[1:] if len(sys.argv) == 4 else ("write", *sys.argv[1:])
    folder = Path(second)
    if command == "write":
        shutil.rmtree(folder, ignore_errors=True)
        write(first, folder)
    else:
        {"check": check, "follow": follow}[command](first, folder)
