"""Find and replace in the captions of many pairs: what would change, and storing it as one event of the log."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import regex

from clipmem_core.audits.store import PAIRS, Audit
from clipmem_core.columns import CAPTIONS, PAIR_ID
from clipmem_core.config import InputError
from clipmem_core.review.decisions import RECAPTION, REMOVE, Decision, Edit, Outcome, open_review
from clipmem_core.review.tables import fetch_columns

SECONDS = 5.0  # that a pattern may take on all captions together
LONGEST = 5_000  # characters of a caption that it may grow to


@dataclass(frozen=True)
class Rule:
    """What is looked for and what comes in its place.

    Of a regular expression `replace` may name groups, \\1 or \\g<name>; otherwise both are taken as they are.
    """

    find: str
    replace: str = ""
    regular: bool = False
    match_case: bool = True


@dataclass(frozen=True)
class Change:
    """The captions of one pair as they stand and as they would be, and the pair's entry of the log then."""

    pair_id: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    entry: int

    @property
    def captions(self) -> list[tuple[str, str]]:
        """Those that change, before and after."""
        return [(old, new) for old, new in zip(self.before, self.after, strict=True) if old != new]


@dataclass(frozen=True)
class Changes:
    """What a rule would do. Pairs that are to be removed are not looked at."""

    pairs: tuple[Change, ...]
    emptied: int  # captions that would have nothing left, and stay as they are
    removed: int  # pairs that are to be removed

    @property
    def captions(self) -> int:
        """How many captions change."""
        return sum(len(change.captions) for change in self.pairs)


def preview(audit: Audit, pair_ids: Sequence[str], rule: Rule) -> Changes:
    """Return what a rule changes in the captions of pairs as they stand: the new ones where a pair was recaptioned.

    Args:
        audit: a finished audit.
        pair_ids: which pairs.
        rule: what to find, what to put in its place.

    Raises:
        InputError: there is nothing to find, the pattern or its replacement cannot be read, it takes longer than
            `SECONDS`, or it makes a caption longer than `LONGEST` characters; a file is missing or broken.
    """
    replaced = _replacing(rule)
    own, stands = _own_captions(audit, pair_ids), open_review(audit).decisions(list(pair_ids))
    changes, emptied, removed = [], 0, 0
    for pair_id, captions in own.items():
        decision = stands.get(pair_id)
        if decision is not None and decision.decision == REMOVE:
            removed += 1
            continue
        before = _standing(captions, decision)
        wanted = tuple(map(replaced, before))
        emptied += sum(not new.strip() for new in wanted)
        after = tuple(new if new.strip() else old for old, new in zip(before, wanted, strict=True))
        if after != before:
            changes.append(Change(pair_id, before, after, decision.entry if decision else 0))
    return Changes(tuple(changes), emptied, removed)


def store_changes(audit: Audit, changes: Changes) -> Outcome:
    """Store changes as one event, which is undone as one; pairs that were decided on since the preview stay.

    It does not count as a judgement of the captions: what people found is estimated without it.

    Raises:
        InputError: nothing is to be changed, or the log cannot be written; then nothing is.
    """
    edits = {change.pair_id: Edit(change.after, change.entry) for change in changes.pairs}
    return open_review(audit).edit(edits, audit=audit.name, apart=True)


def _standing(own: tuple[str, ...], decision: Decision | None) -> tuple[str, ...]:
    recaptioned = decision is not None and decision.decision == RECAPTION
    return decision.captions if decision is not None and recaptioned else own


def _own_captions(audit: Audit, pair_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    asked = pa.table({"asked": pa.array(list(pair_ids), pa.string())})
    query = f'SELECT "{PAIR_ID}", {CAPTIONS} FROM parquet SEMI JOIN asked ON "{PAIR_ID}" = asked.asked'
    found = fetch_columns(audit.folder / PAIRS, query, asked=asked)
    known = {pair_id: tuple(map(str, own)) for pair_id, own in zip(found[PAIR_ID], found[CAPTIONS], strict=True)}
    return {pair_id: known[pair_id] for pair_id in pair_ids if pair_id in known}


def _replacing(rule: Rule) -> Callable[[str], str]:
    """Return what replaces in a text, and takes no more than `SECONDS` for all of them.

    Raises:
        InputError: as `preview`, also when it is called.
    """
    if not rule.find:
        raise InputError("there is nothing to find: write what is to be replaced")
    try:
        pattern = regex.compile(
            rule.find if rule.regular else regex.escape(rule.find), 0 if rule.match_case else regex.IGNORECASE
        )
    except regex.error as error:
        raise InputError(f"the pattern cannot be read: {error}") from None
    template = rule.replace if rule.regular else lambda found: rule.replace
    ends = time.monotonic() + SECONDS

    def replaced(text: str) -> str:
        try:
            new = str(pattern.sub(template, text, timeout=max(1e-3, ends - time.monotonic())))
        except TimeoutError:
            raise InputError(f"the pattern takes longer than {SECONDS:g} seconds: write it more simply") from None
        except (regex.error, IndexError) as error:
            raise InputError(f"what comes in its place cannot be read: {error}") from None
        if len(new) > max(LONGEST, len(text)):
            raise InputError(f"a caption would become longer than {LONGEST:,} characters: find less, or put in less")
        return text if new == text else " ".join(new.split())

    return replaced
