"""What the members of an audit train where towers are locked, and what can be said of them then, in words."""

from clipmem_core.config import AuditConfig

SIDES = ("image", "text")


def locked_towers(config: AuditConfig) -> dict[str, str]:
    """Return the names of the locked towers, by side: image, text.

    Example:
        >>> locked_towers(AuditConfig(lock_text=True, text_tower="all-MiniLM-L6-v2"))
        {'text': 'all-MiniLM-L6-v2'}
    """
    return {side: _tower(config, side) for side in SIDES if getattr(config, f"lock_{side}")}


def _tower(config: AuditConfig, side: str) -> str:
    return getattr(config, f"{side}_tower") or f"{config.model} ({config.pretrained})"


def model_words(config: AuditConfig) -> str:
    """Return in a few words what each member is.

    Example:
        >>> model_words(AuditConfig()), model_words(AuditConfig(lock_text=True, text_tower="all-MiniLM-L6-v2"))
        ('model small', 'model small and a head on all-MiniLM-L6-v2')
    """
    towers = locked_towers(config)
    if len(towers) == len(SIDES):
        return f"heads on {' and '.join(towers.values())}"
    return " and ".join([f"model {config.model}", *(f"a head on {name}" for name in towers.values())])


def whose_parts(config: AuditConfig) -> str:
    """Return a sentence on what an encoder's part of clipmem is where a tower is locked; empty where none is."""
    towers = locked_towers(config)
    if len(towers) == len(SIDES):
        return "Both towers are locked: an encoder's part is what its head learned by heart, a tower itself has none."
    return "".join(f"The {side} tower is locked: its part is what the head on it learned by heart." for side in towers)


def why_no_units(config: AuditConfig) -> str:
    """Return why UnitMem cannot be measured on an audit; empty where it can."""
    towers = locked_towers(config)
    if not towers:
        return ""
    which = "both towers are" if len(towers) == len(SIDES) else f"the {next(iter(towers))} tower is"
    return (
        f"UnitMem and the three paradigms need encoders that are trained on the pairs, and here {which} locked: their "
        "units are those that pretraining left. Audit the data set with another preset, such as small, to measure them."
    )
