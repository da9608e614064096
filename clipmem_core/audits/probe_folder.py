"""Checks the folder of a linear probe's data set, without importing torch."""

from pathlib import Path

from clipmem_core.config import InputError


def probe_folders(folder: str) -> tuple[Path, Path]:
    """Return the training and test folders of an ImageFolder data set.

    Raises:
        InputError: one of them is missing, or has no class in it.
    """
    root = Path(folder)
    tests = [root / name for name in ("val", "test") if (root / name).is_dir()]
    if not (root / "train").is_dir() or not tests:
        raise InputError(
            f"probe-data {folder!r} needs the folders train/ and val/ (or test/), one folder a class in each"
        )
    for part in (root / "train", tests[0]):
        if not any(path.is_dir() for path in part.iterdir()):
            raise InputError(f"probe-data {str(part)!r} needs one folder a class, it has none")
    return root / "train", tests[0]
