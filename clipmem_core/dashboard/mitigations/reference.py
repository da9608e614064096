"""A study's arm `none` → what every setting is measured by: its config, its captions, the pairs it trains on."""

import functools
from dataclasses import dataclass

from clipmem_core import columns as c
from clipmem_core.audits.store import MEMBERSHIP, PAIRS, Audit
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.studies.basis import reference_config
from clipmem_core.studies.mitigations import NONE
from clipmem_core.studies.store import STUDY, StudyFolder
from clipmem_core.training.names import model_config


@dataclass(frozen=True)
class Reference:
    """What settings start from: the config of `none`, the most captions of a pair, how many pairs f and g share.

    Captions and pairs are 0 until `none` has begun to train.
    """

    config: AuditConfig
    captions: int = 0
    shared: int = 0

    @property
    def dim(self) -> int:
        """Numbers in an embedding; 0 where the model's config does not say."""
        try:
            return int(model_config(self.config.model)["embed_dim"])
        except (InputError, KeyError, TypeError, ValueError):
            return 0


def reference_of(study: StudyFolder) -> Reference:
    """Return what a study's settings start from.

    Raises:
        InputError: a file of the study does not say it.
    """
    try:
        config = reference_config(study)
    except (AttributeError, KeyError, TypeError):
        fix = f"delete {study.folder} and run the study again"
        raise InputError(f"{study.folder / STUDY} does not say what none ran with: {fix}") from None
    audit = study.audit(NONE)
    files = [audit.folder / name for name in (PAIRS, MEMBERSHIP)]
    if not all(path.is_file() for path in files):
        return Reference(config)
    return Reference(config, *_counts(audit, tuple(path.stat().st_mtime_ns for path in files)))


@functools.lru_cache(maxsize=8)
def _counts(audit: Audit, moments: tuple[int, ...]) -> tuple[int, int]:
    """Return the most captions of a pair, and the shared pairs, of files that were written at these moments."""
    pairs, membership = audit.pairs, audit.membership
    if c.CAPTIONS not in pairs or c.GROUP not in membership or pairs.empty:
        raise InputError(f"{audit.folder} lacks captions or groups: delete it and run the study again")
    return int(pairs[c.CAPTIONS].map(len).max()), int((membership[c.GROUP] == c.SHARED).sum())
