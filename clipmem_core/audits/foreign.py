"""Checkpoints that somebody else trained, where no file says which pairs they saw: what can be said of them.

Two of them, a target and a reference, give each pair a difference. One gives a test of a set: of pairs that are
suspected to be in its training against pairs of the same kind that cannot be.

    <data>/foreign/<name>/   pairs.parquet, members/, as of an audit; foreign.parquet: a row a pair; foreign.json: what
                             can and cannot be said of it; manifest.json, written last
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core import columns as c
from clipmem_core.audits import settings
from clipmem_core.audits.checkpoints import check_checkpoints, check_files, check_weights, read_membership
from clipmem_core.audits.lock import hold
from clipmem_core.audits.prepare import load_data_set
from clipmem_core.audits.run import Screen, ensure_features, ensure_pixels
from clipmem_core.audits.scoring import gather_evidence, known
from clipmem_core.audits.setup import check_same, write_audit
from clipmem_core.audits.store import (
    TEXT_EMBEDDINGS,
    Audit,
    check_name,
    open_audit,
    read_embeddings,
    write_json,
    write_manifest,
    write_table,
)
from clipmem_core.config import AuditConfig, InputError, data_folder
from clipmem_core.scores.alignment import pair_terms
from clipmem_core.scores.membership import Membership
from clipmem_core.scores.predicted import calibrate
from clipmem_core.scores.predicted import features as features_of
from clipmem_core.scores.set_membership import RANKS, SetTest, pairs_a_side, set_test

TABLE, SAID = "foreign.parquet", "foreign.json"
TARGET, REFERENCE = "target-0", "reference-0"
SUSPECTED, DIFFERENCE = "suspected", "difference"
ONE_ALONE = (
    "one checkpoint says nothing of a single pair: give --checkpoints a second one as reference, or --membership with "
    "one true/false column, true for suspected pairs and false for pairs of the same kind from after its training"
)
DIFFERENCE_CLAIM = (
    "Alignment under the target minus that under the reference: high where the target knows a pair better. It is a "
    "sign of memorization only as far as the two differ in having seen the pair. Model, data, epochs and seed may "
    "differ too, and none of that can be told apart here, so no pair is called memorized for it."
)
PREDICTED = "predicted_memorization"
WORKS = 0.3  # rank correlation with the clipmem of other members from which predicted memorization is given
FEWEST = 3
PREDICTED_CLAIM = (
    "predicted_memorization says how strongly the audit's members learn pairs like this one by heart once they are "
    "trained on them. It is not clipmem, and does not say that this checkpoint was trained on the pair; the checkpoint "
    "is of another training than the members, which this cannot check."
)
OTHER_MODEL = (
    "Predicted memorization is left out: the members of audit {!r} are of model {}, the checkpoint of model {}, and "
    "what is calibrated on one model has not held for another."
)
SET_CLAIM = (
    "This is about the set, not about any pair in it, and holds only if the held-out pairs are drawn as the suspected "
    "ones are: other years, sources or captions give a difference without any training."
)


def score_foreign(
    source: str,
    config: AuditConfig,
    *,
    name: str,
    checkpoints: Sequence[str],
    suspected: pd.Series | None,
    screen: Screen,
    calibrate_on: str = "",
) -> dict[str, Any]:
    """Score a target checkpoint, with a reference or with pairs that it cannot have seen.

    Args:
        source: the data set, as for an audit.
        config: model, views and reading options.
        name: the folder's.
        checkpoints: the target's file, and the reference's if there is one.
        suspected: by pair id, true where a pair is suspected to be in the target's training, false where it cannot be;
            None where nothing is known.
        screen: where progress goes.
        calibrate_on: an audit of the same pairs, whose members predicted memorization is calibrated on; empty: none.

    Returns:
        The content of foreign.json: `sentences`, `test` with the set's numbers where there is one, and `calibration`.

    Raises:
        InputError: too little was given to say anything, or a file does not fit.
    """
    names = [TARGET, REFERENCE][: len(checkpoints)]
    if len(names) == 1 and suspected is None:
        raise InputError(ONE_ALONE)
    own = open_finished(calibrate_on) if calibrate_on else None
    files = check_checkpoints(checkpoints, names)
    config = settings.resolve(
        dataclasses.replace(config, protocol="paper", seeds=1, members=2, halves=False), trains=False
    )
    audit = Audit(data_folder() / "foreign" / check_name(name))
    with hold(audit.folder, what="comparison"):
        if audit.begun:
            check_same(audit, source, config)
            if own is not None:
                _check_pairs(own, audit.record.dataset_fingerprint)
            check_files(audit, names, files)
            marked = _membership(audit.pairs, suspected, names)
            if audit.membership[TARGET].tolist() != marked.trained[0].tolist():
                raise InputError(f"{name!r} was made with other pairs marked: take another --name")
        else:
            check_weights(config, files)
            screen.say(f"reading {source}")
            data_set = load_data_set(source, config, progress=screen.pictures, say=screen.say)
            if own is not None:
                _check_pairs(own, data_set.fingerprint)
            marked = _membership(data_set.pairs, suspected, names)
            write_audit(audit, source, config, data_set, data_set.pairs, marked, seconds=0.0, checkpoints=files)
        _embed(audit, names, screen)
        table = _table(audit, names, suspected)
        said = said_of(table)
        if own is not None:
            screen.say(f"calibrating on the members of audit {own.name!r}")
            said = _with_prediction(audit, own, table, said)
        write_table(audit.folder / TABLE, table)
        write_json(audit.folder / SAID, said)
        write_manifest(audit.folder)
    return said


def _membership(pairs: pd.DataFrame, suspected: pd.Series | None, names: Sequence[str]) -> Membership:
    """Note which pairs are suspected; that nobody trained on the others is all that is known."""
    group = np.full(len(pairs), c.CANDIDATE, dtype="<U11")
    if suspected is not None:
        marked = suspected.reindex(pairs[c.PAIR_ID])
        if marked.isna().any():
            first = marked.index[marked.isna()][0]
            raise InputError(
                f"--membership lacks {marked.isna().sum():,} of {len(pairs):,} pairs, first {first!r}: every pair "
                "needs a row"
            )
        group[~marked.to_numpy(dtype=bool)] = c.EXTERNAL
        counts = [int((group == name).sum()) for name in (c.CANDIDATE, c.EXTERNAL)]
        if min(counts) < 2:
            raise InputError(f"--membership must mark two pairs true and two false at least, not {counts}")
    trained = np.zeros((len(names), len(pairs)), dtype=bool)
    trained[0] = group == c.CANDIDATE
    return Membership(group, tuple(names), trained)


def _embed(audit: Audit, names: Sequence[str], screen: Screen) -> None:
    """Bring each checkpoint's embeddings of every pair onto the disk."""
    from clipmem_core.audits import member  # torch is slow to import

    if all((audit.member(name) / TEXT_EMBEDDINGS).is_file() for name in names):
        return
    ensure_pixels(audit, screen)
    ensure_features(audit, audit.record, screen)
    for name in names:
        screen.say(f"embedding with the {name.removesuffix('-0')}")
        run = member.open_member(audit.folder, name)
        member.write_embeddings(run, member.trained_model(run), run.folder)


