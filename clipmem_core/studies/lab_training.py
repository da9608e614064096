"""Trains members of an audit again with mitigations, two at a time, measures them, and serves open
pages."""

import dataclasses
import functools
import itertools
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from clipmem_core import columns as c
from clipmem_core.audit import member as members
from clipmem_core.audit import store
from clipmem_core.audit.executor import Executor, Task, local_processes, program_of
from clipmem_core.audit.member import (
    MemberRun,
    Shared,
    open_member,
    open_shared,
    trained_model,
    write_embeddings,
)
from clipmem_core.audit.pipeline import Screen, ensure_features, ensure_pixels
from clipmem_core.audit.settings import shares_process, side_by_side
from clipmem_core.audit.status import last_line
from clipmem_core.audit.store import (
    Audit,
    open_embeddings,
    read_embeddings,
    read_utility,
    write_json,
)
from clipmem_core.features.embed import text_features
from clipmem_core.io import InputError, save_array
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.encoders import contributions
from clipmem_core.studies import lab
from clipmem_core.studies.arm import NONE, Changes
from clipmem_core.training.names import CHECKPOINT, LOG, TRAJECTORY

_EMBEDDINGS = ".embeddings"  # of a member until its couple is measured
NEARLY_DONE = (
    0.75  # share of an arm's members from which on it is trained to its end, wanted or not
)
_SECONDS_BETWEEN_POLLS = 0.1
NICE = 10  # lowers the priority of a worker, so that the page and the browser are not slowed down
Couple = tuple[str, str]
GoesOn = Callable[[], bool]


class NotWantedError(Exception):
    """No open page wants the arm that is in training."""


class Lab:
    """The data of an audit's members in memory, ready to train them again."""

    def __init__(self, folder: Path) -> None:
        self.audit = Audit(folder)
        self.baseline = open_shared(folder)
        self.record = self.baseline.record
        self.couples = lab.couples(self.record.members)
        self.changed = functools.lru_cache(maxsize=2)(
            functools.partial(with_setting, self.baseline)
        )
        torch.set_num_threads(self.record.threads)

    def train(
        self, arm: str, couple: Couple, goes_on: GoesOn = lambda: True, *, wait: bool = True
    ) -> bool:
        """Train and measure a couple unless it is finished or, without `wait`, in training; tell
        whether it was."""
        folder = lab.arm_folder(self.audit, arm)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / f".{couple[0]}.lock").acquire(timeout=-1 if wait else 0):
                if all((folder / name / lab.MEASURES).is_file() for name in couple):
                    return False
                train_couple(self.changed(arm), arm, couple, goes_on)
        except Timeout:
            return False
        except FileNotFoundError as error:
            if arm != NONE and not (folder / lab.SETTING).is_file():
                return False  # somebody removed the arm
            raise InputError(f"{error.filename} is missing: was it deleted? Try again") from None
        if len(lab.finished_members(self.audit, arm)) in (lab.FIRST, 2 * len(self.couples)):
            lab.write_lab_table(self.audit)
        return True

    def train_any(self, arms: Sequence[str]) -> bool:
        """Train the first couple of some arms that is neither finished nor in training; tell
        whether there was one.

        The baseline of a couple is measured before the couple is trained, and that of all others at
        last.
        """
        for arm in (*arms, NONE):
            for couple, name in itertools.product(self.couples, dict.fromkeys((NONE, arm))):
                if lab.fault_of(self.audit, name):
                    continue
                try:
                    if self.train(name, couple, functools.partial(self.goes_on, name), wait=False):
                        return True
                except NotWantedError:
                    return True
                except InputError as error:
                    (lab.arm_folder(self.audit, name) / lab.FAULT).write_text(
                        str(error), encoding="utf-8"
                    )
                    return True
        return False

    def goes_on(self, arm: str) -> bool:
        """Tell whether the training of an arm goes on: a page wants it, or it is nearly done."""
        if arm == NONE or arm in (lab.wanted_arms(self.audit) or ()):
            return True
        return len(lab.finished_members(self.audit, arm)) >= NEARLY_DONE * 2 * len(self.couples)


def with_setting(shared: Shared, arm: str) -> Shared:
    """Return the data of an audit's members as an arm changes them."""
    overrides, changes = lab.read_setting(shared.audit, arm)
    shared = dataclasses.replace(
        shared, config=dataclasses.replace(shared.config, **overrides.fields)
    )
    if changes.removed.any():
        membership = shared.membership.copy()
        names = list(shared.record.members)
        membership[names] = membership[names].to_numpy() & ~changes.removed[:, None]
        shared = dataclasses.replace(shared, membership=membership)
    return _with_captions(shared, changes) if changes.captions else shared


def _with_captions(shared: Shared, changes: Changes) -> Shared:
    """Replace the captions of some pairs, and their tokens or features."""
    captions = [
        list(changes.captions.get(row, texts)) for row, texts in enumerate(shared.pairs[c.CAPTIONS])
    ]
    pairs = shared.pairs.copy()
    pairs[c.CAPTIONS] = captions
    start = np.concatenate([[0], np.cumsum([len(texts) for texts in captions])]).astype(np.int64)
    features = shared.features
    tower = shared.towers.text
    if tower:
        tokens: Any = text_features(captions, tower)[0]
        features = dataclasses.replace(features, text=tokens)
    else:
        tokens = members.cached_tokens(shared.config.model, pairs)
    data = dataclasses.replace(shared.data, tokens=tokens, caption_start=start)
    return dataclasses.replace(shared, pairs=pairs, features=features, data=data)


