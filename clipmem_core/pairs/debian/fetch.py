"""Real, dirty data sets out of Debian's archive: a package name becomes a folder of pictures and a captions.jsonl.

    python -m clipmem_core fetch openclipart|tuxpaint

Packages are downloaded and unpacked with apt-get and dpkg-deb, which need no root. Everything is built beside its place
and renamed at the end, so a set that is there is complete.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from clipmem_core.config import DATA_VARIABLE, SETS, InputError
from clipmem_core.pairs.debian.captions import name_words, write_captions
from clipmem_core.pairs.debian.dublin_core import read_dublin_core

Report = Callable[[str], None]

PACKAGES = {
    "openclipart": ["openclipart-png", "openclipart-svg"],
    "tuxpaint": ["tuxpaint-stamps-default"],
}
CAPTIONS_FILE = "captions.jsonl"
INSTEAD = "use any folder of pictures with captions, or `scenes`"
PROGRESS_EVERY = 1000  # pictures

_TRANSLATION = re.compile(r"[\w@]+\.utf8=", re.I)  # a stamp's text in another language: `de.utf8=Ein Apfel.`


@dataclass(frozen=True)
class Picture:
    """A picture in an unpacked package: its file, and its path below the package's folder of pictures."""

    file: Path
    path: Path

    @property
    def label(self) -> str | None:
        return self.path.parts[0] if len(self.path.parts) > 1 else None


def fetch(name: str, *, data: Path, report: Report) -> Path:
    """Fetch a data set from Debian's archive, unless it is there already.

    Args:
        name: "openclipart" (8,121 drawings) or "tuxpaint" (about 950 stamps).
        data: the data folder; the set goes to its `sets/<name>/`.
        report: called with short lines of progress.

    Returns:
        The set's folder: `images/` with the original files, and `captions.jsonl` with one object a line
        (image: path inside the folder, captions: a list of one, label: the top folder), sorted by path.

    Raises:
        InputError: the set is unknown, apt is missing, a package cannot be had or used, or there is no room to write.
    """
    if name not in PACKAGES:
        raise InputError(f"data set {name!r} is unknown: choose one of {', '.join(PACKAGES)}")
    target = data / SETS / name
    if not _is_finished(target):
        _require_tools(name)
        _build_locked(name, target, report)
    count = len((target / CAPTIONS_FILE).read_bytes().splitlines())
    report(f"{target}: {count:,} pictures")
    return target


def _is_finished(target: Path) -> bool:
    return (target / CAPTIONS_FILE).is_file()


def _require_tools(name: str) -> None:
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise InputError(f"fetch {name} needs {' and '.join(missing)}, found on Debian and Ubuntu only: {INSTEAD}")


def _build_locked(name: str, target: Path, report: Report) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{name}.lock"):  # two at once would unpack over each other
            _build_once(name, target, report)
    except OSError as error:
        advice = f"make room or set {DATA_VARIABLE} to another folder"
        raise InputError(f"{target} cannot be written ({error.strerror or error}): {advice}") from error


def _build_once(name: str, target: Path, report: Report) -> None:
    if _is_finished(target):  # by another process, while this one waited
        return
    if target.exists():
        raise InputError(f"{target} is there but has no {CAPTIONS_FILE}: move it away and fetch again")
    _remove_unfinished(target)
    try:
        # A fresh name each time: after a kill, an orphaned dpkg-deb may still be writing into the last one.
        work = Path(tempfile.mkdtemp(prefix=f".{name}.partial-", dir=target.parent.absolute()))
        unpacked = _unpack_packages(PACKAGES[name], work, report)
        built = work / name
        built.mkdir()
        _COLLECT[name](unpacked / "usr" / "share", built, report)
        built.rename(target)
    finally:
        _remove_unfinished(target)


def _remove_unfinished(target: Path) -> None:
    for work in target.parent.glob(f".{target.name}.partial-*"):
        shutil.rmtree(work, ignore_errors=True)


def _unpack_packages(packages: list[str], work: Path, report: Report) -> Path:
    unpacked = work / "unpacked"
    for number, package in enumerate(packages, start=1):
        report(f"downloading {number}/{len(packages)}: {package}")
        archive = download(package, work)
        report(f"unpacking {package}")
        done = _run("dpkg-deb", "-x", str(archive), str(unpacked), folder=work)
        if done.returncode:
            raise InputError(f"package {package} cannot be unpacked ({_last_line(done.stderr)}): fetch again")
        archive.unlink()
    return unpacked


