"""Members that were trained once, for every study that needs them, found by all that their files depend on.

    <data>/studies/members/<key>/   hard links, and a manifest with their hashes

What training leaves and what evaluation makes of it have keys of their own: arms that differ in evaluation alone share
their training.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from clipmem_core import columns as c
from clipmem_core.atomic import replacing
from clipmem_core.audits.prepare import content_fingerprint
from clipmem_core.audits.progress import member_progress
from clipmem_core.audits.store import (
    CAPTION_SCORES,
    IMAGE_EMBEDDINGS,
    MANIFEST,
    MEMBER_UTILITY,
    SNAPSHOTS,
    TEXT_EMBEDDINGS,
    Audit,
    broken_files,
    file_sha256,
    write_manifest,
)
from clipmem_core.config import FIELDS, InputError, affecting, as_dict, fingerprint, switched_on, without_idle
from clipmem_core.features.cache import replacing_folder
from clipmem_core.studies.store import SHARED_MEMBERS, studies_folder
from clipmem_core.training.names import CHECKPOINT, LOG, TRAJECTORY, model_config

EVALUATION = affecting("evaluation")
# What a member's training does not depend on, or what is in its key as its content.
APART = {*EVALUATION, *affecting("members"), *affecting(), *(name for name, own in FIELDS.items() if own.by_content)}


def parts(audit: Audit, name: str) -> dict[str, tuple[str, ...]]:
    """Return the parts of a member by their keys: training, snapshots where there are any, evaluation.

    A file that says that others are complete comes after them.
    """
    record, pairs, membership = audit.record, audit.pairs, audit.membership
    config = as_dict(record.config)
    drawn = membership[[c.PAIR_ID, c.GROUP, name]].to_numpy().tolist()
    training = fingerprint(
        [
            {key: value for key, value in without_idle(config).items() if key not in APART},
            [model_config(config["model"]), _content(config["pretrained"])],
            [content_fingerprint(pairs), drawn, record.seeds[name]],
            [record.threads, record.device, record.precision, record.versions],
            record.machine["processor"],
            *({kind: tower["sha256"]} for kind, tower in record.towers.items()),
        ]
    )
    labels = pairs[c.LABEL].astype(object).where(pairs[c.LABEL].notna(), None).tolist()
    # A mitigation is left out where it is off, as keys from before there was such a field are.
    on = switched_on(config)
    judged = {key: config.get(key) for key in EVALUATION if not _may_be_off(key) or key in on}
    evaluation = fingerprint([training, judged, labels])
    found: dict[str, tuple[str, ...]] = {training: (LOG, TRAJECTORY, CHECKPOINT)}
    if record.snapshots:
        found[fingerprint([evaluation, record.snapshots])] = (SNAPSHOTS,)
    return found | {evaluation: (MEMBER_UTILITY, CAPTION_SCORES, IMAGE_EMBEDDINGS, TEXT_EMBEDDINGS)}


def _may_be_off(field: str) -> bool:
    return FIELDS[field].mitigates or bool(FIELDS[field].modifies)


def take(audit: Audit, name: str, *, say: Callable[[str], None] = lambda line: None) -> str:
    """Give a member the files that another study has of it; return what came: nothing, `training` or `all`.

    `say` is told which of those files was broken.
    """
    if member_progress(audit.folder, name).stage == "done":
        return ""
    *before, (evaluation, files) = parts(audit, name).items()
    if not (audit.member(name) / CHECKPOINT).is_file():
        if not all(_whole(key, say) for key, _ in before):
            return ""
        # Snapshots first: a member with a checkpoint is not trained again.
        for key, names in reversed(before):
            _link(_folder(key), audit.member(name), names)
    if not _whole(evaluation, say):
        return "training"
    _link(_folder(evaluation), audit.member(name), files)
    return "all"


def give(audit: Audit, name: str) -> None:
    """Let other studies have a finished member's files."""
    studies_folder().mkdir(parents=True, exist_ok=True)
    for key, names in parts(audit, name).items():
        with FileLock(studies_folder() / ".members.lock"):
            if not (_folder(key) / MANIFEST).is_file():
                with replacing_folder(_folder(key)) as fresh:
                    _link(audit.member(name), fresh, names)
                    write_manifest(fresh)


def _folder(key: str) -> Path:
    return studies_folder() / SHARED_MEMBERS / key


def _whole(key: str, say: Callable[[str], None]) -> bool:
    """Tell whether a part is there; one that is broken is named and thrown away."""
    folder = _folder(key)
    if not (folder / MANIFEST).is_file():
        return False
    broken = [MANIFEST]
    with contextlib.suppress(InputError):
        broken = broken_files(folder)
    if not broken:
        return True
    say(f"{folder / broken[0]} is broken: making it again")
    shutil.rmtree(folder)
    return False


def _link(source: Path, target: Path, names: tuple[str, ...]) -> None:
    for name in names:
        files = sorted((source / name).rglob("*")) if (source / name).is_dir() else [source / name]
        for file in (file for file in files if file.is_file()):
            path = target / file.relative_to(source)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                _link_or_copy(file, temporary)


def _link_or_copy(source: Path, target: Path) -> None:
    # Every file here is replaced, never changed in place, so that one that is shared stays as it is.
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _content(pretrained: str) -> str:
    """Return what tells one start from another: a file's hash, or the tag."""
    return file_sha256(Path(pretrained)) if Path(pretrained).is_file() else pretrained
