"""Fetches a data set into the data folder, once: from a URL (s3://, gs://, https:// … of fsspec), or by its name from
the Hugging Face hub.

Pictures are read again and again, by many processes and pages: a copy that all of them see costs less than a request
for each. What is fetched stays; a file that changed where it came from, or that a kill cut short, is fetched again.
"""

import contextlib
import errno
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from clipmem_core.atomic import replacing
from clipmem_core.config import SETS, InputError, fingerprint
from clipmem_core.pairs.readers.files import normal_reference
from clipmem_core.pairs.readers.shards import expand_pattern
from clipmem_core.shortage import shortage

AT_ONCE = 8  # files
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before a lost connection is retried
SECONDS_BETWEEN_LINES = 30.0
_FOR_NOW = (errno.EIO, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENOTCONN)  # s3fs calls a busy server EIO
FETCHED = ".fetched.jsonl"  # name of each file that is there, and what tells whether it changed where it came from


def fetch(url: str, *, data: Path, say: Callable[[str], None] = lambda line: None) -> str:
    """Copy the file, folder or shards (a brace pattern) at a URL into the data folder and return the path there.

    Files that are already there are not copied again; file:// is read in place.
    """
    with unreachable_as_input_error(url):
        system, root, names, part = _list_files(url)
        if "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)):
            return f"{root}/{part}".rstrip("/")
        key = fingerprint([url.partition(":")[0], root])
        target = data / SETS / f"{Path(root).name or 'set'}-{key}"
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / f"{FETCHED}.lock"):
            fetch_files(system, root, names, target, say)
    return str(target / part).rstrip("/")


@contextmanager
def unreachable_as_input_error(url: str) -> Iterator[None]:
    """Raise the errors that file systems raise for a URL, each of its own class, as one InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if shortage(error):
            raise
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{url} cannot be reached: {said}") from error


def _list_files(url: str) -> tuple[Any, str, list[str], str]:
    """Return the file system, folder and file names of the data set at a URL, and the part of the folder to read."""
    import fsspec  # slow to import, and most data sets are local

    fixed, brace, rest = url.partition("{")
    if brace:
        folder, _, start = fixed.rpartition("/")
        system, root = fsspec.core.url_to_fs(folder)
        pattern = f"{start}{{{rest}"
        return system, root, [str(path) for path in expand_pattern(pattern)], pattern
    system, path = fsspec.core.url_to_fs(url)
    if system.isfile(path):
        root, _, name = path.rpartition("/")
        return system, root, [name], name
    root = path.rstrip("/")
    names = [found.removeprefix(root).lstrip("/") for found in system.find(path)]
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if not names:
        raise InputError(f"there is nothing at {url}")
    return system, root, names, ""


def fetch_files(system: Any, root: str, names: list[str], target: Path, say: Callable[[str], None]) -> None:
    """Copy files of a file system's folder into one here, those that are not there as they are now."""
    known = dict(_lines(target / FETCHED))
    noting, began, gone = threading.Lock(), time.monotonic(), list[str]()

    def one(name: str) -> None:
        """Fetch a file unless it is there as it is now. A shard that is missing is told of when it is read."""
        if normal_reference(name) != name:
            raise InputError(f"{name!r} cannot be written as a path")
        path = f"{root}/{name}"
        try:
            key = _retried(lambda: system.ukey(path), path)
            if known.get(name) == key and (target / name).is_file():
                return
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with replacing(target / name) as temporary:
                _retried(lambda: system.get_file(path, str(temporary)), path)
        except FileNotFoundError:
            if system.exists(path):  # what is missing is a file or folder on this machine
                raise
            gone.append(name)
            return
        with noting, (target / FETCHED).open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, key]) + "\n")

    say(f"fetching {len(names):,} files into {target}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for done, _ in enumerate(pool.map(one, names), start=1):
                if time.monotonic() - began > SECONDS_BETWEEN_LINES:
                    began = time.monotonic()
                    say(f"{done:,} of {len(names):,} files are here")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if len(gone) == len(names):
        raise InputError(f"there is no {gone[0]!r} in {root}")


def _retried(call: Callable[[], Any], path: str) -> Any:
    """Return what a call over the network returns; a lost connection is retried a few times."""
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:  # file systems raise kinds of their own
            if not _is_lost(error):
                raise
            if wait is None:
                said = " ".join(str(error).split())[:200] or type(error).__name__
                raise OSError(errno.EHOSTUNREACH, said, path) from error
            time.sleep(wait)
    raise AssertionError


def _is_lost(error: Exception) -> bool:
    """Tell whether an error may go away: that of a missing, forbidden or invalid file does not."""
    if isinstance(error, FileNotFoundError):  # fsspec says so of a web server that does not answer, too
        lost = isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError)
        return lost or getattr(error.__cause__, "status", 404) >= 500
    if isinstance(error, (PermissionError, ImportError, ValueError)):
        return False
    return not shortage(error) or getattr(error, "errno", None) in _FOR_NOW


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the pairs in a file of JSON lines; one that a kill cut short says nothing."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            name, key = json.loads(line)
        except ValueError:
            continue
        yield name, key


_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PATIENCE = 3.0  # seconds that the hub has to answer anything at all
_FILE_ENDINGS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".tar", ".zip", ".gz")


def is_hub_name(source: str) -> bool:
    """Say whether a source that is no path reads like `owner/name`: not a file's name, nor below a folder that is here.

    Example:
        >>> is_hub_name("nlphuji/flickr30k"), is_hub_name("pictures/captions.csv")
        (True, False)
    """
    owner = source.partition("/")[0]
    return bool(_NAME.fullmatch(source)) and not source.lower().endswith(_FILE_ENDINGS) and not Path(owner).is_dir()


def fetch_from_hub(name: str, *, split: str, data: Path) -> Path:
    """Download one split of the data set `owner/name` as a Parquet file in `sets/<owner>--<name>/`, once."""
    file = f"{re.sub(r'[^A-Za-z0-9_.]+', '-', split)}-00000-of-00001.parquet"
    target = data / SETS / name.replace("/", "--") / file
    if target.is_file():
        return target
    answers = hub_answers()
    import datasets  # slow to import, and most data sets are files

    try:
        pairs = datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub's client has a dozen unrelated kinds
        first = " ".join(str(error).split())[:160] if answers else "it does not answer"
        raise InputError(
            f"{name!r} is not a path here, and split {split!r} could not be downloaded from the Hugging Face hub "
            f"({first}): check name, --split and network, or download it elsewhere and give its folder"
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        pairs.to_parquet(partial)
    return target


def hub_answers() -> bool:
    """Say whether the hub answers. Where not, its client only takes what was downloaded before, from now on.

    Left alone, the client would wait and try again for a minute. Ask before `datasets` is imported.
    """
    from huggingface_hub import constants, get_session

    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(Exception):  # each version of the client has kinds of its own
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)  # to look up a host's name has no limit of its own
    asking.start()
    asking.join(PATIENCE)
    constants.HF_HUB_OFFLINE |= not answered.is_set()
    return answered.is_set()
