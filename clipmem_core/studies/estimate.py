"""The arms of a study → how long what is left of it takes, by a few real steps of every model it trains."""

import math
from collections.abc import Collection, Mapping, Sequence

from clipmem_core import columns as c
from clipmem_core.audits.estimate import Sizes, audit_seconds
from clipmem_core.audits.pace import Pace
from clipmem_core.audits.prepare import DataSet
from clipmem_core.audits.rehearsal import measure_pace
from clipmem_core.config import AuditConfig, fingerprint
from clipmem_core.scores.membership import Membership
from clipmem_core.training.names import model_config


def seconds_by_arm(
    configs: Mapping[str, AuditConfig], data_set: DataSet, membership: Membership, *, snapshots: int
) -> dict[str, float]:
    """Measure how long one f and one g of each arm take; arms whose steps cost the same are measured once.

    Args:
        configs: of each arm, resolved, with one seed.
        data_set: what all of them train on.
        membership: who trains on what.
        snapshots: how often embeddings are kept on the way.
    """
    readable = data_set.pairs[c.IMAGE].tolist()[:50]
    measured: dict[str, tuple[Pace, float]] = {}
    found = {}
    for arm, config in configs.items():
        key = fingerprint([model_config(config.model), config.image_size, config.batch_size, config.precision])
        if key not in measured:
            measured[key] = measure_pace(config, data_set.raw, membership, readable)
        pace, starting = measured[key]
        trained = round(float(membership.trained.sum(axis=1).mean()))
        sizes = Sizes(len(data_set.pairs), int(data_set.pairs[c.CAPTIONS].map(len).sum()), trained)
        spent = audit_seconds(pace, config, sizes, starting=starting, preparing=0)
        found[arm] = sum(spent.values()) + snapshots * spent["embedding"]
    return found


def seconds_left(by_arm: Mapping[str, float], seeds: int, done: Collection[tuple[str, int]]) -> float:
    """Return the seconds of the arms and seeds that have no row yet."""
    return math.fsum(by_arm[arm] for arm, _ in left_over(list(by_arm), seeds, done))


def left_over(arms: Sequence[str], seeds: int, done: Collection[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return what is to be done, seed by seed over all arms, so that soon every arm has a point."""
    return [(arm, seed) for seed in range(seeds) for arm in arms if (arm, seed) not in done]