def download(package: str, folder: Path) -> Path:
    """Download a package's newest archive into a folder.

    Raises:
        InputError: apt does not know the package or cannot reach the archive.
    """
    # As root, apt would give the download to a user who may not write here, and warn.
    options = ["-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::http::Timeout=30"]
    done = _run("apt-get", *options, "download", package, folder=folder)
    archive = next(folder.glob(f"{package}_*.deb"), None)
    if done.returncode == 0 and archive:
        return archive
    reason = _last_line(done.stderr)
    if "Failed to fetch" in reason and "404" not in reason:
        raise InputError(f"package {package} cannot be downloaded ({reason}): check the network, or {INSTEAD}")
    raise InputError(
        f"package {package} cannot be had from apt ({reason}): try `sudo apt-get update` first, or {INSTEAD}"
    )


def _run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E: Failed to fetch")] + lines[-1:]
    return errors[0].removeprefix("E: ") if errors else "no reason given"


def _collect_openclipart(share: Path, built: Path, report: Report) -> None:
    drawings = share / "openclipart" / "svg"
    pictures = _find_pictures(share / "openclipart" / "png", report)
    cores = []
    for number, picture in enumerate(pictures, start=1):
        svg = drawings / picture.path.with_suffix(".svg")
        cores.append(read_dublin_core(svg.read_bytes() if svg.is_file() else b""))
        if number % PROGRESS_EVERY == 0 or number == len(pictures):
            report(f"captions {number:,} of {len(pictures):,}")
    captions = write_captions((picture.path.stem, core) for picture, core in zip(pictures, cores, strict=True))
    _write_set(pictures, captions, built)


def _collect_tuxpaint(share: Path, built: Path, report: Report) -> None:
    stamps = share / "tuxpaint" / "stamps"
    pictures = _find_pictures(stamps, report)
    undrawn = sum(not svg.with_suffix(".png").is_file() for svg in stamps.rglob("*.svg"))
    if undrawn:
        report(f"left out {undrawn:,} stamps that are SVG only")
    captions = [_stamp_caption(stamps / picture.path) for picture in pictures]
    report(f"captions {len(captions):,} of {len(pictures):,}")
    _write_set(pictures, captions, built)


_COLLECT: dict[str, Callable[[Path, Path, Report], None]] = {
    "openclipart": _collect_openclipart,
    "tuxpaint": _collect_tuxpaint,
}


def _stamp_caption(png: Path) -> str:
    """Read the English first line beside a stamp; a mirrored stamp shares the text of the other."""
    for text in (png.with_suffix(".txt"), png.with_name(png.stem.removesuffix("_mirror") + ".txt")):
        lines = text.read_text("utf-8-sig", errors="replace").splitlines() if text.is_file() else []
        english = " ".join(lines[0].split()) if lines else ""
        if english and not _TRANSLATION.match(english):
            return english
    return " ".join(name_words(png.stem))


def _find_pictures(root: Path, report: Report) -> list[Picture]:
    """Find all PNG files, links within the package resolved, in the order of their paths."""
    inside = root.resolve()
    found = [Picture(path.resolve(), path.relative_to(root)) for path in root.rglob("*.png")]
    usable = [picture for picture in found if picture.file.is_relative_to(inside) and picture.file.is_file()]
    if len(usable) < len(found):
        report(f"left out {len(found) - len(usable):,} links to pictures that are not in the package")
    if not usable:
        raise InputError(f"no pictures below {root.name}/ in the package: its layout has changed, {INSTEAD}")
    return sorted(usable, key=lambda picture: picture.path.as_posix())


def _write_set(pictures: list[Picture], captions: list[str], built: Path) -> None:
    lines = []
    for picture, caption in zip(pictures, captions, strict=True):
        image = Path("images") / picture.path
        (built / image).parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(picture.file, built / image)
        row = {"image": image.as_posix(), "captions": [caption], "label": picture.label}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (built / CAPTIONS_FILE).write_text("".join(lines), encoding="utf-8")


def _link_or_copy(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, target)
