"""A cleaned data set → the table that open_clip trains from: one row a caption, commas or tabs by the file's name."""

import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from clipmem_core.atomic import replacing
from clipmem_core.columns import CAPTIONS, LABEL, PAIR_ID
from clipmem_core.exports.cleaned import Cleaned
from clipmem_core.exports.pictures import Pictures, Progress, openable

FILEPATH, TITLE = "filepath", "title"  # what open_clip looks for unless it is told otherwise
SEPARATORS = {".csv": (",", ","), ".tsv": ("\t", r"$'\t'")}  # and how a shell is told of them
PAIRS_AT_ONCE = 50_000
# Texts that pandas takes for missing values, also in quotes.
MISSING = (
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("NULL", "NaN", "None", "n/a", "nan", "null"),
)


def write_csv(cleaned: Cleaned, path: Path, *, progress: Progress | None = None) -> tuple[tuple[str, ...], str]:
    """Write the table, with commas into a `.csv` and tabs into a `.tsv`.

    Pictures that are no files yet are written into `<stem>_images` beside it.

    Returns:
        What the format cannot carry and how open_clip reads it, and the command that audits what was written.
    """
    separator, typed = SEPARATORS[path.suffix.lower()]
    with replacing(path) as temporary, openable(cleaned, path, progress=progress) as pictures:
        lost = _write_rows(cleaned, pictures, temporary, separator)
    missing = f"{lost:,} captions spell a missing value (NA, null …): pandas, and so open_clip, reads them as nan"
    reads = f"open_clip reads it with --train-data {shlex.quote(str(path))} --csv-separator {typed}"
    notes = (*pictures.notes, *([missing] if lost else []), reads)
    return notes, audit_command(cleaned, path, pictures.folder)


def _write_rows(cleaned: Cleaned, pictures: Pictures, path: Path, separator: str) -> int:
    """Write the rows some pairs at a time, and return how many captions pandas will not read as text."""
    schema = pa.schema([(name, pa.large_string()) for name in (FILEPATH, TITLE, PAIR_ID, LABEL)])
    prefix, nothing = (pa.scalar(text, pa.large_string()) for text in (f"{str(pictures.folder).rstrip('/')}/", ""))
    lost = 0
    with pa_csv.CSVWriter(path, schema, write_options=pa_csv.WriteOptions(delimiter=separator)) as writer:
        for start in range(0, cleaned.kept, PAIRS_AT_ONCE):
            pairs = cleaned.pairs.slice(start, PAIRS_AT_ONCE)
            lists = pairs[CAPTIONS].combine_chunks()
            captions, owner = pc.list_flatten(lists), pc.list_parent_indices(lists)
            paths = pc.binary_join_element_wise(prefix, pictures.names.slice(start, PAIRS_AT_ONCE), nothing)
            columns = [paths.take(owner), captions, pairs[PAIR_ID].take(owner), pairs[LABEL].take(owner)]
            writer.write_table(pa.table(columns, schema))
            lost += pc.sum(pc.is_in(captions, value_set=pa.array(MISSING, pa.large_string()))).as_py() or 0
    return lost


def audit_command(cleaned: Cleaned, path: Path, folder: Path) -> str:
    """Return what to type to audit an export: under a new name, with the audit's preset and protocol."""
    config = cleaned.audit.config["config"]
    words = ["audit", str(path), "--name", f"{cleaned.audit.name}-clean", "--image-folder", str(folder)]
    for field, usual in (("preset", "small"), ("protocol", "ensemble")):
        words += [f"--{field}", config[field]] if config.get(field, usual) != usual else []
    return f"python -m clipmem_core {shlex.join(words)}"
