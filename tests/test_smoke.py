"""A small audit as it is typed, its exports and every page on it: what must work with any version
that is allowed."""

from pathlib import Path

import pytest

from clipmem_core.cli import main
from clipmem_core.dashboard.page import PAGES
from tests.audit.small import command
from tests.dashboard.test_pages import open_page

FLAGS = "--preset tiny --epochs 1 --members 2 --scenes-pairs 220 --threads 1"
AUDIT = ["scenes", "--name", "scenes", *FLAGS.split()]


def test_an_audit_its_exports_and_every_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = command("audit", *AUDIT, data=tmp_path)
    assert (process.communicate(timeout=500)[1], process.returncode) == ("", 0)
    monkeypatch.setenv("CLIPMEM_DATA", str(tmp_path))
    endings = {"csv": "csv", "coco": "json", "html": "html", "decisions": "parquet"}
    for name, ending in endings.items():
        out = tmp_path / f"{name}.{ending}"
        assert main(["export", "scenes", "--format", name, "--out", str(out)]) == 0
    for page in PAGES:
        assert not open_page(page, audit="scenes").error, page
