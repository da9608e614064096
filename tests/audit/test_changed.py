"""A source that has changed when the command of its finished audit is repeated."""

import os
from pathlib import Path

import pandas as pd
import pytest

from clipmem_core.auditing.folder.store import MEMBERSHIP, write_table
from clipmem_core.auditing.run.pipeline import run_audit
from clipmem_core.cli import main
from tests.audit.small import Silent, config_of
from tests.export.sources import audited, make_source
from tests.fixtures import data

__all__ = ["data"]
FLAGS = ["--preset", "tiny", "--precision", "fp32", "--device", "cpu", "--members", "4"]


def test_a_repeated_command_says_what_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_source("folder", tmp_path / "set")
    audit = audited(source, precision="fp32", device="cpu")
    trained = dict.fromkeys(audit.record.members, True)
    table = pd.DataFrame({"pair_id": audit.pairs["pair_id"], "group": "scored", **trained})
    write_table(audit.folder / MEMBERSHIP, table)
    texts = sorted(source.rglob("*.txt"))
    for newer in (False, True):
        screen = Silent()
        run_audit(str(source), config_of(FLAGS), name="mine", screen=screen)
        assert any("newer than audit" in line for line in screen.lines) == newer
        assert screen.lines[-1] == "it is finished: nothing to do"
        os.utime(texts[0])
    texts[1].write_text("corrected")
    assert main(["audit", str(source), "--name", "mine", *FLAGS]) == 2
    error = capsys.readouterr().err
    assert "has changed since audit 'mine' read it" in error
    assert "another --name" in error
