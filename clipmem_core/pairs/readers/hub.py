"""Fetches a data set from the Hugging Face hub by its name, once, as a Parquet file with the pictures inside."""

import contextlib
import re
import threading
from pathlib import Path
from typing import Any

from clipmem_core.atomic import replacing
from clipmem_core.config import SETS, InputError

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
    """Download one split of a data set, or find the copy made before.

    Args:
        name: `owner/name` on the hub.
        split: one of its splits.
        data: the data folder; the copy goes into `sets/<owner>--<name>/`.

    Returns:
        The Parquet file.

    Raises:
        InputError: there is no network, no such data set or no such split.
    """
    file = f"{re.sub(r'[^A-Za-z0-9_.]+', '-', split)}-00000-of-00001.parquet"
    target = data / SETS / name.replace("/", "--") / file
    if target.is_file():
        return target
    pairs = _download(name, split)
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


def _download(name: str, split: str) -> Any:
    answers = hub_answers()
    import datasets  # slow to import, and most data sets are files

    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub's client has a dozen unrelated kinds
        first = " ".join(str(error).split())[:160] if answers else "it does not answer"
        raise InputError(
            f"{name!r} is not a path here, and split {split!r} could not be downloaded from the Hugging Face hub "
            f"({first}): check name, --split and network, or download it elsewhere and give its folder"
        ) from error
