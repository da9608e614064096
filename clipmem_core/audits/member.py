"""One member as a process of its own: train it (or load its checkpoint), embed every pair, measure its utility.

python -m clipmem_core.audits.member AUDIT_FOLDER MEMBER
"""

import json
import logging
import os
import stat
import sys
import threading
from pathlib import Path

import numpy as np
import torch

from clipmem_core import columns as c
from clipmem_core.audits.index import write_index
from clipmem_core.audits.member_run import MemberRun, open_member
from clipmem_core.audits.probe import probe_accuracy
from clipmem_core.audits.store import (
    IMAGE_INDEX,
    MEMBER_UTILITY,
    SNAPSHOTS,
    TEXT_INDEX,
    write_json,
)
from clipmem_core.config import AuditConfig, InputError
from clipmem_core.scores.utility import linear_probe, retrieval_recalls, zero_shot
from clipmem_core.training.embed import mean_by_pair, mean_image_embeddings, text_embeddings
from clipmem_core.training.files import CHECKPOINT, STATE, TRAJECTORY
from clipmem_core.training.loop import Trainer, train
from clipmem_core.training.model import Model, build_model, load_weights, tokenize
from clipmem_core.training.views import ViewMaker

# Evaluation views come from a stream that no training seed reaches.
EVALUATION = 1 << 40
PROMPT = "a picture of {}"


def view_maker(model: Model, config: AuditConfig, seed: int, *, crop_scale: float = 0.0) -> ViewMaker:
    """Return the view maker that fits a model's input; crops are those of training where no scale is given."""
    size = model.visual.image_size
    mean_std = model.visual.preprocess_cfg
    return ViewMaker(
        size[0] if isinstance(size, tuple) else size,
        crop_scale or config.crop_scale,
        tuple(mean_std["mean"]),
        tuple(mean_std["std"]),
        seed,
        config.colour,
    )


def trained_model(run: MemberRun) -> Model:
    """Return the member's model: from its checkpoint when there is one, else trained now."""
    config, seed, device = run.config, run.own["seed"], run.stored["device"]
    given = run.own.get("checkpoint")
    # The trajectory comes after the checkpoint: a member killed between the two goes on from its last saved state.
    done = (run.folder / CHECKPOINT).is_file() and (run.folder / TRAJECTORY).is_file()
    model = build_model(
        config.model,
        loss=config.loss,
        seed=seed,
        image_size=config.image_size,
        pretrained="" if given or done else config.pretrained,
        device=device,
    )
    if given or done:
        load_weights(model, Path(given) if given else run.folder / CHECKPOINT)
        (run.folder / STATE).unlink(missing_ok=True)
        return model
    trainer = Trainer(model, run.data, config, view_maker(model, config, seed), seed=seed, device=device)
    snapshots = set(run.stored.get(SNAPSHOTS, ()))

    def look(epoch: int) -> None:
        if epoch in snapshots:
            write_embeddings(run.folder / SNAPSHOTS / str(epoch), *embed(run, model), run)

    train(trainer, run.folder, after_epoch=look if snapshots else None)
    return model


def embed(run: MemberRun, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean embedding of every picture's evaluation views, and that of every caption, float32 [n, dim]."""
    how = {"precision": run.config.precision, "device": run.stored["device"]}
    views = view_maker(model, run.config, run.config.seed + EVALUATION, crop_scale=run.config.eval_crop_scale)
    image = mean_image_embeddings(model, run.data, views, n_views=run.config.views, **how)
    return image, text_embeddings(model, run.read(run.data.tokens), **how)


def write_embeddings(folder: Path, image: np.ndarray, text: np.ndarray, run: MemberRun) -> None:
    """Write both indexes; text.faiss comes last and says that they are complete."""
    folder.mkdir(parents=True, exist_ok=True)
    write_index(folder / IMAGE_INDEX, image)
    write_index(folder / TEXT_INDEX, mean_by_pair(text, run.data.caption_start, first=run.config.eval_captions))


def probe_rows(run: MemberRun) -> np.ndarray:
    """Return the pairs a linear probe is fitted on: the shared ones in `paper`, else all the member saw."""
    shared = np.flatnonzero(run.membership[c.GROUP].to_numpy() == c.SHARED)
    return shared if len(shared) else run.data.rows


def utility(run: MemberRun, model: Model, image: np.ndarray, text: np.ndarray) -> dict[str, float]:
    """Measure retrieval both ways on external pairs, and with labels a linear probe and zero-shot.

    Args:
        image: mean image embeddings [n_pairs, dim].
        text: embeddings of every caption [n_captions, dim].
    """
    external = np.flatnonzero(run.membership[c.GROUP].to_numpy() == c.EXTERNAL)
    start = run.data.caption_start
    captions = np.concatenate([np.arange(start[row], start[row + 1]) for row in external])
    owner = np.repeat(np.arange(len(external)), (start[external + 1] - start[external]))
    metrics = retrieval_recalls(image[external], text[captions], owner)
    labels = run.pairs[c.LABEL]
    labelled = labels.notna().to_numpy()
    fit, test = (rows[labelled[rows]] for rows in (probe_rows(run), external))
    if labels.iloc[fit].nunique() >= 2 and len(test):
        names = labels.to_numpy().astype(str)
        metrics["linear_probe"] = linear_probe(image[fit], names[fit], image[test], names[test], seed=run.config.seed)
        classes = np.unique(names[labelled])
        prompts = run.read(tokenize(run.config.model, [PROMPT.format(name) for name in classes]))
        prompted = text_embeddings(model, prompts, precision=run.config.precision, device=run.stored["device"])
        metrics["zero_shot"] = zero_shot(image[test], prompted, np.searchsorted(classes, names[test]))
    if run.config.probe_data:
        name = f"linear_probe_{Path(run.config.probe_data).name}"
        metrics[name] = probe_accuracy(model, run.config, view_maker(model, run.config, 0), run.stored["device"])
    return metrics


def clear_leftovers(folder: Path) -> None:
    """Remove what a kill left behind: files half written, and a state that its checkpoint has overtaken."""
    for path in folder.glob(".*.[0-9]*"):
        path.unlink()
    if (folder / CHECKPOINT).is_file():
        (folder / STATE).unlink(missing_ok=True)


def run_member(folder: Path, name: str) -> None:
    """Bring a member to its end: its embeddings are written last."""
    run = open_member(folder, name)
    clear_leftovers(run.folder)
    torch.set_num_threads(run.stored["threads"])
    model = trained_model(run)
    image, text = embed(run, model)
    write_json(run.folder / MEMBER_UTILITY, utility(run, model, image, text))
    write_embeddings(run.folder, image, text, run)


def end_with_parent() -> None:
    """Watch the pipe from the process that started this one: when that is gone, however it ended, end at once.

    Otherwise a member could write beside the one that a new run of its audit starts in its place.
    """
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        os.read(0, 1)
        os._exit(1)


def main(arguments: list[str]) -> int:
    """Run one member; an error is one line of JSON on stderr, for the process that started it."""
    logging.getLogger().setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        run_member(Path(arguments[0]), arguments[1])
    except InputError as error:
        print(json.dumps({"error": str(error)}), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
