# SPDX-License-Identifier: Apache-2.0
"""Pictures of figures, equal byte for byte for equal figures, so that a repository can hold them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS, OTHERS = "#4878a8", "#c9ccd1"


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """Figure and axes, inches; needs matplotlib."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "tvm_tiny"  # ids that depend on nothing but the figures
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")


def save(figure: Any, path: Path) -> None:
    """Write `figure` without the date and close it."""
    from matplotlib import pyplot as plt

    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def bars(lines: Sequence[tuple[str, float, float]], legend: tuple[str, str], axis: str, path: Path) -> None:
    """Two bars a line on a logarithmic axis: ours and the other's, with their values.

    Parameters
    ----------
    lines : sequence of (name, ours, other's)
    legend : the two names
    axis : what is measured, with its unit
    path : .svg or .png
    """
    figure, axes = new_figure(8, 0.9 + 0.45 * len(lines))
    for offset, index, colour in ((-0.2, 0, OURS), (0.2, 1, OTHERS)):
        drawn = axes.barh(
            [i + offset for i in range(len(lines))], [line[1 + index] for line in lines], 0.38, color=colour, label=legend[index]
        )
        axes.bar_label(drawn, [f"{line[1 + index]:.3g}" for line in lines], padding=3, fontsize="small")
    axes.set_yticks(range(len(lines)), [line[0] for line in lines])
    axes.set(xscale="log", xlabel=axis)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    axes.legend(frameon=False)
    save(figure, path)
