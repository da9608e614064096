"""What an audit may be believed in: its own checks, in sentences, with what to try where one fails."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from clipmem_core import columns as c
from clipmem_core.config import AuditConfig
from clipmem_core.files import mapping, numbers
from clipmem_core.scores.registry import QUEUE, USE, Queue, scores_in

BASIS = (
    "Estimate and 95 % interval of sampling without replacement (hypergeometric); for wrong captions together with "
    "the uncertainty of their count in the sample. Look-alikes and repeated captions are at least as many as in the "
    "sample: how many more cannot be told from it."
)
# An audit generalises when retrieval on external pairs closes this share of the way from chance to perfect.
GENERALISES = 0.10
# The null is flat when the groups nobody memorized stay within this share of the memorized group's mean, or within
# three standard errors of 0.
FLAT = 0.10
# Reliability of the scores shown; from two repeats it is this where halves of the members agree to .5.
STABLE = 2 / 3
RELIABILITY, STABILITY = "ranking_reliability", "ranking_stability"
WRONG = "wrong captions"  # the count of a sample
WHOLE = ("found", "among", "whole", "low", "high")  # numbers of it
WHOLE_HEAD = ("count", "in the sample", "of", "in the whole set", "low", "high")
TRAINED_SHARE = "trained_share"  # of the scored pairs, by each member of an ensemble
SECOND_LEFT_OUT = "second_round_left_out"  # pairs, of an audit with a second round
# Membership AUROC above which members that do not generalise memorize their pairs.
BY_HEART = 0.65
LESS_BY_HEART = (
    "try more captions a pair, a pretrained start (--pretrained), fewer epochs (--epochs) or a smaller model (--model)"
)
MORE_TRAINING = "try more epochs (--epochs), another learning rate (--lr) or a smaller batch (--batch-size)"
LITTLE, HARDLY = "the members have learned little", "the members hardly generalise"


def queues(verdict: Any) -> dict[str, Queue]:
    """Return the words of the lists of pairs that a person looks at first, by score: as strong as the checks allow.

    Args:
        verdict: verdict.json as it was read, of whatever shape.
    """
    tone, _ = _doubt(verdict)
    found = {name: score.queue for name, score in scores_in(QUEUE).items() if score.queue}
    return {
        score: Queue(
            f"{queue.doubted}, {tone}" if tone and queue.doubted else queue.name,
            f"{queue.sentence} {doubt(verdict)}".strip(),
        )
        for score, queue in found.items()
    }


def uses(verdict: Any) -> dict[str, str]:
    """Return which score is for what, as far as the checks allow; `verdict` as in `queues`."""
    tone, failed = _doubt(verdict)
    return {
        name: f"{score.use_doubted}; {tone}: {failed}" if tone and score.use_doubted else score.use
        for name, score in scores_in(USE).items()
    }


def doubt(verdict: Any) -> str:
    """Return a sentence on how to take what the scores say of single pairs, empty where no check failed."""
    tone, failed = _doubt(verdict)
    return f"{tone.capitalize()}: {failed}." if tone else ""


def likely_wrong(verdict: Any) -> tuple[str, str]:
    """Return how many captions the scores count as wrong, and how that is estimated; empty without a count."""
    told = mapping(mapping(verdict).get("wrong_captions"))
    ends = numbers([told.get(name) for name in ("estimate", "low", "high")], 3)
    if not ends:
        return "", str(told.get("missing") or "")
    captions = "caption probably belongs" if round(ends[0]) == 1 else "captions probably belong"
    sentence = "About {:,.0f} {} to another picture ({:,.0f}–{:,.0f})".format(ends[0], captions, *ends[1:])
    if whole := next((row for row in whole_rows(verdict) if row[0] == WRONG), None):
        apart = ", without the injected errors," if told.get("planted") else ""
        sentence += f" in the sample; in the whole set{apart} about {whole[3]} ({whole[4]}–{whole[5]})"
    injected = numbers([told.get("planted", 0), told.get("planted_vague", 0)], 2)
    if kinds := [f"{count:,.0f} {kind}" for count, kind in zip(injected, ("wrong", "vague"), strict=False) if count]:
        sentence += f"; injected: {', '.join(kinds)}"
    if near := numbers(told.get("near"), 3):
        sentence += f". With captions taken from similar pictures, up to {max(near[2], ends[2]):,.0f}"
    sentence += ". Single wrong words are not counted."
    stop = numbers([told.get("stop")], 1)
    if stop and (left := numbers(told.get("left"), 3)):
        sentence += " Review the top {:,.0f}; about {:,.0f} ({:,.0f}–{:,.0f}) will remain.".format(*stop, *left)
    return sentence, " ".join(filter(None, [str(told.get("assumptions") or ""), doubt(verdict)]))


def whole_rows(verdict: Any) -> list[tuple[str, ...]]:
    """Return what a verdict says of the whole set that its pairs are a sample of, each number as text.

    Returns:
        Rows of what is counted, found, among how many of the sample, and the whole set's estimate, low and high.
    """
    counts = mapping(mapping(verdict).get("sample")).get("counts")
    rows = [mapping(row) for row in counts] if isinstance(counts, list) else []
    told = [(str(row.get("count")), numbers([row.get(name) for name in WHOLE], len(WHOLE))) for row in rows]
    return [(count, *(f"{value:,.0f}" for value in values)) for count, values in told if values]


def _doubt(verdict: Any) -> tuple[str, str]:
    """Return how the scores are to be taken where a check failed, and which; empty where none did."""
    listed = verdict.get("checks") if isinstance(verdict, dict) else None
    checks = [check for check in listed if isinstance(check, dict)] if isinstance(listed, list) else []
    if not checks:
        return "read with care", "this audit has no verdict"
    failed = [_plain(check.get("name")) for check in checks if check.get("good") is False]
    # Fit is what members tell of pairs they never saw, so there is none where these are told apart no better than by
    # chance. The other checks are about memorization.
    tone = "not to be trusted here" if {LITTLE, HARDLY} & set(failed) else "read with care" if failed else ""
    return tone, " and ".join(failed)


def _plain(name: Any) -> str:
    """Return a check's name, unless it is none of ours: it reaches places that read Markdown."""
    ours = isinstance(name, str) and len(name) < 80 and name.replace(" ", "").isalpha()
    return name if ours else "a check of it fails"


