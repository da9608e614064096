"""Whether an audit's results are reliable: its checks as sentences, with advice where one fails."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from clipmem_core.config import AuditConfig
from clipmem_core.dataset.languages import spaces_words
from clipmem_core.features.tower_by_language import describe_languages
from clipmem_core.scores.registry import QUEUE_SCORES, USE_SCORES, Queue
from clipmem_core.utils import columns as c

# Members generalise if recall at 5 on held-out pairs closes this share of the gap between chance
# and 1.
GENERALISES = 0.10
# Groups that no member can memorize must score within this share of the memorized group's mean, or
# within three standard errors of 0.
FLAT = 0.10
STABLE = 2 / 3  # reliability: halves of the members of two replicates agree to .5
# members that do not generalise and have a membership AUROC below this learned little
LITTLE_AUROC = 0.65
MEASURABLE = 0.55  # membership AUROC, which is .5 by chance; set by hand
DISTRUST = "not to be trusted here"
RELIABILITY = "ranking_reliability"
SECOND_LEFT_OUT = "second_round_left_out"
PART = "part"  # of a pair, that is trained on and scored: caption or sentence
LANGUAGES = "languages"
NOT_READ = "captions_not_read"
UNSPACED = "words are not separated by spaces and cannot be split: no evidence on single words"
LITTLE = "the members have learned little"
HARDLY = "the members hardly generalise"
# Failed, passed.
NULL_CHECK = ("held-out pairs do not score 0", "held-out pairs show no memorization")


def queues(verdict: Mapping[str, Any]) -> dict[str, Queue]:
    """Return name and sentence of each list of pairs to review, by score; weaker if a check
    failed."""
    tone = _tone(verdict)[0]
    warning = doubt(verdict)
    return {
        name: Queue(
            f"{queue.doubted}, {tone}" if tone and queue.doubted else queue.name,
            f"{queue.sentence} {warning}".strip(),
        )
        for name, score in QUEUE_SCORES.items()
        if (queue := score.queue)
    }


def uses(verdict: Mapping[str, Any]) -> dict[str, str]:
    """Return which score to use for what; weaker if a check failed."""
    tone, failed = _tone(verdict)
    return {
        name: f"{score.use_doubted}; {tone}: {failed}" if tone and score.use_doubted else score.use
        for name, score in USE_SCORES.items()
    }


def is_distrusted(verdict: Mapping[str, Any]) -> bool:
    """Tell whether the members learned too little to tell wrong captions from right ones."""
    return _tone(verdict)[0] == DISTRUST


def doubt(verdict: Mapping[str, Any]) -> str:
    """Return a warning about the scores of single pairs; empty if no check failed."""
    tone, failed = _tone(verdict)
    return f"{tone.capitalize()}: {failed}." if tone else ""


def _tone(verdict: Mapping[str, Any]) -> tuple[str, str]:
    """Return how far the scores can be trusted, and the checks that failed; both empty if none
    failed."""
    failed = [check["name"] for check in verdict["checks"] if check["good"] is False]
    # Members that learned little cannot tell wrong captions from right ones. The other checks are
    # about memorization.
    tone = DISTRUST if {LITTLE, HARDLY} & set(failed) else "read with care" if failed else ""
    return tone, " and ".join(failed)


def summary_lines(verdict: Mapping[str, Any]) -> list[str]:
    """Return two lines: how many pairs have a wrong caption and of what kind, and which errors are
    not counted.

    Lines are empty if there is nothing to say.
    """
    wrong = verdict["wrong_captions"]
    if missing := wrong["missing"]:
        return [f"{missing[:1].upper()}{missing[1:]}.", ""]
    part = verdict[PART]
    sentences = [_count(wrong, part)]
    if wrong["injected"] or wrong["injected_vague"]:
        counts = f"{wrong['injected']:,} wrong, {wrong['injected_vague']:,} vague"
        sentences.append(f"Injected on purpose: {counts}.")
    unseen = ["wrong words"]
    if "words" in wrong["counted"]:
        unseen = [f"wrong {kind['kind']}s" for kind in wrong["kinds"] if not kind["seen"]]
    if wrong["several"] and "captions" not in wrong["counted"]:
        unseen.append(f"single wrong {part}s")
    warnings = [doubt(verdict)] if is_distrusted(verdict) else []
    if unseen:
        warnings.append(f"Not or hardly seen, so check by eye: {', '.join(unseen)}.")
    return [" ".join(sentences), " ".join(warnings)]


def _count(wrong: Mapping[str, Any], part: str) -> str:
    """Return how many pairs have a wrong caption; the counts of each kind add up."""
    n, low, high = (round(wrong["all"][name]) for name in ("estimate", "low", "high"))
    if not n:
        return (
            f"No caption looks wrong; at most {high:,} of {wrong['of']:,} pairs have one that is."
        )
    # Rounded so that the parts add up
    checked, *parts = np.diff(np.rint(np.cumsum([0.0, *wrong["parts"]]))).astype(int).tolist()
    names = ("every caption", f"one {part}", "one word")
    if not wrong["several"]:
        names = ("the whole caption", "", "one word")
    kinds = sorted(zip(parts, names, strict=True), reverse=True)
    listed = [f"in {count:,} {name}" for count, name in kinds if count]
    sentences = [
        f"About {n:,} of {wrong['of']:,} {'pair has' if n == 1 else 'pairs have'} a wrong caption "
        f"(95 % sure: {low:,} to {high:,})."
    ]
    if listed:
        first, *others = listed
        sentences.append(f"{', '.join([f'I{first[1:]} is wrong', *others])}.")
    if checked:
        sentences.append(
            f"{checked:,} {'has' if checked == 1 else 'have'} no caption at all: a file name, an "
            "error text or the like, or a placeholder picture."
        )
    return " ".join(sentences)


def make_verdict(
    summary: dict[str, Any],
    utility: pd.DataFrame,
    config: AuditConfig,
    *,
    towers: Mapping[str, Mapping[str, Any]],
    cut: int,
) -> dict[str, Any]:
    """Turn an audit's summary into its verdict: checks, one sentence, and the summary."""
    means = utility.groupby(c.METRIC, sort=False)[c.VALUE].mean().to_dict()
    checks = [
        _generalises(summary, (means["image_to_text_R@5"] + means["text_to_image_R@5"]) / 2),
        _null_is_flat(summary),
        _ranking_is_stable(summary, config.protocol),
        _memorization_is_measurable(summary["membership_auroc"]),
        *_notes(summary, config, towers, cut),
    ]
    failed, unknown = (
        [check["name"] for check in checks if check["good"] is good] for good in (False, None)
    )
    sentence = "The scores are stable. This does not say that the captions are right."
    if failed:
        sentence = f"Treat these results with care: {' and '.join(failed)}."
    elif unknown:
        sentence = f"No check failed, but not everything could be checked: {'; '.join(unknown)}."
    return {"sentence": sentence, "checks": checks, **summary, "utility": means}


