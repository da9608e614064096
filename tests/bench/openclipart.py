"""Fetches the clip art of data/results, a real and noisy set, from packages of Debian.

    python -m tests.bench.openclipart

It lies in data/sets/openclipart. The caption of a picture comes from its Dublin Core metadata and
its file name. The figures in data/results were measured with the captions of commit 0b1ba0f3, which
also removed signatures, addresses and words about the file.
"""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

from clipmem_core.config import SETS, data_folder
from clipmem_core.utils.io import replacing_folder

PACKAGES = ["openclipart-png", "openclipart-svg"]


def fetch_openclipart(data: Path) -> Path:
    """Fetch OpenClipart from Debian's archive, and return its folder with a captions.jsonl."""
    target = data / SETS / "openclipart"
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(target) as folder:
        work = folder / "packages"
        work.mkdir()
        for package in PACKAGES:
            # As root, apt would give the download to a user who may not write here, and warn.
            command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", package]
            subprocess.run(command, cwd=work, check=True)
            archive = next(work.glob(f"{package}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", archive.name, "unpacked"], cwd=work, check=True)
        share = work.resolve() / "unpacked" / "usr" / "share" / "openclipart"
        root = share / "png"
        lines = []
        for file in sorted(root.rglob("*.png"), key=Path.as_posix):
            if not file.resolve().is_relative_to(root) or not file.is_file():
                continue  # a link that leaves the folder
            path = file.relative_to(root)
            copy = folder / "images" / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            caption = write_caption((share / "svg" / path).with_suffix(".svg"))
            label = path.parts[0] if len(path.parts) > 1 else None
            row = {"image": f"images/{path.as_posix()}", "captions": [caption], "label": label}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / "captions.jsonl").write_text("".join(lines), encoding="utf-8")
        shutil.rmtree(work)
    return target


def write_caption(svg: Path) -> str:
    """Join the title, the words of the file name and the keywords of a drawing, each word once."""
    texts = [svg.stem.replace("_", " ")]
    with contextlib.suppress(ElementTree.ParseError, FileNotFoundError):
        root = ElementTree.parse(svg).getroot()
        titles = root.findall(".//{*}Work/{*}title")
        keywords = root.findall(".//{*}Work/{*}subject//{*}li")
        texts = [element.text or "" for element in titles] + texts
        texts += [element.text or "" for element in keywords]
    words = dict[str, str]()
    for word in " ".join(texts).split():
        words.setdefault(word.casefold(), word)
    return " ".join(words.values())


if __name__ == "__main__":
    print(fetch_openclipart(data_folder()))
