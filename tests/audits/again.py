"""The embeddings of a finished audit, and the terms of its scores, read without the code under test."""

import numpy as np
import pandas as pd

from clipmem_core.audits.store import Audit
from tests.audits.small import vectors

Terms = dict[str, np.ndarray]


def embeddings(audit: Audit, member: str) -> tuple[np.ndarray, np.ndarray]:
    return vectors(audit.member(member) / "image.npy"), vectors(audit.member(member) / "text.npy")


def aligned(image: np.ndarray, text: np.ndarray, external: np.ndarray) -> Terms:
    """Pair by pair, with the external pairs other than itself as negatives."""
    rows = np.flatnonzero(external)
    terms: Terms = {name: np.empty(len(image)) for name in ("positive", "negative_text", "negative_image")}
    for i in range(len(image)):
        others = rows[rows != i]
        terms["positive"][i] = image[i] @ text[i]
        terms["negative_text"][i] = np.mean(text[others] @ image[i])
        terms["negative_image"][i] = np.mean(image[others] @ text[i])
    lengths = np.linalg.norm(image, axis=1) * np.linalg.norm(text, axis=1)
    terms["similarity"] = terms["positive"] / lengths
    terms["alignment"] = terms["positive"] - terms["negative_text"] - terms["negative_image"]
    return terms


class Again:
    """What the tests need of an audit, read without the code under test."""

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self.scores = pd.read_parquet(audit.folder / "scores.parquet")
        table = pd.read_parquet(audit.folder / "membership.parquet")
        self.group = table["group"].to_numpy(dtype=str)
        self.members = table.columns[2:].tolist()
        self.trained = table[self.members].to_numpy().T
        self.external = self.group == "external"
        self.terms = [aligned(*embeddings(audit, name), self.external) for name in self.members]

    def over(self, name: str, chosen: np.ndarray) -> np.ndarray:
        """Mean of a term over the chosen members of each pair, [n_members, n_pairs] → [n_pairs]."""
        values = np.stack([terms[name] for terms in self.terms])
        with np.errstate(invalid="ignore"):
            return np.where(chosen, values, 0).sum(axis=0) / chosen.sum(axis=0)
