"""Draws the average precision of the detectors in data/results as detectors.svg.

python -m tests.bench.detectors
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

RESULTS = Path(__file__).parents[2] / "data" / "results"
SETS = {
    "photographs": "fsa-color",
    "textbook figures": "openstax",
    "clip art": "openclipart",
    "synthetic set": "scenes",
}
ROWS = [(kind, share) for kind in ("random", "nearest") for share in (0.05, 0.2, 0.4)]
DETECTORS = {
    "misfit": ("misfit", "o", "black"),
    "misfit_second": ("misfit, two rounds", "D", "tab:green"),
    "fit_out": ("fit_out", "^", "tab:blue"),
    "similarity_out": ("similarity_out", "s", "tab:cyan"),
    "learned": ("learned", "P", "tab:orange"),
    "similarity_in": ("similarity_in", "X", "tab:red"),
}


def main() -> None:
    """Draw a panel for each data set, with a row for each kind and share of injected errors."""
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "detectors", "font.size": 9}
    options = {"figsize": (11, 4.2), "sharex": True, "sharey": True, "layout": "constrained"}
    figure, panels = plt.subplots(1, len(SETS), **options)
    y = np.arange(len(ROWS))
    for panel, (title, name) in zip(panels, SETS.items(), strict=True):
        table = pd.read_csv(RESULTS / f"benchmark-{name}-two-rounds.csv", comment="#")
        table = table[table["measure"] == "average_precision"]
        means = table.pivot(index=["kind", "share"], columns="detector", values="mean")
        shifts = np.linspace(-0.3, 0.3, len(DETECTORS))
        for shift, (detector, style) in zip(shifts, DETECTORS.items(), strict=True):
            label, marker, colour = style
            values = means[detector].reindex(ROWS)
            panel.scatter(values, y + shift, 20, colour, marker=marker, label=label)
        panel.set(title=title, xlim=(0, 1.03), xlabel="average precision")
        panel.set_yticks(y, [f"{kind} {share:.0%}" for kind, share in ROWS])
        panel.hlines(y[1:] - 0.5, 0, 1.03, "lightgrey", lw=0.6)
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(DETECTORS), frameon=False)
    figure.savefig(RESULTS / "detectors.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