def _check(name: str, good: bool | None, sentence: str, advice: str = "") -> dict[str, Any]:
    return {"name": name, "good": good, "sentence": sentence, "advice": "" if good else advice}


def _generalises(summary: dict[str, Any], recall: float) -> dict[str, Any]:
    queries = summary.get("utility_pairs", summary["held_out_pairs"])
    chance = min(1.0, 5 / queries)
    measured = f"recall at 5 on {queries:,} held-out pairs is {recall:.3f} (chance {chance:.3f})."
    if recall >= chance + GENERALISES * (1 - chance):
        return _check("members generalise", True, f"Members generalise: {measured}")
    if summary["membership_auroc"] < LITTLE_AUROC:
        advice = "try more --epochs, another --lr or a smaller --batch-size"
        return _check(LITTLE, False, f"Members have learned little: {measured}", advice)
    sentence = f"Members hardly generalise: {measured} clipmem says little about single pairs."
    advice = "try more captions a pair, --pretrained, fewer --epochs or a smaller --model"
    return _check(HARDLY, False, sentence, advice)


def _null_is_flat(summary: dict[str, Any]) -> dict[str, Any]:
    means = {row["group"]: row["mean"] for row in summary["groups"] if row["mean"] is not None}
    top = means.get(c.CANDIDATE, means.get(c.SCORED, 0.0))
    null = {name: means[name] for name in (c.SHARED, c.HELD_OUT) if name in means}
    listed = " and ".join(
        f"{value:+.3f} for {c.group_words(name)} pairs" for name, value in null.items()
    )
    limit = max(FLAT * abs(top), 3 * summary["held_out_sd"] / summary["held_out_pairs"] ** 0.5)
    good = all(abs(value) <= limit for value in null.values())
    return _check(
        NULL_CHECK[good],
        good,
        f"Mean clipmem is {listed}, where it should be 0, and {top:+.3f} for pairs that can be "
        "memorized.",
        "compare clipmem with that, not with 0, and train more --seeds or --members",
    )


