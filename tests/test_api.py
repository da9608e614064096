"""The Python interface: its examples, on an audit of the synthetic set, and audits of data in
memory."""

import doctest
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest

import clipmem_core
from clipmem_core import open_audit
from clipmem_core.api import frames
from clipmem_core.cli import main
from clipmem_core.utils.io import InputError
from tests.audit.small import ROOT


def test_the_examples_run(typed: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(typed, data, dirs_exist_ok=True)
    names = {"audit": open_audit("scenes")}
    undocumented = [
        name
        for name, value in vars(frames.AuditFrames).items()
        if not name.startswith("_") and "Example:" not in (value.__doc__ or "")
    ]
    assert undocumented == []
    result = doctest.testmod(frames, extraglobs=names)
    assert result.failed == 0
    assert result.attempted > 15


SCRIPT = """
import numpy as np
from PIL import Image
import clipmem_core as cm

noise = np.random.default_rng(0).integers(0, 255, (240, 64, 64, 3), dtype=np.uint8)
pairs = [(Image.fromarray(each), f"<b>{n % 7} dogs</b> in {n}") for n, each in enumerate(noise)]
audit = cm.audit(pairs, members=8, epochs=1, device="cpu")
print(audit.folder, len(audit.table()))
shown = audit._repr_html_()
print(shown.count("data:image/jpeg"), "<b>1 dogs" in shown)
"""


def test_a_script_without_a_main_guard_audits_pictures_in_memory(
    data: Path, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    audited, shown = done.stdout.splitlines()[-2:]
    assert audited.startswith(f"{tmp_path}/clipmem-")
    assert audited.endswith("audit 240")
    assert shown == "6 False"
    assert not (data / "audits").exists()


def test_tables_and_data_sets_are_audited(
    typed: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(typed / "cache", data / "cache")
    pictures = next((typed / "sets").glob("scenes*")) / "images"
    paths = sorted(map(str, pictures.iterdir()))[:220]
    captions = [f"a caption of {n}" for n in range(220)]
    few = {"members": 4, "folds": 4, "epochs": 1, "threads": 1}
    listed = clipmem_core.audit(zip(paths, captions, strict=True), "listed", **few)
    assert listed.table()["filepath"].tolist() == paths
    monkeypatch.chdir(pictures)
    table = pd.DataFrame({"image": map(os.path.basename, paths), "caption": captions})
    framed = clipmem_core.audit(table, "framed", **few)
    pictured = datasets.Dataset.from_dict({"image": paths, "text": captions})
    pictured = pictured.cast_column("image", datasets.Image())
    loaded = clipmem_core.audit(pictured, "loaded", **few)
    for audit in (framed, loaded):
        assert audit.pairs["sha256"].tolist() == listed.pairs["sha256"].tolist()
        assert [own[0] for own in audit.pairs["captions"]] == captions
    with pytest.raises(InputError, match="'epoch' is unknown; did you mean 'epochs'"):
        clipmem_core.audit(table, "other", epoch=1)
    with pytest.raises(InputError, match="item 1 has 3 parts"):
        clipmem_core.audit([("a.png", "a"), ("a.png", "b", "c")])


def test_a_gate_writes_a_summary_in_markdown(typed: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(typed, data, dirs_exist_ok=True)
    audit = clipmem_core.open_audit("scenes")
    new = pd.DataFrame(
        {"pair_id": audit.pairs["pair_id"][:20], "caption": "a | <b>bold</b> *boat*"}
    )
    new.to_csv(tmp_path / "new.csv", index=False)
    summary = tmp_path / "summary.md"
    words = ["judge", "scenes", str(tmp_path / "new.csv"), "--summary", str(summary)]
    assert main([*words, "--fail-above", "0.02"]) == 1
    written = summary.read_text()
    assert written.startswith("About ")
    assert written.count("<td>a | &lt;b&gt;bold&lt;/b&gt; *boat*</td>") == 10