def _table(audit: Audit, names: Sequence[str], suspected: pd.Series | None) -> pd.DataFrame:
    """Return a row a pair: alignment and similarity under each checkpoint, and their difference where there are two.

    Alignment starts from all pairs here, suspected and held out alike, so that it treats both in one way.
    """
    pairs = audit.pairs
    table = pd.DataFrame({c.PAIR_ID: pairs[c.PAIR_ID]})
    if suspected is not None:
        table[SUSPECTED] = suspected.reindex(pairs[c.PAIR_ID]).to_numpy(dtype=bool)
    for name in names:
        terms = pair_terms(*read_embeddings(audit.member(name)), np.ones(len(pairs), dtype=bool))
        for term in (c.ALIGNMENT, c.SIMILARITY):
            table[f"{term}_{name.removesuffix('-0')}"] = terms[term].astype(np.float64)
    if len(names) == 2:
        table[DIFFERENCE] = table["alignment_target"] - table["alignment_reference"]
    return table


def open_finished(name: str) -> Audit:
    """Return a finished audit to calibrate on.

    Raises:
        InputError: it is not there, not finished, or has too few members.
    """
    own = open_audit(name)
    if not own.finished or len(own.record.members) < FEWEST:
        raise InputError(f"--calibrate {name}: it must be a finished audit of at least {FEWEST} members")
    return own


