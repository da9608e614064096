"""A second round of training: each member once more, without the captions that the first round takes for wrong. What it
then says of the pairs that it never trains on is all that is kept of it.

    <audit>/second.parquet              pair_id, left_out
    <audit>/members/<member>/second/    log.jsonl; log_probability_out.npy, written last: float32 [n_pairs], NaN for
                                        pairs that the member trains on in the first round

And the process of some members: python -m clipmem_core.audits.second_round AUDIT_FOLDER MEMBER…
"""

import dataclasses
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits.__main__ import main
from clipmem_core.audits.executor import Executor, member_tasks, run_member_tasks
from clipmem_core.audits.progress import MemberProgress, member_progress, second_names
from clipmem_core.audits.scoring import scored_again
from clipmem_core.audits.store import (
    SECOND,
    SECOND_FIT,
    SECOND_TABLE,
    Audit,
    read_array,
    read_embeddings,
    read_table,
    write_table,
)
from clipmem_core.scores.detectors import fit_out
from clipmem_core.scores.membership import side_means
from clipmem_core.scores.prevalence import SECOND_ROUND_FROM, likely_wrong
from clipmem_core.training.names import CHECKPOINT, TRAJECTORY

if TYPE_CHECKING:  # torch, which only the members' own processes need
    from clipmem_core.audits.member import Shared

LEFT_OUT = "left_out"
SECOND_TRAINING = "second training of member"  # what a task is called
EMBEDDINGS = ".embeddings"  # of a second training, until its fit is written


def second_round(
    audit: Audit,
    scores: pd.DataFrame,
    trained: np.ndarray,
    *,
    executor: Executor,
    blocks: int,
    watch: Callable[[list[MemberProgress]], None],
) -> pd.DataFrame:
    """Train an audit's members a second time and return its scores with what that says of each pair.

    Args:
        audit: the members'.
        scores: by the first round.
        trained: true where a member trains on the pair in the first round, [n_members, n_pairs].
        executor: what runs the members.
        blocks: of members that share a process; 0 gives each its own.
        watch: is told again and again how far each member is.

    Raises:
        InputError, OSError, RuntimeError: as of `executor.run_members`.
    """
    record = audit.record
    names = record.members
    left = [name for name in names if not _fit_file(audit, name).is_file()]
    for name in set(names) - set(left):  # a kill may have come before its model was removed
        _forget_model(audit.member(name) / SECOND)
    tasks = member_tasks(audit, left, threads=record.threads, blocks=blocks)
    program = (sys.executable, "-m", __name__, str(audit.folder.absolute()))
    again = [dataclasses.replace(task, program=program, what=SECOND_TRAINING) for task in tasks]
    shown = second_names(names)
    run_member_tasks(again, executor, lambda: watch([member_progress(audit.folder, name) for name in shown]))
    said = [read_array(_fit_file(audit, name), shared=True) for name in names]
    return scored_again(scores, **{c.LOG_PROBABILITY_SECOND: side_means(said, trained)[1]})


def choose_left_out(audit: Audit, scores: pd.DataFrame) -> int:
    """Decide what the second round leaves out, and return how many pairs; 0: hardly any is wrong, or nobody can tell.

    If it changes, for example because members were added, what the second round trained before is deleted.
    """
    least = SECOND_ROUND_FROM[audit.record.config.rounds]
    scored = scores[c.GROUP].isin(c.SCORED_GROUPS).to_numpy()
    misfit, fit = (np.where(scored, scores[name], np.nan) for name in (c.MISFIT, c.CSLS_OUT))
    left_out = likely_wrong(misfit, fit, scores[c.CSLS_SWAPPED].to_numpy(), least=least)
    path = audit.folder / SECOND_TABLE
    if not left_out.any() and not path.is_file():
        return 0
    if not path.is_file() or not np.array_equal(_read_left_out(audit.folder), left_out):
        for name in audit.record.members:
            shutil.rmtree(audit.member(name) / SECOND, ignore_errors=True)
        write_table(path, pd.DataFrame({c.PAIR_ID: scores[c.PAIR_ID], LEFT_OUT: left_out}))
    return int(left_out.sum())


def _read_left_out(folder: Path) -> np.ndarray:
    return read_table(folder / SECOND_TABLE, columns=[LEFT_OUT])[LEFT_OUT].to_numpy()


def _fit_file(audit: Audit, name: str) -> Path:
    return audit.member(name) / SECOND / SECOND_FIT


def train_again(folder: Path, names: Sequence[str]) -> None:
    """Train members of an audit a second time, one after the other; what they share is read once."""
    from clipmem_core.audits.member import open_shared

    shared, left_out = open_shared(folder), _read_left_out(folder)
    for name in names:
        _train_again(folder, name, shared, left_out)


def _train_again(folder: Path, name: str, shared: "Shared", left_out: np.ndarray) -> None:
    """Bring a member's second training to its end; of its model nothing stays."""
    import torch

    from clipmem_core.audits.member import clear_leftovers, open_member, trained_model, write_embeddings
    from clipmem_core.training.state import save_array

    run = open_member(folder, name, shared)
    trained = np.zeros(len(left_out), dtype=bool)
    trained[run.data.rows] = True
    rows = np.flatnonzero(trained & ~left_out)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, rows=rows), second=True)
    run.folder.mkdir(exist_ok=True)
    clear_leftovers(run.folder)
    torch.set_num_threads(run.record.threads)
    model = trained_model(run)
    external = np.zeros(len(left_out), dtype=bool)
    external[run.data.external] = True
    write_embeddings(run, model, run.folder / EMBEDDINGS)
    image, text = read_embeddings(run.folder / EMBEDDINGS)
    scale = float(model.logit_scale.detach().exp())
    _, sure = fit_out([image], [text], trained[None], external, [scale])
    save_array(sure.astype(np.float32), run.folder / SECOND_FIT)
    _forget_model(run.folder)


def _forget_model(folder: Path) -> None:
    for name in (CHECKPOINT, TRAJECTORY):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / EMBEDDINGS, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], train_again))
