"""Fetches a data set from a URL (s3://, gs://, https:// … of fsspec) or the Hugging Face hub into
the data folder.

Many processes read the pictures many times, so a local copy costs less than requests. A file that
changed on the server, or whose download was killed, is fetched again.
"""

import contextlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from clipmem_core.config import SETS, fingerprint
from clipmem_core.dataset.readers.containers import SOURCE_SUFFIXES, is_url, normal_reference
from clipmem_core.dataset.readers.samples import expand_pattern
from clipmem_core.utils.io import InputError, replacing, shortage

AT_ONCE = 8  # files
# name of each local file, and a key that changes with the file on the server
_FETCHED = ".fetched.jsonl"
_PATIENCE = 3.0  # seconds in which the hub must answer
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def reason_of(error: Exception) -> str:
    """Return the message of another library's error as one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def fetch_source(url: str, *, data: Path, say: Callable[[str], None]) -> str:
    """Return the local path of a data set; files at a URL are copied into the data folder once, but
    not file://."""
    if not is_url(url):
        return url
    import fsspec  # slow to import, and most data sets are local

    try:
        folder = url.partition("{")[0].rpartition("/")[0] if "{" in url else url
        system, root = fsspec.core.url_to_fs(folder)
        part = url.removeprefix(folder).lstrip("/")
        root = root.rstrip("/")
        if part:
            names = [str(path) for path in expand_pattern(part)]
        elif system.isfile(root):
            root, _, part = root.rpartition("/")
            names = [part]
        else:
            names = [path.removeprefix(root).lstrip("/") for path in system.find(root)]
            names = [name for name in names if "/." not in f"/{name}"]
        if not names:
            raise InputError(f"there is no data set at {url}")
        if isinstance(system, fsspec.implementations.local.LocalFileSystem):
            return f"{root}/{part}".rstrip("/")
        key = fingerprint([url.partition(":")[0], root])
        target = data / SETS / f"{Path(root).name or 'set'}-{key}"
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / f"{_FETCHED}.lock"):
            _fetch_files(system, root, names, target, say)
    except InputError:
        raise
    except Exception as error:  # each file system raises different classes
        if shortage(error):
            raise
        raise InputError(f"{url} cannot be reached: {reason_of(error)}") from error
    return str(target / part).rstrip("/")


def _fetch_files(
    system: Any, root: str, names: list[str], target: Path, say: Callable[[str], None]
) -> None:
    """Copy the files of a remote folder that are missing or have changed."""
    present = dict[str, str]()
    (target / _FETCHED).touch()
    for line in (target / _FETCHED).read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):  # a line that a kill cut short
            name, key = json.loads(line)
            present[name] = key

    def fetch_file(name: str) -> None:
        if normal_reference(name) != name:
            raise InputError(f"{name!r} cannot be written as a path")
        path = f"{root}/{name}"
        key = system.ukey(path)
        if present.get(name) == key and (target / name).is_file():
            return
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(target / name) as temporary:
            system.get_file(path, str(temporary))
        with (target / _FETCHED).open("a", encoding="utf-8") as file:  # one write a line
            file.write(json.dumps([name, key]) + "\n")

    say(f"fetching {len(names):,} files into {target}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(fetch_file, names))


def is_hub_name(source: str) -> bool:
    """Tell whether a source has the form `owner/name`, is no file name and not below a local
    folder."""
    owner = source.partition("/")[0]
    return (
        bool(_NAME.fullmatch(source))
        and not source.lower().endswith(SOURCE_SUFFIXES)
        and not Path(owner).is_dir()
    )


def fetch_from_hub(name: str, *, split: str, data: Path) -> Path:
    """Download one split of the data set `owner/name` as a Parquet file in `sets/<owner>--<name>/`,
    once."""
    file = f"{re.sub(r'[^A-Za-z0-9_.]+', '-', split)}-00000-of-00001.parquet"
    target = data / SETS / name.replace("/", "--") / file
    if target.is_file():
        return target
    online = hub_answers()
    try:
        import datasets  # slow to import, and most data sets are files
    except ImportError:
        raise InputError(f"{name!r} on the hub needs a package: pip install datasets") from None
    try:
        pairs = datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub's client has a dozen unrelated kinds
        first = reason_of(error) if online else "it does not answer"
        raise InputError(
            f"{name!r} is no path, and the hub has no split {split!r} of it ({first})"
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        pairs.to_parquet(partial)
    return target


def hub_answers() -> bool:
    """Tell whether the hub answers; if not, set its client offline. Call this before `datasets` is
    imported."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception:  # each version of the client has kinds of its own
        constants.HF_HUB_OFFLINE = True
        return False
    return True