def _ranking_is_stable(summary: dict[str, Any], protocol: str) -> dict[str, Any]:
    reliability = summary[RELIABILITY]
    flag = "--seeds" if protocol == "paper" else "--members"
    if reliability is None:
        sentence = f"The stability of the ranking can only be measured with more {flag}."
        return _check("stability of the ranking is unknown", None, sentence, f"train more {flag}")
    good = reliability >= STABLE
    return _check(
        "the ranking is stable" if good else "the ranking is not stable",
        good,
        f"The ranking of the pairs has a reliability of {reliability:.2f} (Spearman–Brown): the "
        f"rankings by two halves of the members correlate by {summary['ranking_stability']:.2f} "
        "(Spearman).",
        f"train more {flag} or --epochs, and trust group means more than single pairs",
    )


def _memorization_is_measurable(auroc: float) -> dict[str, Any]:
    good = auroc >= MEASURABLE
    return _check(
        "memorization is measurable" if good else "hardly any memorization is measurable",
        good,
        "A plain threshold on alignment, without an attacker's shadow models, separates a member's "
        f"training pairs from others with an AUROC of {auroc:.3f} (0.5 is chance).",
        "scores of single pairs are noise: train longer (--epochs) to see more",
    )


def _notes(
    summary: dict[str, Any], config: AuditConfig, towers: Mapping[str, Mapping[str, Any]], cut: int
) -> list[dict[str, Any]]:
    """Return notes on how the scores were made, as checks that cannot fail."""
    notes = {}
    if share := summary.get("trained_share"):
        notes["share of the pairs in training"] = (
            f"Each member trains on {share:.0%} of the scored pairs, and clipmem measures "
            "memorization at that size. A model trained on all of them may memorize a pair more or "
            "less."
        )
    if sample := summary.get("sample"):
        notes["random sample"] = (
            f"This audit covers {sample['pairs']:,} pairs, a random sample of {sample['of']:,}."
        )
    if left_out := summary.get(SECOND_LEFT_OUT):
        notes["second round of training"] = (
            f"Members were trained a second time without the {left_out:,} pairs that are probably "
            "wrong. misfit uses the second round; all other scores use the first."
        )
    if languages := summary.get(LANGUAGES):
        unspaced = "" if spaces_words(languages) else f" Their {UNSPACED}."
        notes["languages"] = f"Captions: {describe_languages(languages, config)}.{unspaced}"
    if towers:
        below = f" below their last blocks ({config.unlock})" if config.unlock else ""
        trained_on = [f"{each['name']} was trained on {each['seen']}." for each in towers.values()]
        if cut:
            trained_on.append(
                f"{cut:,} {summary[PART]}s are cut to the {towers['text']['context']} tokens it "
                "reads."
            )
        notes["locked encoders"] = (
            f"Locked and the same in all members: the {' and the '.join(towers)} encoder{below}. "
            "clipmem is what members learned, not what a pretrained encoder knew before. "
            f"{' '.join(dict.fromkeys(trained_on))}"
        )
    checks = [_check(name, True, sentence) for name, sentence in notes.items()]
    if count := summary.get(NOT_READ):
        sentence = f"{count:,} captions are in languages that {config.text_tower} does not read. "
        sentence += "They have no p_wrong, and no count includes them."
        advice = "audit again with a --text-tower that reads them"
        checks.append(_check("some captions are not read", None, sentence, advice))
    if config.pretrained and not (config.lock_image and config.lock_text):
        sentence = (
            f"{config.pretrained!r} may have seen these pairs: clipmem counts only what "
            "members learned since."
        )
        advice = "train from scratch to count all"
        checks.append(_check("the start may have seen these pairs", None, sentence, advice))
    return checks
