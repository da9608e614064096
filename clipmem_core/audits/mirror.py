"""Keeps a copy of an audit's folder at a URL of fsspec (s3://, gs:// …) while it runs, so that another machine can go
on with it or look at it.

Files are whole here at any moment. Every few seconds those that changed are copied, the oldest change first: a file
which says that others are complete comes after them. Of two copies that went different ways the one at the URL counts.

Machines that do not share the folder (`guests`) put their members' files there themselves, with a mark beside them:
while it is there, these files count and not those in the folder.
"""

import contextlib
import functools
import json
import os
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import fsspec

from clipmem_core.audits.lock import LEASE
from clipmem_core.audits.prepare import bring_pictures
from clipmem_core.audits.store import (
    CONFIG,
    MEMBER_UTILITY,
    MEMBERS,
    PREPARED,
    TEXT_EMBEDDINGS,
    Audit,
    write_json,
)
from clipmem_core.config import InputError, data_folder
from clipmem_core.files import parse_json, read_json
from clipmem_core.pairs.readers.remote import FETCHED, fetch_files, told
from clipmem_core.training.files import LOG

SECONDS_BETWEEN = 20.0
THERE = ".mirror.json"
DATA = ".data"  # what guests read of the data folder, below the audit's copy
GUEST = ".guest"  # the mark of a guest, in a member's folder there
HIDDEN = (PREPARED,)  # the hidden files that another machine needs; others are this one's alone

Say = Callable[[str], None]
Stamps = dict[str, tuple[int, int]]  # size and time of change of files, by their names


@dataclass(frozen=True)
class Claim:
    """Whose copy the one at the URL is of: the file `THERE`."""

    folder: str  # a key of the folder that is copied
    holder: str  # the process that copies it
    heard: float  # when it last gave a sign of life, in seconds since 1970; 0: it has ended


@dataclass
class Known:
    """What of a folder is at the URL: the file `.<name>.mirrored` beside it."""

    url: str
    folder: str = field(default_factory=lambda: uuid.uuid4().hex)
    files: Stamps = field(default_factory=dict)  # as each was when it was copied
    data: Stamps = field(default_factory=dict)  # the same of those in `DATA`


