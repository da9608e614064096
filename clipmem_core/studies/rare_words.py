"""Retrieval of a study's members on pairs whose caption has a rare trained word, and on the others.

Rare is a token that one or two pairs of the member's training have, whatever an arm leaves out: in every arm the same
pairs are told apart. A token that no trained pair has is not rare but unknown.
"""

import numpy as np

from clipmem_core.audits.member import tokens_of
from clipmem_core.audits.prepare import membership_of, sides_of, utility_rows
from clipmem_core.audits.store import Audit, read_embeddings
from clipmem_core.scores.utility import retrieval_ranks
from clipmem_core.training.names import model_config
from clipmem_core.training.vocabulary import caption_ends, pairs_with, words_of

RETRIEVAL_RARE, RETRIEVAL_OTHER, QUERIES_RARE = "retrieval_rare", "retrieval_other", "queries_rare"
RARE = 2  # trained pairs that have the token, at most
KS = (1, 5, 10)


def by_rarity(audit: Audit, members: tuple[str, ...]) -> dict[str, float]:
    """Return the mean of the six recalls on pairs with a rare trained word and on the others, and the share of the
    former; means over members.

    The gallery is all pairs that utility is measured on, each with its mean text embedding.
    """
    config, pairs = audit.record.config, audit.pairs
    membership = membership_of(audit.membership)
    rows = utility_rows(sides_of(audit, config, membership))
    tokens, start = tokens_of(pairs, config)
    model = model_config(config.model)
    own = tokens[start[rows]]  # the first caption of each, which all arms are judged on
    words = words_of(own, caption_ends(model, own))
    found = []
    for name in members:
        trained = np.flatnonzero(membership.trained[membership.members.index(name)])
        counts = pairs_with(model, tokens, start, trained, first=config.train_captions)[own]
        rare = (words & (counts > 0) & (counts <= RARE)).any(axis=1)
        image, text = (vectors[rows] for vectors in read_embeddings(audit.member(name)))
        ranks = np.stack(list(retrieval_ranks(image, text, np.arange(len(rows))).values()))
        hits = np.mean([ranks < k for k in KS], axis=(0, 1))
        found.append([hits[rare].mean() if rare.any() else np.nan, hits[~rare].mean(), rare.mean()])
    means = np.mean(found, axis=0)
    return dict(zip((RETRIEVAL_RARE, RETRIEVAL_OTHER, QUERIES_RARE), map(float, means), strict=True))
