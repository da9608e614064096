"""The studies in the data folder → those of mitigations, and the one that the page is about."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from clipmem_core.audits.store import is_name
from clipmem_core.config import InputError
from clipmem_core.dashboard.address import PAGE
from clipmem_core.dashboard.choices import choose_listed
from clipmem_core.dashboard.plain import show_text
from clipmem_core.dashboard.trouble import draw_fault
from clipmem_core.studies.jobs import study_task
from clipmem_core.studies.mitigations import NONE
from clipmem_core.studies.own import read_own
from clipmem_core.studies.plans import STUDIES
from clipmem_core.studies.store import (
    ARM,
    ARMS,
    CLIPMEM_CANDIDATE,
    MEMBERSHIP_AUROC,
    OWN,
    RETRIEVAL,
    SECONDS,
    SEED,
    STUDY,
    StudyFolder,
    list_studies,
    study_folder,
)

PARAMETER = "study"
PLANS = ("combined", "text-noise", "captions", "removal")
NUMBERS = (SEED, CLIPMEM_CANDIDATE, MEMBERSHIP_AUROC, RETRIEVAL, SECONDS)


@dataclass(frozen=True)
class Known:
    """A study of mitigations whose files can be read: what it was asked for, and the arms and seeds that are done."""

    study: StudyFolder
    source: str
    machine: str
    seeds: int
    arms: tuple[str, ...]
    done: frozenset[tuple[str, int]]

    @property
    def total(self) -> int:
        return len(self.arms) * self.seeds

    @property
    def left(self) -> int:
        """How many arms and seeds have no row yet."""
        return sum((arm, seed) not in self.done for arm in self.arms for seed in range(self.seeds))


def known_studies() -> tuple[list[Known], list[str]]:
    """Return the studies of mitigations, those with the most rows first, then the newest; and what is wrong of each
    that cannot be shown."""
    known, faults = [], []
    for study in list_studies():
        try:
            found = know(study)
        except InputError as error:
            faults.append(f"{study.name}: {error}")
            continue
        if found is not None:
            known.append(found)
    return sorted(known, key=lambda each: (-len(each.done), -_begun(each.study))), faults


def know(study: StudyFolder) -> Known | None:
    """Read what a study is and how far; None where it is not one of mitigations beside `none`.

    Raises:
        InputError: one of its files is broken.
    """
    with _reading(study.folder / STUDY):
        asked = study.asked
        if STUDIES[asked["study"]] and asked["study"] not in PLANS:
            return None
        seeds, arms, texts = int(asked["config"]["seeds"]), list(asked["arms"]), asked.get("settings", {}).values()
        if asked["reference"] != NONE or not all(isinstance(text, str) for text in [*arms, *texts]):
            raise ValueError("no study beside none")
    with _reading(study.folder / OWN):
        arms += [own.name for own in read_own(study)]
    with _reading(study.folder / ARMS):
        _check_rows(study.arms)
        done = frozenset(study.done())
    machine = _machine(asked.get("machine"))
    return Known(study, str(asked.get("source", "")), machine, seeds, tuple(dict.fromkeys(arms)), done)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into the way to get it back: what was trained lies elsewhere.

    Raises:
        InputError: the file is broken.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} cannot be read: delete it and repeat the study's command; models that are trained stay"
        ) from None


def _check_rows(rows: pd.DataFrame) -> None:
    """Refuse a table that lacks what every part of the page reads."""
    names = NUMBERS if len(rows) else (SEED,)
    missing = [name for name in (ARM, *names) if name not in rows]
    missing += [name for name in names if name in rows and len(rows) and not _is_number(rows[name])]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not (values.name == SEED and values.isna().any())


def _machine(found: Any) -> str:
    if not isinstance(found, dict):
        return ""
    cores = found.get("cores")
    return ", ".join(filter(None, [str(found.get("processor") or ""), f"{cores} cores" if cores else ""]))


def _begun(study: StudyFolder) -> float:
    return (study.folder / STUDY).stat().st_mtime


def beginning(known: Sequence[Known]) -> str:
    """Return the study of the address that has only a job so far; empty where it has none, or more than that."""
    name = st.query_params.get(PARAMETER, "")
    if any(each.study.name == name for each in known) or not is_name(name):
        return ""
    return name if study_task(name).find() is not None and not is_study(name) else ""


def is_study(name: str) -> bool:
    """Tell whether a study got as far as writing down what it is."""
    return (study_folder(name).folder / STUDY).is_file()


def choose_study(known: Sequence[Known], begins: str) -> Known | None:
    """Draw the studies to choose one from, and return it; None for one that has only a job so far.

    Args:
        known: the studies that can be shown.
        begins: the name of one that has only a job, or empty.
    """
    named = {each.study.name: each for each in known}
    options = [begins, *named] if begins else list(named)
    name = st.query_params.get(PARAMETER, "")
    if name and name not in options:
        st.warning("There is no study of mitigations of the name asked for.", icon=":material/search_off:")
        show_text(f"asked for: {name}", limit=120)
    if not options:
        st.info("There is no study of mitigations yet: start one.", icon=":material/science:")
        return None
    return named.get(
        choose_listed("Study", options, parameter=PARAMETER, key="mitigations-study", width=400, clears=[PAGE])
    )


def draw_faults(faults: Sequence[str]) -> None:
    """Draw what is wrong of each study that cannot be shown."""
    for fault in faults:
        draw_fault("A study cannot be shown.", fault)


@contextmanager
def told() -> Iterator[None]:
    """Show an `InputError` of a part of the page in its place; the other parts are drawn."""
    try:
        yield
    except InputError as error:
        draw_fault("This part of the study cannot be shown.", error)