def train_couple(shared: Shared, arm: str, couple: Couple, goes_on: GoesOn) -> None:
    """Train two members of an arm and measure them; those of the baseline are only measured.

    The training ends with `NotWantedError` after an epoch if `goes_on` returns False.
    """
    audit = shared.audit
    folder = lab.arm_folder(shared.audit, arm)
    measures = []
    places = []
    for name in couple:
        (folder / name).mkdir(parents=True, exist_ok=True)
        if arm == NONE:
            places.append(audit.member(name))
            utility = read_utility(audit.member(name))
            log = audit.member(name) / LOG
        else:
            run = open_member(audit.folder, name, shared, folder / name)
            places.append(run.folder / _EMBEDDINGS)
            utility = _train(run, goes_on)
            log = run.folder / LOG
        retrieval = float(np.mean([utility.pop(recall) for recall in lab.RECALLS]))
        measures.append(
            {lab.RETRIEVAL: retrieval} | utility | {lab.SECONDS: last_line(log).get("seconds")}
        )
    embedded = list(map(read_embeddings, places))
    for name, values in zip(couple, _pair_values(audit, couple, embedded), strict=True):
        save_array(values, folder / name / lab.PAIR_VALUES)
    for name, values in zip(couple, measures, strict=True):
        write_json(folder / name / lab.MEASURES, values)
        shutil.rmtree(folder / name / _EMBEDDINGS, ignore_errors=True)
        for leftover in (CHECKPOINT, TRAJECTORY):
            (folder / name / leftover).unlink(missing_ok=True)


def _train(run: MemberRun, goes_on: GoesOn) -> dict[str, float]:
    """Train and embed a member, and return its utility."""

    def after_epoch(_: int) -> None:
        if not goes_on():
            raise NotWantedError

    members.clear_leftovers(run.folder)
    model = trained_model(run, after_epoch=after_epoch)
    write_embeddings(run, model, run.folder / _EMBEDDINGS)
    return members.utility(
        run, model, open_embeddings(run.folder / _EMBEDDINGS / store.IMAGE_EMBEDDINGS)
    )


def _pair_values(audit: Audit, couple: Couple, embedded: Sequence[Any]) -> np.ndarray:
    """Return alignment, image part and text part of two members, float32 [2, 3, n_pairs].

    The parts are those of clipmem with the member as the one that trained on the pair and its
    partner as the one that did not; NaN on other pairs.
    """
    sides = lab.lab_sides(audit, couple)
    alignments = [pair_terms(image, text, sides.external)[c.ALIGNMENT] for image, text in embedded]
    values = np.full((2, 3, len(sides.external)), np.nan, dtype=np.float32)
    values[:, 0] = alignments
    image, text = zip(*embedded, strict=True)
    try:
        parts, _ = contributions(image, text, sides)
    except InputError:  # too few pairs to fit the map between both members
        return values
    trained = sides.membership.trained
    for row in (0, 1):
        # In the paper's protocol the parts are those of f less g on every pair
        sign = -1 if sides.protocol == "paper" and row else 1
        only = trained[row] & ~trained[1 - row]
        values[row, 1:, only] = sign * parts.to_numpy()[only]
    return values


def train_members(folder: Path, names: Sequence[str]) -> None:
    """Train couples of arms, each named `arm/member` by its first member. The work of a task."""
    trainer = Lab(folder)
    partners = dict(trainer.couples)
    for name in names:
        arm, _, first = name.partition("/")
        trainer.train(arm, (first, partners[first]))


def run_arms(
    audit: Audit,
    arms: Sequence[str],
    screen: Screen,
    *,
    executor: Executor | None = None,
    n_members: int = 0,
) -> None:
    """Train the first `n_members` (0: all) members of arms that were begun, and measure the
    baseline's."""
    config = audit.record.config
    names = audit.record.members
    couples = lab.couples(names[: n_members or len(names)])
    finished = {arm: lab.finished_members(audit, arm) for arm in (NONE, *arms)}
    todo = [
        f"{arm}/{first}" for first, _ in couples for arm in finished if first not in finished[arm]
    ]
    if todo:
        ensure_pixels(audit, screen)
        ensure_features(audit, screen, executor)
        at_once = side_by_side(config)
        blocks = min(len(todo), at_once) if shares_process(config) else len(todo)
        tasks = [_task(audit, todo[block::blocks]) for block in range(blocks)]
        run = executor or functools.partial(local_processes, at_once=at_once)
        total = 2 * len(couples) * len(arms)
        shown = -1
        for _ in run(tasks):
            done = sum(len(lab.finished_members(audit, arm)) for arm in arms)
            if done != shown:
                screen.say(f"{done} of {total} members finished")
                shown = done
    lab.write_lab_table(audit)


def _task(audit: Audit, names: Sequence[str]) -> Task:
    program = program_of("clipmem_core.studies.lab_training:train_members", audit.folder)
    folders = tuple(audit.folder / store.MITIGATIONS / name for name in names)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return Task(folders, program, tuple(names), audit.record.threads, "training of member")


def serve(folder: Path, names: Sequence[str]) -> None:
    """Train what open pages want, the newest first, until no page is open.

    `names` is the number of this worker. Workers share the couples of an arm by their locks.
    """
    os.nice(NICE)
    trainer = Lab(folder)
    with (
        suppress(Timeout),
        FileLock(folder / store.MITIGATIONS / f".worker-{names[0]}.lock", timeout=0),
    ):
        while (wanted := lab.wanted_arms(trainer.audit)) is not None:
            if not trainer.train_any(wanted):
                time.sleep(_SECONDS_BETWEEN_POLLS)
