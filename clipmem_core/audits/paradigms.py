"""Trains one image encoder on the same pictures under three paradigms, for claim 1 of the paper.

python -m clipmem_core paradigms NAME --seeds 3

The paradigms are captions (CLIP), labels, and another view of the same picture (SimCLR). Pictures, their order, views,
optimiser, schedule and the encoder's first weights are the same; so is the number of samples seen. A run that was
killed goes on where it stopped.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from typing_extensions import TypedDict

from clipmem_core.atomic import replacing
from clipmem_core.audits import settings
from clipmem_core.audits import unitmem_tables as t
from clipmem_core.audits.frozen import MAY_DIFFER
from clipmem_core.audits.paradigm_training import RESULT, RUNS, ParadigmRun, complete, plan_runs, trainer_of
from clipmem_core.audits.results import write_csv
from clipmem_core.audits.run import Screen, ensure_pixels
from clipmem_core.audits.store import Audit, read_table, write_json
from clipmem_core.audits.unitmem import check_members
from clipmem_core.audits.unitmem_tables import layer_means, paradigms_folder, read_paradigms
from clipmem_core.config import InputError, fingerprint
from clipmem_core.files import read_json
from clipmem_core.training.state import Progress

SETTINGS = "paradigms.json"
WARM_STEPS, TIMED_STEPS = 2, 3
WHY_NOT = {
    t.SUPERVISED: "the pairs have no labels, or of one class alone",
    t.SELF_SUPERVISED: "image augmentation is off (--crop-scale 1), so two views of a picture are the same",
}


class SettingsFile(TypedDict, total=False):
    """The fields of paradigms.json."""

    audit: str
    epochs: int


def run_paradigms(audit: Audit, *, seeds: int = 3, epochs: int = 0, screen: Screen) -> pd.DataFrame:
    """Train the image encoder of an audit's model in three ways and measure its units; what is done is not done again.

    Seed s has the pictures of the first member of the audit's seed s, those with a label if there are labels; where
    that member is itself a CLIP model of these pictures and epochs, it is the CLIP run.

    Args:
        audit: a finished one.
        seeds: runs of each paradigm.
        epochs: of each run; 0 takes the audit's.
        screen: where progress goes.

    Returns:
        As `read_paradigms`.

    Raises:
        InputError: the audit is not finished, its image encoder has no units, or the folder holds other epochs.
    """
    check_members(audit)
    if seeds < 1 or epochs < 0:
        raise InputError(f"--seeds must be at least 1 and --epochs at least 0, not {seeds} and {epochs}")
    ensure_pixels(audit, settings.config_from(audit.config["config"]), screen)
    torch.set_num_threads(audit.config["threads"])  # as the members had
    folder = paradigms_folder(audit)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            _check_same(audit, folder, epochs or audit.config["config"]["epochs"])
            runs = [run for seed in range(seeds) for run in plan_runs(audit, seed, epochs)]
            _say_plan(runs, screen)
            for run in runs:
                if not run.done:
                    complete(run, screen)
                    _write_table(audit)
    except Timeout:
        raise InputError(f"{folder} is being filled by another process: wait for it, or stop it") from None
    table = read_paradigms(audit)
    assert table is not None
    return table


def say_paradigms(table: pd.DataFrame, screen: Screen) -> None:
    """Say UnitMem by layer of each paradigm, means over seeds."""
    layers = table.pivot_table(t.UNITMEM_MEAN, t.LAYER, t.PARADIGM, sort=False)
    for line in layers.round(3).to_string().splitlines():
        screen.say(line)


def _check_same(audit: Audit, folder: Path, epochs: int) -> None:
    """Freeze what all runs share, and refuse to mix it."""
    stored = audit.config
    fixed = {key: value for key, value in stored["config"].items() if key not in (*MAY_DIFFER, "epochs")}
    wanted = {"audit": fingerprint([fixed, stored["dataset_fingerprint"]]), "epochs": epochs}
    if not (folder / SETTINGS).is_file():
        write_json(folder / SETTINGS, wanted)
    there = read_json(folder / SETTINGS, SettingsFile, mend=f"delete {folder} and run the command again")
    if there["audit"] != wanted["audit"]:
        raise InputError(f"{folder} was made from another audit of this name: delete it")
    if (known := there["epochs"]) != epochs:
        raise InputError(f"{folder} holds runs of {known} epochs: ask for --epochs {known}, or delete it")


def _say_plan(runs: Sequence[ParadigmRun], screen: Screen) -> None:
    for name in t.PARADIGMS:
        if name not in {run.paradigm for run in runs}:
            screen.say(f"note: no {name} runs, since {WHY_NOT[name]}")
    left = [run for run in runs if not run.done]
    if not left:
        screen.say("every run is finished: nothing to do")
        return
    reused = sum(run.reused for run in left)
    taken = f", {reused} of them trained by the audit" if reused else ""
    minutes = max(1, round(seconds_left(left) / 60))
    screen.say(f"{len(left)} of {len(runs)} runs to go{taken}: about {minutes:,} min")


def seconds_left(runs: Sequence[ParadigmRun]) -> float:
    """Estimate how long runs take, from a few steps of each paradigm among them."""
    paces = {name: _step_seconds(run) for name, run in {run.paradigm: run for run in reversed(runs)}.items()}
    total = 0.0
    for planned in runs:
        step, steps, pictures = paces[planned.paradigm]
        total += 0.0 if planned.reused else step * steps
        # Every picture's views pass twice, for the units and for the probe; a third of a step goes forward.
        passes = 2 * planned.run.config.views / (2 if planned.paradigm == t.SELF_SUPERVISED else 1)
        total += passes * len(planned.run.data.rows) * step / pictures / 3
    return total


def _step_seconds(planned: ParadigmRun) -> tuple[float, int, float]:
    """Return the seconds of a step, the steps of a run, and the pictures in a step."""
    trainer = trainer_of(planned)
    trainer.model.train()
    blank = np.full((trainer.config.epochs, len(trainer.data.keys), 2), np.nan, dtype=np.float16)
    began, done = time.monotonic(), 0
    for done, _ in enumerate(trainer.steps(Progress(0, blank)), start=1):
        if done == WARM_STEPS:
            began = time.monotonic()
        if done == WARM_STEPS + TIMED_STEPS:
            break
    timed = done - WARM_STEPS if done > WARM_STEPS else done
    return (time.monotonic() - began) / timed, trainer.total, len(trainer.data.rows) / trainer.batches


def _write_table(audit: Audit) -> None:
    """Write the table of every run that is finished, with a head of comment lines that say where it comes from."""
    folder, stored, machine = paradigms_folder(audit), audit.config, settings.machine()
    tables = []
    for path in (folder / RUNS).glob(f"*/{RESULT}"):
        mend = f"delete {path.parent} and run the command again"
        layers = layer_means(read_table(path.parent / t.UNITS, mend=mend), by=[t.LAYER])
        tables.append(layers.assign(**read_json(path, dict[str, bool | int | str | float | None], mend=mend)))
    whole = pd.concat(tables, ignore_index=True)
    order = whole[t.PARADIGM].map(t.PARADIGMS.index)
    whole = whole.assign(order=order).sort_values(["order", t.SEED, t.LAYER]).drop(columns="order")
    seeds = sorted(set(whole[t.SEED]))
    head = [
        f"command: python -m clipmem_core paradigms {audit.name} "
        f"--seeds {len(seeds)} --epochs {whole['epochs'].iloc[0]}",
        f"machine: {machine['processor']}, {machine['cores']} cores; {stored['device']}, {stored['precision']}",
        f"seeds: {', '.join(map(str, seeds))}",
        f"data set: {stored['dataset_fingerprint']}",
    ]
    front = [t.PARADIGM, t.SEED, t.LAYER]
    with replacing(folder / t.TABLE) as temporary:
        write_csv(temporary, head, whole[[*front, *(column for column in whole if column not in front)]])
