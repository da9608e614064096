"""Members on machines that do not share the folder of their audit: each works in a folder of its own, on the copy that
`mirror` keeps at a URL, and puts its members' files there while they run.

    <data folder of the guest>/guests/<key of the URL>/audits/<audit>/    of the copy what all members read, and its own
      .data/    the data folder of their processes: of that of the machine that asks, what they read

And the process of some of them: python -m clipmem_core.audits.guests AUDIT_FOLDER MEMBER…
"""

import contextlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from clipmem_core.audits.executor import MEMBER, Copy, Executor, Looks, Task, run_task
from clipmem_core.audits.prepare import pixels_folder, tokens_file
from clipmem_core.audits.settings import opens_towers
from clipmem_core.audits.store import CONFIG, MEMBERS, MEMBERSHIP, PAIRS, PREPARED, Audit
from clipmem_core.config import DATA_VARIABLE, InputError, data_folder, fingerprint
from clipmem_core.pairs.pixels import CACHE_FILE, PIXELS_FILE

if TYPE_CHECKING:  # fsspec, which most audits need nothing of
    from clipmem_core.audits.mirror import Mirror

GUESTS = "guests"
SHARED = (CONFIG, PAIRS, MEMBERSHIP, PREPARED)  # what every member reads of the audit's folder


def through(mirror: "Mirror", executor: Executor, *, say: Callable[[str], None]) -> Executor:
    """Return an executor whose tasks may run on machines that do not share the folder of a mirrored audit."""
    from clipmem_core.audits.mirror import SECONDS_BETWEEN

    def run(tasks: Sequence[Task]) -> Looks:
        assert mirror.known is not None
        if any(task.what == MEMBER for task in tasks):
            mirror.push()
            mirror.put_data(read_by_members(mirror.audit), say)
        copy, looked = Copy(mirror.url, mirror.known.folder), time.monotonic()
        try:
            with closing(executor([replace(task, copy=copy) for task in tasks])) as looks:
                for ended in looks:
                    if ended is not None and ended.what == MEMBER:
                        mirror.bring(ended.names)
                    elif time.monotonic() - looked > SECONDS_BETWEEN:
                        with contextlib.suppress(InputError):  # they are there a while later
                            mirror.bring_logs()
                        looked = time.monotonic()
                    yield ended
        except InputError:
            with contextlib.suppress(InputError):
                mirror.bring_logs()  # a new audit of which there are none is given up
            raise

    return run


def read_by_members(audit: Audit) -> list[Path]:
    """List the files of the data folder that members of an audit read; tokens are made where they are not there."""
    from clipmem_core.audits.locked import open_towers  # torch, and of `member` as well
    from clipmem_core.audits.member import cached_tokens
    from clipmem_core.features.embed import features_folder

    record, store = audit.record, pixels_folder(audit)
    config = record.config
    if config.features:
        return sorted(store.iterdir())
    pairs, found = audit.pairs, list[Path]()
    features = open_towers(audit, record, pairs)[1]
    for values in (features.image, features.text):
        if values is not None:
            folder = features_folder().joinpath(*Path(values.filename).parts[-3:-1])  # type: ignore[attr-defined]  # mapped
            found += sorted(folder.iterdir())
    if not config.lock_image:
        found += [path for name in (CACHE_FILE, PIXELS_FILE) if (path := store / name).is_file()]
    if not config.lock_text:
        cached_tokens(config.model, pairs)
        found.append(tokens_file(config.model, pairs))
    return found


def shares(task: Task) -> bool:
    """Tell whether this machine works in the very folders that the one which asks does.

    Of an audit that is kept at a URL they must lie in this machine's own data folder, where it has one, and be those
    that the copy is of: a machine that ran the audit before has others under the same path.
    """
    if not all(folder.is_dir() for folder in task.folders):
        return False
    if task.copy is None:
        return True
    data, own = task.data or data_folder().absolute(), os.environ.get(DATA_VARIABLE)
    if own and Path(own).absolute() != data:
        return False
    known = _mirror(task.copy, data).known
    return known is not None and known.folder == task.copy.folder


def run_sharing(task: Task) -> None:
    """Run a task in the folder of the machine that asks; members that a guest was at go on from what it left.

    Raises:
        InputError, OSError, RuntimeError: as of `run_task`, and the URL cannot be reached.
    """
    if task.copy is not None and task.what == MEMBER:
        _mirror(task.copy, task.data or data_folder()).bring(task.names)
    run_task(task)


