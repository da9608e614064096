"""Keeps a copy of an audit's folder at a URL of fsspec (s3://, gs:// …) while it runs, so that another machine can go
on with it or look at it.

Files are whole here at any moment. Every few seconds those that changed are copied, the oldest change first: a file
which says that others are complete comes after them. Of two copies that went different ways the one at the URL counts.
"""

import contextlib
import json
import os
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import fsspec

from clipmem_core.audits.lock import LEASE
from clipmem_core.audits.prepare import bring_pictures
from clipmem_core.audits.store import CONFIG, PREPARED, SO_FAR, Audit, write_json
from clipmem_core.config import InputError
from clipmem_core.files import parse_json, read_json
from clipmem_core.pairs.readers.remote import FETCHED, fetch_files, told

SECONDS_BETWEEN = 20.0
THERE = ".mirror.json"
HIDDEN = (PREPARED, SO_FAR)  # the hidden files that another machine needs; others are this one's alone

Say = Callable[[str], None]


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
    files: dict[str, tuple[int, int]] = field(default_factory=dict)  # size and time of change, when each was copied


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
        elif self.known is None or self.known.url != self.url:
            self.known = Known(self.url)
        self._note()
        self._tell(time.time())

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
        for name in _stamps(new).keys() - set(names):  # of a fetch that was killed, and gone there since
            (new / name).unlink()
        self.known = Known(self.url, files=_stamps(new))
        self._note()  # before the folder is there, which without it were no copy
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)

    def push(self) -> None:
        """Copy what changed since the last time.

        Raises:
            InputError: the URL cannot be reached, or another machine has taken the audit over.
        """
        assert self.known is not None
        claim = self.claim()
        if claim is not None and claim.folder != self.known.folder:
            raise InputError(f"audit {self.audit.name!r} was taken over at {self.url} by {claim.holder}")
        self._tell(time.time())
        files = _stamps(self.audit.folder) if self.audit.begun else {}
        gone = [name for name in self.known.files if name not in files]
        changed = [name for name, stamp in files.items() if self.known.files.get(name) != stamp]
        for name in gone:  # first: what says that others are complete goes before they change
            with told(self.url), contextlib.suppress(FileNotFoundError):
                self.system.rm_file(f"{self.root}/{name}")
            del self.known.files[name]
        for name in sorted(changed, key=lambda name: files[name][1]):
            if (self.audit.folder / name).is_file():
                with told(self.url):
                    self._put(name)
                self.known.files[name] = files[name]
        if gone or changed:
            self._note()

    def leave(self) -> None:
        """Copy the rest, and let another process go on with it; of an audit that did not begin nothing stays."""
        self.push()
        assert self.known is not None
        if self.known.files:
            self._tell(0.0)
            return
        with told(self.url):
            self.system.rm_file(f"{self.root}/{THERE}")
        self.note.unlink()

    def _names(self) -> list[str]:
        """Return the names of the files there, apart from the claim."""
        with told(self.url):
            self.system.invalidate_cache()  # another machine may have written since
            paths = self.system.find(self.root)
        names = [path.removeprefix(self.root).lstrip("/") for path in paths]
        return [name for name in names if name != THERE]

    def _note(self) -> None:
        assert self.known is not None
        self.note.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.note, asdict(self.known))

    def _put(self, name: str) -> None:
        there = f"{self.root}/{name}"
        self.system.makedirs(there.rpartition("/")[0], exist_ok=True)
        self.system.put_file(str(self.audit.folder / name), there)

    def _tell(self, heard: float) -> None:
        assert self.known is not None
        claim = Claim(self.known.folder, f"process {os.getpid()} on {platform.node()}", heard)
        with told(self.url):
            self.system.makedirs(self.root, exist_ok=True)
            self.system.pipe_file(f"{self.root}/{THERE}", json.dumps(asdict(claim)).encode())


@contextmanager
def mirrored(audit: Audit, url: str, *, say: Say) -> Iterator[None]:
    """Keep a copy of an audit's folder up to date while the block runs; where another machine went on with it, the
    folder is fetched from there first.

    Args:
        audit: the audit; its folder may not be there yet.
        url: of the folder that its copy is in.
        say: told what is fetched, and where a file could not be copied yet.

    Raises:
        InputError: the URL cannot be reached, another process works on the copy, or it is of another audit.
    """
    mirror, ended = Mirror(audit, url), threading.Event()
    mirror.take(say)

    def keep_up() -> None:
        while not ended.wait(SECONDS_BETWEEN):
            try:
                mirror.push()
            except (InputError, OSError) as error:
                say(f"note: {error}; trying again")

    copying = threading.Thread(target=keep_up, daemon=True)
    copying.start()
    try:
        yield
    except BaseException:
        _end(copying, ended)
        with contextlib.suppress(InputError, OSError):  # what ended the block is what is told
            mirror.leave()
        raise
    _end(copying, ended)
    mirror.leave()


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


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of each file that is copied, by its name in the folder."""
    found = {}
    for path in folder.rglob("*"):
        if path.name.startswith(".") and path.name not in HIDDEN:
            continue
        with contextlib.suppress(FileNotFoundError):  # replaced a moment ago
            if path.is_file():
                status = path.stat()
                found[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)
    return found
