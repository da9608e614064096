"""What the arms of a study share → an audit of the same pairs in which each was left out: what removals are ranked by.

In the paper's protocol a shared pair has no member that never saw it, so that it has no score; here all but the
external pairs of a split of its own have one. It lies beside the audits of the arms.
"""

import dataclasses

import pandas as pd

from clipmem_core.audits.prepare import DataSet, draw_membership
from clipmem_core.audits.run import Screen, bring_to_end
from clipmem_core.audits.setup import check_same, write_audit
from clipmem_core.audits.store import CONFIG, Audit
from clipmem_core.config import AuditConfig

RANKING = "ranking"
REPEATS = 2


def ranking_config(config: AuditConfig) -> AuditConfig:
    """Return the config of the audit that ranks, from that of the reference arm."""
    return dataclasses.replace(config, protocol="ensemble", seeds=1, members=REPEATS * config.folds)


def ranking_share(config: AuditConfig) -> float:
    """Return how long that audit takes, in units of one f and one g."""
    return REPEATS * (config.folds - 1) / 2


def bring_ranking(audit: Audit, source: str, config: AuditConfig, data_set: DataSet, *, screen: Screen) -> pd.DataFrame:
    """Finish the audit that ranks and return its scores.

    Args:
        audit: its folder, there or not.
        source: of the pairs.
        config: as `ranking_config` returns.
        data_set: the study's.
        screen: where progress goes.
    """
    if (audit.folder / CONFIG).is_file():
        check_same(audit, source, config)
    else:
        membership = draw_membership(data_set.clusters, config)
        write_audit(audit, source, config, data_set, data_set.pairs, membership, seconds=0.0)
    if not audit.finished:
        screen.say("the audit that ranks the pairs")
        bring_to_end(audit, screen, fresh=False)
    return audit.scores