def _check_pairs(own: Audit, fingerprint: str) -> None:
    if own.record.dataset_fingerprint != fingerprint:
        raise InputError(f"--calibrate {own.name}: its pairs are not those that are scored here")


def _with_prediction(audit: Audit, own: Audit, table: pd.DataFrame, said: dict[str, Any]) -> dict[str, Any]:
    """Put predicted memorization into the table, if the audit's own members show that it works, and say how well."""
    models = own.record.config.model, audit.record.config.model
    if models[0] != models[1]:
        sentence = OTHER_MODEL.format(own.name, *models)
        return {"sentences": [*said["sentences"], sentence], **_rest(said)}
    evidence = gather_evidence(own)
    seed = own.record.config.seed
    features = [features_of(a, b, seed=seed) for a, b in zip(evidence.image, evidence.text, strict=True)]
    found = calibrate(features, evidence.alignments, evidence.sides)
    numbers = {name: known(getattr(found, name)) for name in ("seen", "unseen", "excess")}
    judged = (
        f"Calibrated on audit {own.name!r}, judged by members and pairs left out: its rank correlation with clipmem "
        f"under the other members is {found.seen:.2f} for pairs that the member was trained on and {found.unseen:.2f} "
        f"for others, and with how far the member itself lies above members without the pair {found.excess:.2f}."
    )
    if not found.seen >= WORKS:
        sentence = f"Predicted memorization is left out, since it does not work here. {judged}"
        return {"sentences": [*said["sentences"], sentence], **_rest(said), "calibration": numbers}
    table[PREDICTED] = found.model.predict(features_of(*read_embeddings(audit.member(TARGET)), seed=seed))
    return {"sentences": [*said["sentences"], f"{PREDICTED_CLAIM} {judged}"], **_rest(said), "calibration": numbers}


def _rest(said: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key != "sentences"}


def said_of(table: pd.DataFrame) -> dict[str, Any]:
    """Say what the numbers of pairs can and cannot claim.

    Args:
        table: foreign.parquet.
    """
    sentences = [DIFFERENCE_CLAIM] if DIFFERENCE in table else []
    if SUSPECTED not in table:
        sentences.append(
            "How many pairs a test of a set would need on each side, this one and one held out, to be right four times "
            f"out of five: {_power()}."
        )
        return {"sentences": sentences}
    value = DIFFERENCE if DIFFERENCE in table else "alignment_target"
    marked = table[SUSPECTED].to_numpy(dtype=bool)
    found = set_test(table[value].to_numpy()[marked], table[value].to_numpy()[~marked])
    return {"sentences": [*sentences, *_of_set(found, value)], "test": dataclasses.asdict(found) | {"of": value}}


def _of_set(found: SetTest, value: str) -> list[str]:
    seen = (
        "The set lies higher: that is what a model that was trained on it shows."
        if found.low > 0.5
        else "The set lies lower, which training on it cannot explain: the two kinds of pairs are not alike."
        if found.high < 0.5
        else "Nothing tells the set from the held-out pairs."
    )
    return [
        f"{found.suspected:,} suspected pairs against {found.held_out:,} held-out ones, by {value.replace('_', ' ')}: "
        f"AUROC {found.auroc:.3f} [{found.low:.3f}, {found.high:.3f}], p = {found.p_value:.2g} (rank test, one-sided). "
        f"{seen}",
        SET_CLAIM,
        f"Four times out of five a test of these sizes finds an AUROC of {found.detectable:.3f} or more; pairs that "
        f"others would need on each side: {_power()}.",
    ]


def _power() -> str:
    return ", ".join(
        f"{pairs_a_side(auroc, efficiency=RANKS):,.0f} for an AUROC of {auroc:g}" for auroc in (0.51, 0.52, 0.55, 0.75)
    )


def read_marks(path: str) -> pd.Series | None:
    """Return the one true/false column of a membership file by pair id; None where it has more, one a member."""
    table = read_membership(Path(path))
    columns = [name for name in table.columns if name not in (c.PAIR_ID, c.GROUP)]
    return table.set_index(c.PAIR_ID)[columns[0]] if len(columns) == 1 else None
