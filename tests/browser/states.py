"""Audits in every state that a page meets, and their pages."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from clipmem_core.auditing.folder import store
from clipmem_core.auditing.folder.store import Audit, write_json
from clipmem_core.cli import main
from clipmem_core.dashboard.page import PAGES
from tests.audit.test_precomputed import FLAGS, two_parts
from tests.dashboard.test_pages import unfinished
from tests.fixtures import embed, make_audit, make_benchmark, rewrite, write_incidents, write_words
from tests.made_encoders import make_units
from tests.made_settings import add_setting, make_lab

NAMES = {Path(path).stem: title for path, (title, *_) in PAGES.items()}
FEW = ["overview", "compare", "audits"]  # the other pages are the same without a finished audit
FIGURES = ["overview", "pair", "encoders", "mitigations"]
# tests/dashboard has every page in each of these states, but draws neither figures nor late parts
STATES = {
    **dict.fromkeys(["hostile", "locked"], [*NAMES]),
    **dict.fromkeys(["paper", "precomputed", "one", "empty"], FIGURES),
    "long": ["review", "pair"],
    "unfinished": FEW[:1],
    "broken": FEW,
}


def make_states(data: Path, typed: Path, long: Audit) -> None:
    """Make an audit in each state: that of locked towers is copied, that of precomputed features
    trained, the others are made up."""
    made = {name: make_audit(data, name) for name in ("one", "empty", "unfinished", "broken")}
    hostile = make_lab(make_audit(data, "hostile"))
    paper = make_audit(data, "paper", protocol="paper")
    for audit in (paper, made["one"], made["empty"]):
        embed(audit)
    write_words(hostile)
    write_incidents(hostile)
    for text, members in (("text_noise=0.15", 2), ("crop_scale=0.3", 4)):
        add_setting(hostile, text, times=0.5, members=members)
    make_units(paper)
    make_benchmark("made", root=paper.record.root, fingerprint=paper.record.dataset_fingerprint)
    for folder in ("audits", "cache", "sets"):
        shutil.copytree(typed / folder, data / folder, dirs_exist_ok=True)
        shutil.copytree(long.folder.parents[1] / folder, data / folder, dirs_exist_ok=True)
    (data / "audits" / "scenes").rename(data / "audits" / "locked")
    (features := data / "sets" / "features").mkdir(parents=True)
    assert main(["audit", two_parts(features), "--name", "precomputed", *FLAGS]) == 0
    record = made["one"].record
    first, *others = record.members
    config = dataclasses.replace(record, members=(first,)).values
    write_json(made["one"].folder / store.CONFIG, config)
    rewrite(made["one"].folder / store.MEMBERSHIP, made["one"].membership.drop(columns=others))
    for file in (store.SCORES, store.MEMBERSHIP):  # neither a score nor a held-out pair
        table = store.read_table(made["empty"].folder / file)
        missing = dict.fromkeys(table.select_dtypes("float"), np.nan)
        rewrite(made["empty"].folder / file, table.assign(**missing, group="shared"))
    unfinished(made["unfinished"])
    (made["broken"].folder / store.CONFIG).write_bytes(b"\x00")