class Mirror:
    """The copy of one audit's folder, below a URL.

    Raises:
        InputError: the URL cannot be reached; one line says why.
    """

    def __init__(self, audit: Audit, url: str) -> None:
        self.audit, self.url = audit, f"{url.rstrip('/')}/{audit.name}"
        with told(self.url):
            self.system, self.root = fsspec.core.url_to_fs(self.url)
        self.note = audit.folder.with_name(f".{audit.name}.mirrored")
        self.known = read_json(self.note, Known) if self.note.is_file() else None
        self.lock = threading.Lock()  # of `known`, and of who changes the files that it tells of

    def claim(self) -> Claim | None:
        """Return whose copy is there, None where there is none."""
        with told(self.url):
            try:
                content = self.system.cat_file(f"{self.root}/{THERE}")
            except FileNotFoundError:
                return None
        return parse_json(content, Claim, path=Path(THERE), mend=f"delete {self.url}, and copy the audit anew")

    def take(self, say: Say) -> None:
        """Have this folder be the one that is copied, and bring it up to what is there.

        Raises:
            InputError: another process works on the copy, or it is of another audit.
        """
        claim = self.claim()
        ours = claim is not None and self.known is not None and claim.folder == self.known.folder
        if claim is not None and not ours and time.time() - claim.heard < LEASE:
            raise InputError(
                f"audit {self.audit.name!r} is being run by another process ({claim.holder}), says {self.url}: "
                "wait for it, or stop it"
            )
        if not (ours and self.audit.begun) and CONFIG in self._names():
            self.fetch(say)
        elif not ours or self.known is None or self.known.url != self.url:
            self.known = Known(self.url)
        self._note()
        self._tell(time.time())
        self.bring(self.left_by_guests())

    def fetch(self, say: Say) -> None:
        """Replace the folder here by the one there.

        Raises:
            InputError: there is none, or the one here does not come from there.
        """
        if self.audit.begun and self.known is None:
            raise InputError(
                f"audit {self.audit.name!r} is here and at {self.url}, and one is no copy of the other: take another "
                "--name, or delete one"
            )
        folder, names = self.audit.folder, self._names()
        if CONFIG not in names:
            raise InputError(f"there is no audit at {self.url}")
        new = folder.with_name(f".{folder.name}.fetched")
        new.mkdir(parents=True, exist_ok=True)
        with told(self.url):
            fetch_files(self.system, self.root, names, new, say)
        (new / FETCHED).unlink()
        for name in stamps(new).keys() - set(names):  # of a fetch that was killed, and gone there since
            (new / name).unlink()
        self.known = Known(self.url, files=stamps(new))
        self._note()  # before the folder is there, which without it were no copy
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)

    def push(self, *, wait: bool = True) -> None:
        """Copy what changed since the last time; where that is being done, do it then, or `wait` for it.

        Raises:
            InputError: the URL cannot be reached, or another machine has taken the audit over.
        """
        assert self.known is not None
        claim = self.claim()
        if claim is not None and claim.folder != self.known.folder:
            raise InputError(f"audit {self.audit.name!r} was taken over at {self.url} by {claim.holder}")
        self._tell(time.time())
        if not self.lock.acquire(blocking=wait):
            return
        try:
            if self.put_changed(stamps(self.audit.folder) if self.audit.begun else {}):
                self._note()
        finally:
            self.lock.release()

    def put_changed(self, files: Stamps) -> bool:
        """Copy those of some files that changed, and delete there what is no longer among them; tell whether any was.

        Raises:
            InputError: the URL cannot be reached.
        """
        assert self.known is not None
        gone = [name for name in self.known.files if name not in files]
        changed = [name for name, stamp in files.items() if self.known.files.get(name) != stamp]
        for name in gone:  # first: what says that others are complete goes before they change
            with told(self.url), contextlib.suppress(FileNotFoundError):
                self.system.rm_file(f"{self.root}/{name}")
            del self.known.files[name]
        for name in sorted(changed, key=lambda name: files[name][1]):
            if (self.audit.folder / name).is_file():
                self._put(self.audit.folder / name, name)
                self.known.files[name] = files[name]
        return bool(gone or changed)

    def put_data(self, paths: Sequence[Path], say: Say) -> None:
        """Copy files of the data folder to where guests read them, but those that are there.

        Raises:
            InputError: the URL cannot be reached.
        """
        assert self.known is not None
        own = {path.relative_to(data_folder()).as_posix(): (path, _stamp(path)) for path in paths}
        new = {name: found for name, found in own.items() if self.known.data.get(name) != found[1]}
        if new:
            size = sum(stamp[0] for _, stamp in new.values())
            say(f"copying what members read, {size / 1e9:.1f} GB, to {self.url}")
        for name, (path, stamp) in new.items():
            self._put(path, f"{DATA}/{name}")
            with self.lock:
                self.known.data[name] = stamp
                self._note()

    def left_by_guests(self) -> dict[str, list[str]]:
        """Return of each member whose files there count, and not those here, the names of these files."""
        names, own = self.find(MEMBERS), dict[str, list[str]]()
        for mark in [name for name in names if name.endswith(f"/{GUEST}")]:
            folder = mark.removesuffix(GUEST)
            own[folder.split("/")[1]] = [name for name in names if name.startswith(folder) and name != mark]
        return own

    def bring(self, members: Collection[str]) -> None:
        """Fetch what guests have left of members; from then on the files here count.

        Raises:
            InputError: the URL cannot be reached.
        """
        for member, names in self.left_by_guests().items():
            if member in members:
                folder = f"{MEMBERS}/{member}"
                last = [name for end in (MEMBER_UTILITY, TEXT_EMBEDDINGS) if (name := f"{folder}/{end}") in names]
                with self.lock:
                    for part in ([name for name in names if name not in last], *([name] for name in last)):
                        self._get(part)
                    for name in [name for name in stamps(self.audit.folder) if name.startswith(f"{folder}/")]:
                        if name not in names:
                            (self.audit.folder / name).unlink()
                with told(self.url):
                    self.system.rm_file(f"{self.root}/{folder}/{GUEST}")

    def bring_logs(self) -> None:
        """Fetch the logs of the members that guests are at, which tell how far they are.

        Raises:
            InputError: the URL cannot be reached.
        """
        for member, names in self.left_by_guests().items():
            if (name := f"{MEMBERS}/{member}/{LOG}") in names:
                with self.lock:
                    self._get([name])

    def leave(self) -> None:
        """Copy the rest, and let another process go on with it; of an audit that did not begin nothing stays."""
        self.push()
        assert self.known is not None
        if self.known.files:
            self._tell(0.0)
            return
        with told(self.url):  # and nothing else that may lie there
            self.system.rm_file(f"{self.root}/{THERE}")
            if self.known.data:
                self.system.rm(f"{self.root}/{DATA}", recursive=True)
        self.note.unlink()

    def find(self, below: str = "") -> list[str]:
        """Return the names of the files there, or of those below a folder of it.

        Raises:
            InputError: the URL cannot be reached.
        """
        with told(self.url):
            self.system.invalidate_cache()  # another machine may have written since
            paths = self.system.find(f"{self.root}/{below}".rstrip("/"))
        return [path.removeprefix(self.root).lstrip("/") for path in paths]

    def _names(self) -> list[str]:
        """Return the names of the files of the audit's folder that are there."""
        return [
            name
            for name in self.find()
            if name != THERE and not name.startswith(f"{DATA}/") and not name.endswith(f"/{GUEST}")
        ]

    def _note(self) -> None:
        assert self.known is not None
        self.note.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.note, asdict(self.known))

    def _put(self, path: Path, name: str) -> None:
        there = f"{self.root}/{name}"
        with told(self.url):
            self.system.makedirs(there.rpartition("/")[0], exist_ok=True)
            self.system.put_file(str(path), there)

    def _get(self, names: list[str]) -> None:
        """Fetch files into the folder, where they are then as they are there."""
        assert self.known is not None
        with told(self.url):
            fetch_files(self.system, self.root, names, self.audit.folder, lambda line: None)
        (self.audit.folder / FETCHED).unlink()
        self.known.files |= {name: _stamp(self.audit.folder / name) for name in names}
        self._note()

    def _tell(self, heard: float) -> None:
        assert self.known is not None
        claim = Claim(self.known.folder, f"process {os.getpid()} on {platform.node()}", heard)
        with told(self.url):
            self.system.makedirs(self.root, exist_ok=True)
            self.system.pipe_file(f"{self.root}/{THERE}", json.dumps(asdict(claim)).encode())