def run_guest(task: Task) -> None:
    """Run members on the copy of their audit, in this machine's own data folder; what they leave comes to the URL.

    Raises:
        InputError: the URL cannot be reached, or a member could not be run here.
        OSError: this machine ran short of something.
        RuntimeError: a member died.
    """
    from clipmem_core.audits.mirror import DATA, Known, Stamps, kept_up, stamps

    assert task.copy is not None
    mirror = _mirror(task.copy, data_folder().absolute() / GUESTS / fingerprint([task.copy.url]))
    audit, own = mirror.audit, tuple(f"{MEMBERS}/{name}/" for name in task.names)
    folders = tuple(map(audit.member, task.names))

    def files() -> Stamps:
        return {name: stamp for name, stamp in stamps(audit.folder).items() if name.startswith(own)}

    def push() -> None:
        mirror.put_changed(files())

    try:
        _fetch(mirror, task.names)
        mirror.known = Known(mirror.url, files=files())
        program = (task.program[0], "-m", "clipmem_core.audits.guests", str(audit.folder))
        with kept_up(push, push, say=lambda line: None):
            run_task(replace(task, folders=folders, program=program, data=audit.folder / DATA))
    except (InputError, RuntimeError) as error:
        raise type(error)(f"{error} (on {platform.node()})") from None
    for folder in folders:
        shutil.rmtree(folder)


def _mirror(copy: Copy, data: Path) -> "Mirror":
    """Return the copy of an audit, for a machine that has a folder of it in this data folder."""
    from clipmem_core.audits.mirror import Mirror

    url, _, name = copy.url.rpartition("/")
    return Mirror(Audit(data / Audit.PARENT / name), url)


def _fetch(mirror: "Mirror", members: Sequence[str]) -> None:
    """Have in the folder what members read, which is fetched once, and their own files as they are at the URL; from
    then on the files there count.

    Raises:
        InputError: the URL cannot be reached, there is no audit, or this machine's folder cannot be written.
    """
    from clipmem_core.audits.mirror import DATA, GUEST
    from clipmem_core.pairs.readers.remote import fetch_files, told

    folder, own = mirror.audit.folder, tuple(f"{MEMBERS}/{name}/" for name in members)
    for name in members:
        shutil.rmtree(mirror.audit.member(name), ignore_errors=True)  # of a run whose worker was lost
    names = [name for name in mirror.find() if name in SHARED or name.startswith((f"{DATA}/", *own))]
    if CONFIG not in names:
        raise InputError(f"there is no audit at {mirror.url}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except PermissionError:
        raise InputError(f"{folder} cannot be written: set {DATA_VARIABLE} there before `ray start`") from None
    # Tasks of one machine fetch one after the other: the first has the others' as well.
    with FileLock(folder.with_name(f".{folder.name}.lock")), told(mirror.url):
        fetch_files(mirror.system, mirror.root, names, folder, lambda line: None)
    for name in own:
        with told(mirror.url):
            mirror.system.pipe_file(f"{mirror.root}/{name}{GUEST}", platform.node().encode())


def run_visiting(folder: Path, names: Sequence[str]) -> None:
    """Run members of a copy in this process.

    Raises:
        InputError: this machine lacks something that the audit reads and that is not copied; one line says what.
    """
    from clipmem_core.audits.locked import towers_of
    from clipmem_core.audits.member import run_members
    from clipmem_core.features.embed import features_folder

    audit = Audit(folder)
    record = audit.record
    towers = towers_of(record.config) if opens_towers(record.config) else None
    for tower in (towers.image, towers.text) if towers else ():
        if tower and not (features_folder() / tower.key).is_dir():
            raise InputError(
                f"the {tower.kind} tower {tower.name} is another one here ({tower.key}) than where its features were "
                "computed: install the same weights and libraries on all machines"
            )
    stored = record.config.lock_image or (pixels_folder(audit) / PIXELS_FILE).is_file()
    if not stored and not record.pictures.is_dir():
        raise InputError(
            f"there is no {record.pictures} here, and the small pictures are not stored: give more --cache-gb"
        )
    run_members(folder, names)


if __name__ == "__main__":
    from clipmem_core.audits.__main__ import main

    sys.exit(main(sys.argv[1:], run_visiting))