def retrieval_at_5(utility: pd.DataFrame) -> float:
    """Return external recall at 5, the mean of both directions and all members."""
    wanted = utility[utility[c.METRIC].isin(["image_to_text_R@5", "text_to_image_R@5"])]
    return float(wanted[c.VALUE].mean())


def judge(
    summary: dict[str, Any],
    utility: pd.DataFrame,
    config: AuditConfig,
    *,
    towers: Mapping[str, Mapping[str, Any]] | None = None,
    cut: int = 0,
) -> dict[str, Any]:
    """Turn an audit's summary into its verdict: checks, one sentence, which score is for what, and the summary."""
    checks = [
        _generalises(summary, utility),
        _null_is_flat(summary),
        _ranking_is_stable(summary, config.protocol),
        _learned_anything(summary),
    ]
    if summary.get(TRAINED_SHARE):
        checks.append(_trained_on(summary[TRAINED_SHARE]))
    if summary.get("sample"):
        checks.append(_sampled(summary["sample"]))
    if summary.get(SECOND_LEFT_OUT):
        checks.append(_second_round(summary[SECOND_LEFT_OUT]))
    if towers:
        checks.append(_locked(towers, cut))
    if config.pretrained and not (config.lock_image and config.lock_text):
        checks.append(_pretrained(config.pretrained))
    return {
        "sentence": _sentence(checks),
        "checks": checks,
        "uses": uses({"checks": checks}),
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
    return (
        "These results look reliable: members generalise, held-out pairs show no memorization, and the ranking is "
        "stable."
    )


def _generalises(summary: dict[str, Any], utility: pd.DataFrame) -> dict[str, Any]:
    queries = summary.get("utility_pairs", summary["external_pairs"])
    recall, chance = retrieval_at_5(utility), min(1.0, 5 / queries)
    good = recall >= chance + GENERALISES * (1 - chance)
    found = f"recall at 5 on {queries:,} external pairs is {recall:.3f}, chance is {chance:.3f}"
    if good:
        return _check("members generalise", True, f"The members generalise: {found}.")
    auroc = summary["membership_auroc"]
    if auroc is not None and auroc < BY_HEART:
        sentence = f"The members have learned little yet: {found}, and they hardly know seen pairs from unseen ones."
        return _check(LITTLE, False, sentence, MORE_TRAINING)
    return _check(
        HARDLY,
        False,
        f"The members hardly generalise: {found}. They memorize what they know, so clipmem is high everywhere "
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
    reliability = summary[RELIABILITY]
    grow = "more seeds (--seeds)" if protocol == "paper" else "more repeats (--members)"
    if reliability is None:
        return _check(
            "stability of the ranking is unknown",
            None,
            f"One {'seed' if protocol == 'paper' else 'repeat'} cannot tell whether the ranking is stable.",
            f"train {grow}",
        )
    sentence = (
        f"The ranking of the pairs has a reliability of {reliability:.2f} (Spearman–Brown), since two disjoint halves "
        f"of the members rank them alike to {summary[STABILITY]:.2f} (Spearman)."
    )
    if reliability >= STABLE:
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


def _trained_on(share: float) -> dict[str, Any]:
    """Say of how large a model's data the scores are: a member of an ensemble never trains on all scored pairs."""
    sentence = (
        f"Each member trains on {share:.0%} of the scored pairs: clipmem is what models of so much data learned by "
        "heart. One that trains on all of them may memorize a pair more or less."
    )
    return _check("what members train on is told", True, sentence)


def _sampled(sample: dict[str, Any]) -> dict[str, Any]:
    """Say that not all pairs were audited, and what that is to clipmem."""
    sentence = (
        f"This audit is of {sample['pairs']:,} pairs, a random sample of {sample['of']:,}: clipmem is what members "
        "memorized that train on the sample; on the whole set they would memorize a pair more or less."
    )
    return _check("what was sampled is told", True, sentence)


def _second_round(left_out: int) -> dict[str, Any]:
    """Say what misfit is by, and that nothing else is."""
    sentence = (
        f"Members were trained a second time, without the {left_out:,} pairs that the first time takes for wrong: "
        "misfit is by that, all other scores by the first time."
    )
    return _check("what the second round left out is told", True, sentence)


def _pretrained(name: str) -> dict[str, Any]:
    return _check(
        "what the start had seen is unknown",
        None,
        f"Members started from {name!r}, which may have seen these pairs: clipmem counts only what was learned since.",
        "train from scratch to count everything",
    )


def _locked(towers: Mapping[str, Mapping[str, Any]], cut: int) -> dict[str, Any]:
    """Say what clipmem means where towers are locked, and what these may have seen."""
    both = len(towers) > 1
    which = "Both encoders are" if both else f"The {next(iter(towers))} encoder is"
    learners = "the heads" if both else "the heads and the other encoder"
    sentence = (
        f"{which} locked and the same in all members: clipmem is what {learners} memorized, "
        "and nothing of what a pretrained encoder knew before."
    )
    for said in dict.fromkeys(_seen(tower) for tower in towers.values()):
        sentence += f" {said}"
    if cut:
        context = towers["text"]["context"]
        sentence += f" {cut:,} captions are longer than the {context} tokens that are read of each."
    return _check("what is locked is told", True, sentence)


def _seen(tower: Mapping[str, Any]) -> str:
    """Say what a tower may have seen, naming it."""
    name, seen = tower["name"], str(tower.get("seen", ""))
    return f"{name}{seen.removeprefix('It')}" if seen.startswith("It ") else f"{name}: {seen[:1].lower()}{seen[1:]}"
