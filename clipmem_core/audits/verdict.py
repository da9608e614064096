"""What an audit may be believed in: its own checks, in sentences, with what to try where one fails."""

from typing import Any

import pandas as pd

from clipmem_core import columns as c

# An audit generalises when retrieval on external pairs closes this share of the way from chance to perfect.
GENERALISES = 0.10
# The null is flat when the groups nobody memorized stay within this share of the memorized group's mean, or within
# three standard errors of 0.
FLAT = 0.10
# Spearman between disjoint halves of the members.
STABLE = 0.5
# Membership AUROC above which members that do not generalise know their pairs by heart.
BY_HEART = 0.65
LESS_BY_HEART = (
    "try more captions a pair, a pretrained start (--pretrained), fewer epochs (--epochs) or a smaller model (--model)"
)
MORE_TRAINING = "try more epochs (--epochs), another learning rate (--lr) or a smaller batch (--batch-size)"
USES = {
    "misfit": "finds captions that are probably wrong: start with the pairs of highest misfit",
    "clipmem": "says what was learned by heart: high for wrong captions, and for rare and odd pairs that are right",
    "similarity_out": "says how well a caption fits in the eyes of members that never saw the pair: low with a high "
    "clipmem means wrong and learned by heart",
}


def retrieval_at_5(utility: pd.DataFrame) -> float:
    """Return external recall at 5, the mean of both directions and all members."""
    wanted = utility[utility[c.METRIC].isin(["image_to_text_R@5", "text_to_image_R@5"])]
    return float(wanted[c.VALUE].mean())


def judge(summary: dict[str, Any], utility: pd.DataFrame, config: dict[str, Any]) -> dict[str, Any]:
    """Turn an audit's summary into its verdict: checks, one sentence, which score is for what, and the summary."""
    checks = [
        _generalises(summary, utility),
        _null_is_flat(summary),
        _ranking_is_stable(summary, config["protocol"]),
        _learned_anything(summary),
    ]
    if config["config"]["pretrained"]:
        checks.append(_pretrained(config["config"]["pretrained"]))
    return {
        "sentence": _sentence(checks),
        "checks": checks,
        "uses": USES,
        **summary,
        "utility": utility.groupby(c.METRIC, sort=False)[c.VALUE].mean().to_dict(),
    }


def _check(name: str, good: bool | None, sentence: str, advice: str = "") -> dict[str, Any]:
    return {"name": name, "good": good, "sentence": sentence, "advice": "" if good else advice}


def _sentence(checks: list[dict[str, Any]]) -> str:
    failed = [check["name"] for check in checks if check["good"] is False]
    if failed:
        return f"Read this audit with care: {' and '.join(failed)}."
    unknown = [check["name"] for check in checks if check["good"] is None]
    if unknown:
        return f"Nothing speaks against this audit, but not everything could be checked: {'; '.join(unknown)}."
    return "This audit can be believed: its members generalise, its null groups are flat and its ranking is stable."


def _generalises(summary: dict[str, Any], utility: pd.DataFrame) -> dict[str, Any]:
    recall, chance = retrieval_at_5(utility), min(1.0, 5 / summary["external_pairs"])
    good = recall >= chance + GENERALISES * (1 - chance)
    found = f"recall at 5 on {summary['external_pairs']:,} external pairs is {recall:.3f}, chance is {chance:.3f}"
    if good:
        return _check("members generalise", True, f"The members generalise: {found}.")
    auroc = summary["membership_auroc"]
    if auroc is not None and auroc < BY_HEART:
        sentence = f"The members have learned little yet: {found}, and they hardly know seen pairs from unseen ones."
        return _check("the members have learned little", False, sentence, MORE_TRAINING)
    return _check(
        "the members hardly generalise",
        False,
        f"The members hardly generalise: {found}. What they know they know by heart, so clipmem is high everywhere "
        "and says little about single pairs.",
        LESS_BY_HEART,
    )


def _group_means(summary: dict[str, Any]) -> dict[str, float]:
    return {row["group"]: row["mean"] for row in summary["groups"] if row["mean"] is not None}


def _null_is_flat(summary: dict[str, Any]) -> dict[str, Any]:
    means = _group_means(summary)
    top = means.get(c.CANDIDATE, means.get(c.SCORED, 0.0))
    null = {name: means[name] for name in (c.SHARED, c.EXTERNAL) if name in means}
    listed = ", ".join(f"{name} {value:+.3f}" for name, value in null.items())
    floor = 3 * summary["external_sd"] / summary["external_pairs"] ** 0.5
    good = all(abs(value) <= max(FLAT * abs(top), floor) for value in null.values())
    sentence = f"Groups that nobody can have memorized lie at {listed}, memorized ones at {top:+.3f}."
    if good:
        return _check("null groups are flat", True, sentence)
    return _check(
        "a null group is not flat",
        False,
        sentence + " Read clipmem against that offset, not against 0.",
        "train more seeds (--seeds) or more repeats (--members): one member may simply be better than another",
    )


def _ranking_is_stable(summary: dict[str, Any], protocol: str) -> dict[str, Any]:
    stability = summary["ranking_stability"]
    grow = "more seeds (--seeds)" if protocol == "paper" else "more repeats (--members)"
    if stability is None:
        return _check(
            "stability of the ranking is unknown",
            None,
            f"One {'seed' if protocol == 'paper' else 'repeat'} cannot tell whether the ranking is stable.",
            f"train {grow}",
        )
    sentence = f"Two disjoint halves of the members rank the pairs alike to {stability:.2f} (Spearman)."
    if stability >= STABLE:
        return _check("the ranking is stable", True, sentence)
    return _check(
        "the ranking is not stable",
        False,
        sentence,
        f"train {grow}, or for more epochs, and trust group means before single pairs",
    )


def _learned_anything(summary: dict[str, Any]) -> dict[str, Any]:
    auroc = summary["membership_auroc"]
    if auroc is None:
        return _check("membership could not be measured", None, "No member has pairs it saw beside pairs it did not.")
    sentence = f"Alignment tells seen pairs from unseen ones with an AUROC of {auroc:.3f} (0.5 is chance)."
    if auroc >= 0.55:
        return _check("memorization is measurable", True, sentence)
    return _check(
        "hardly any memorization is measurable",
        False,
        sentence,
        "this is good news about the model, but single scores are noise: train longer (--epochs) to see more",
    )


def _pretrained(name: str) -> dict[str, Any]:
    return _check(
        "what the start had seen is unknown",
        None,
        f"Members started from {name!r}, which may have seen these pairs: clipmem counts only what was learned since.",
        "train from scratch to count everything",
    )
