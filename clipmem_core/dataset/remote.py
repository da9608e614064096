"""Fetches a data set from a URL (s3://, gs://, https:// … of fsspec) or the Hugging Face hub into
the data folder.

Many processes read the pictures many times, so a local copy costs less than requests. The name of
its folder changes with the files on the server: a data set that changed is fetched into a new one.
"""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from clipmem_core.config import SETS, fingerprint
from clipmem_core.dataset.containers import SOURCE_SUFFIXES, is_url, normal_reference
from clipmem_core.dataset.samples import expand_pattern
from clipmem_core.utils.io import InputError, replacing, shortage

AT_ONCE = 8  # files
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
        return str(_fetch_files(system, root, names, data / SETS, say) / part)
    except InputError:
        raise
    except Exception as error:  # each file system raises different classes
        if shortage(error):
            raise
        raise InputError(f"{url} cannot be reached: {reason_of(error)}") from error


def _fetch_files(
    system: Any, root: str, names: list[str], sets: Path, say: Callable[[str], None]
) -> Path:
    """Copy files of a remote folder, without those that a killed run has copied."""
    for name in names:
        if normal_reference(name) != name:
            raise InputError(f"{name!r} cannot be written as a path")
    paths = [f"{root}/{name}" for name in names]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        key = fingerprint([system.protocol, paths, *pool.map(system.ukey, paths)])
        target = sets / f"{Path(root).name or 'set'}-{key}"

        def fetch_file(path: str, name: str) -> None:
            if not (target / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                with replacing(target / name) as temporary:
                    system.get_file(path, str(temporary))

        sets.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            say(f"fetching {len(names):,} files into {target}")
            list(pool.map(fetch_file, paths, names))
    return target


def is_hub_name(source: str) -> bool:
    """Tell whether a source has the form `owner/name`, is no file name and not below a local
    folder."""
    owner = source.partition("/")[0]
    return (
        bool(_NAME.fullmatch(source))
        and not source.lower().endswith(SOURCE_SUFFIXES)
        and not Path(owner).is_dir()
    )


def fetch_split(source: str, *, split: str, folder: Path) -> Path:
    """Write one split of `owner/name` on the hub, or of a folder that `save_to_disk` made, as a
    Parquet file in a folder, once."""
    file = folder / f"{re.sub(r'[^A-Za-z0-9_.]+', '-', split)}-00000-of-00001.parquet"
    if file.is_file():
        return file
    is_saved = Path(source).exists()
    answers = is_saved or hub_answers()
    try:
        import datasets  # slow to import, and most data sets are files
    except ImportError:
        raise InputError(f"{source!r} needs a package: pip install datasets") from None
    try:
        if is_saved:
            saved = datasets.load_from_disk(source)
            pairs = saved[split] if isinstance(saved, dict) else saved
        else:
            pairs = datasets.load_dataset(source, split=split)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial:
            pairs.to_parquet(partial)
    except Exception as error:  # the library and the hub's client have a dozen unrelated kinds
        if shortage(error):
            raise
        reason = reason_of(error) if answers else "the hub does not answer"
        raise InputError(
            f"{source!r} has no split {split!r} that can be read ({reason}): check the path or "
            "the name on the hub, or choose another --split"
        ) from error
    return file


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
