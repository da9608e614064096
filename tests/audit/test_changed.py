"""A source that is newer when the command of its finished audit is repeated."""

import os
from pathlib import Path

import pandas as pd

from clipmem_core.auditing.folder.store import MEMBERSHIP, write_table
from clipmem_core.auditing.run.pipeline import run_audit
from tests.audit.small import Silent, config_of
from tests.export.sources import audited, make_source
from tests.fixtures import data

__all__ = ["data"]
FLAGS = ["--preset", "tiny", "--precision", "fp32", "--device", "cpu", "--members", "4"]


def test_a_repeated_command_says_that_files_are_newer(tmp_path: Path) -> None:
    source = make_source("folder", tmp_path / "set")
    audit = audited(source, precision="fp32", device="cpu")
    trained = dict.fromkeys(audit.record.members, True)
    table = pd.DataFrame({"pair_id": audit.pairs["pair_id"], "group": "scored", **trained})
    write_table(audit.folder / MEMBERSHIP, table)
    for newer in (False, True):
        screen = Silent()
        run_audit(str(source), config_of(FLAGS), name="mine", screen=screen)
        assert any("newer than audit 'mine'" in line for line in screen.lines) == newer
        assert screen.lines[-1] == "it is finished: nothing to do"
        os.utime(next(source.rglob("*.txt")))