@contextmanager
def mirrored(audit: Audit, url: str, *, say: Say) -> Iterator[Mirror]:
    """Keep a copy of an audit's folder up to date while the block runs; where another machine went on with it, the
    folder is fetched from there first.

    Args:
        audit: the audit; its folder may not be there yet.
        url: of the folder that its copy is in.
        say: told what is fetched, and where a file could not be copied yet.

    Raises:
        InputError: the URL cannot be reached, another process works on the copy, or it is of another audit.
    """
    mirror = Mirror(audit, url)
    mirror.take(say)
    with kept_up(functools.partial(mirror.push, wait=False), mirror.leave, say=say):
        yield mirror


@contextmanager
def kept_up(push: Callable[[], None], leave: Callable[[], None], *, say: Say) -> Iterator[None]:
    """Call `push` again and again while the block runs, and `leave` at its end.

    Raises:
        InputError: the last call could not copy everything.
    """
    ended = threading.Event()

    def keep_up() -> None:
        while not ended.wait(SECONDS_BETWEEN):
            try:
                push()
            except (InputError, OSError) as error:
                say(f"note: {error}; trying again")

    copying = threading.Thread(target=keep_up, daemon=True)
    copying.start()
    try:
        yield
    except BaseException:
        _end(copying, ended)
        with contextlib.suppress(InputError, OSError):  # what ended the block is what is told
            leave()
        raise
    _end(copying, ended)
    leave()


def _end(copying: threading.Thread, ended: threading.Event) -> None:
    ended.set()
    copying.join()


def fetch_audit(url: str, *, say: Say) -> Audit:
    """Fetch an audit that is kept at a URL, and its pictures, to look at it here; again, as it is by then.

    Raises:
        InputError: there is none, or the one of its name here is no copy of it.
    """
    parent, _, name = url.rstrip("/").rpartition("/")
    audit = Audit.of(name)
    mirror = Mirror(audit, parent)
    claim = mirror.claim()
    if claim is not None and mirror.known is not None and claim.folder == mirror.known.folder:
        raise InputError(f"audit {name!r} is run from this folder, and {url} is a copy of it: nothing is to be fetched")
    mirror.fetch(say)
    try:
        bring_pictures(audit.record, say=say)
    except InputError as error:
        say(f"note: its pictures are shown once they are in {audit.record.pictures} ({error})")
    return audit


def stamps(folder: Path) -> Stamps:
    """Return size and time of change of each file that is copied, by its name in the folder."""
    found = {}
    for path in folder.rglob("*"):
        if path.name.startswith(".") and path.name not in HIDDEN:
            continue
        with contextlib.suppress(FileNotFoundError):  # replaced a moment ago
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = _stamp(path)
    return found


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_ctime_ns  # of its renaming: it may have been written before one that was renamed
