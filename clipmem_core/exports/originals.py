"""An audit that planted mis-captions → the captions its data set has, read again and proved to be the same."""

from typing import Any

from clipmem_core import columns as c
from clipmem_core.audits.prepare import content_fingerprint
from clipmem_core.audits.settings import config_from
from clipmem_core.audits.store import PAIRS, Audit, read_table
from clipmem_core.config import InputError, data_folder
from clipmem_core.pairs.table import read_source


def planted_captions(audit: Audit) -> dict[str, list[str]]:
    """Return the own captions of the pairs that the audit gave another's; empty where it planted none.

    The audit keeps the key of its data set's content as it was before captions were swapped: what is read again must
    give the same key with every id, picture and caption.

    Raises:
        InputError: the source cannot be read, or is no longer what the audit read.
    """
    stored = audit.config
    if not is_planted(audit):
        return {}
    pairs = read_table(audit.folder / PAIRS)
    rows = pairs[c.PLANTED] == c.MISCAPTION
    own = _own_captions(audit, stored)
    restored = {pair_id: own[pair_id] for pair_id in pairs.loc[rows, c.PAIR_ID] if pair_id in own}
    texts = [
        restored.get(pair_id, captions) for pair_id, captions in zip(pairs[c.PAIR_ID], pairs[c.CAPTIONS], strict=True)
    ]
    if content_fingerprint(pairs.assign(**{c.CAPTIONS: texts})) != stored["dataset_fingerprint"]:
        raise _refusal(audit, f"{stored['source']} is no longer what the audit read")
    return restored


def is_planted(audit: Audit) -> bool:
    """Tell whether the audit gave pairs another's captions."""
    fields = audit.config.get("config")
    return bool(isinstance(fields, dict) and fields.get("plant_miscaptions"))


def _own_captions(audit: Audit, stored: dict[str, Any]) -> dict[str, list[str]]:
    config = config_from(stored["config"])
    try:
        pairs = read_source(stored["source"], config.source, data=data_folder()).pairs
    except InputError as error:
        raise _refusal(audit, str(error)) from None
    most = config.captions or None
    return {pair_id: captions[:most] for pair_id, captions in zip(pairs[c.PAIR_ID], pairs[c.CAPTIONS], strict=True)}


def _refusal(audit: Audit, reason: str) -> InputError:
    return InputError(
        f"audit {audit.name!r} planted wrong captions, and the right ones cannot be had back ({reason}): "
        "audit the data set without --plant-miscaptions and export that"
    )
