"""Draw the pictures of docs/methods/ from the functions that a population uses.

python docs/pictures/draw.py writes NAME.svg next to this file for each name in PICTURES. The same version of matplotlib
writes the same bytes. The colors are visible on white and on black.
"""

from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any, Final

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from graftpop.hooks.gated_phases import phases_of
from graftpop.hooks.pruning import SCHEDULES
from graftpop.ops.alpha import adaptive_alpha
from graftpop.ops.entropy import entropy
from graftpop.ops.topology import TOPOLOGIES
from graftpop.settings import PruningSettings, ReprSettings

__all__ = ["PICTURES", "svg"]

GRAY, COLORS = "#7f7f7f", ("#4c8dd6", "#d9822b", "#3a9e6e", "#c9609a")
STYLE: Final = {
    "svg.fonttype": "none",  # text stays text: small files, the fonts of the page
    "svg.hashsalt": "graftpop",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": GRAY,
    "axes.labelcolor": GRAY,
    "axes.edgecolor": GRAY,
    "axes.titlesize": 10,
    "axes.titlecolor": GRAY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "legend.frameon": False,
}


def _panels(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [*axes.flat]


def alpha() -> Figure:
    """alpha by the difference of the entropies."""
    figure, (axes,) = _panels(7, 3.2)
    gap = torch.linspace(-0.05, 0.05, 401, dtype=torch.float64)
    curves = ((0.4, 500.0), (0.4, 50.0), (1.0, 500.0), (1.0, 50.0))
    for (A, c), color in zip(curves, (COLORS[0], COLORS[0], COLORS[1], COLORS[1]), strict=True):
        values = adaptive_alpha(gap, torch.zeros_like(gap), A=A, c=c)
        axes.plot(
            gap.tolist(),
            values.tolist(),
            color=color,
            linestyle="-" if c > 100 else "--",
            label=f"A = {A:g}, c = {c:g}",
        )
    axes.set(xlabel="H of the receiver - H of the donor, nats", ylabel="alpha", ylim=(0, 1))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def entropies() -> Figure:
    """Histograms of three layers, with their entropies."""
    figure, panels = _panels(7, 2.3, 3, sharey=True)
    even = torch.linspace(-0.999, 0.999, 2000, dtype=torch.float64)
    normal = torch.erfinv(even)
    layers = {"even": even, "normal": normal, "heavy tails": normal**3}
    for axes, (name, weights), color in zip(panels, layers.items(), COLORS, strict=False):
        low, high = weights.min().item(), weights.max().item()
        shares = torch.histc(weights, 10, low, high) / len(weights)
        axes.bar([place + 0.5 for place in range(10)], shares.tolist(), width=0.9, color=color)
        axes.set(title=f"{name}: H = {entropy(weights).item():.2f} nats", xticks=[0, 10])
        axes.set_xticklabels(["min", "max"])
    panels[0].set_ylabel("share of the weights")
    return figure


def topologies() -> Figure:
    """Arrows from donors to receivers among four peers."""
    figure, panels = _panels(7.4, 1.9, 5)
    places = [(0.0, 1.0), (1.0, 1.0), (1.0, 0.0), (0.0, 0.0)]
    for axes, (name, topology) in zip(panels, TOPOLOGIES.items(), strict=True):
        donors = topology(4, 1, Random(1))
        for receiver, of_receiver in enumerate(donors):
            for donor in of_receiver:
                if name != "mean":
                    _arrow(axes, places[donor], places[receiver], COLORS[0])
            if name == "mean":
                _arrow(axes, places[receiver], (0.5, 0.5), COLORS[0], "<->")
        if name == "mean":
            axes.text(0.5, 0.5, "mean", ha="center", va="center", fontsize=8, color=COLORS[1])
        for peer, (x, y) in enumerate(places):
            is_best = name == "best" and peer == 1
            axes.plot([x], [y], "o", markersize=16, color="none", markeredgecolor=COLORS[1] if is_best else GRAY)
            axes.text(x, y, str(peer), ha="center", va="center_baseline")
        axes.set(title=name, xlim=(-0.3, 1.3), ylim=(-0.3, 1.3), aspect="equal")
        axes.set_axis_off()
    return figure


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, style: str = "-|>") -> None:
    properties = {"arrowstyle": style, "color": color, "shrinkA": 10, "shrinkB": 10, "connectionstyle": "arc3,rad=0.12"}
    axes.annotate("", xy=end, xytext=start, arrowprops=properties)


def entries() -> Figure:
    """Twelve entries of four peers before an exchange, after WASH and after SPARTA."""
    figure, panels = _panels(7, 1.9, 3)
    peers, count = 4, 12
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(count, generator=generator) < 0.35
    owners = torch.arange(peers)[:, None].expand(peers, count)
    shuffled = torch.where(drawn, torch.rand(peers, count, generator=generator).argsort(0), owners)
    averaged = torch.where(drawn, peers, owners)
    for axes, title, values in zip(panels, ("before", "WASH", "SPARTA"), (owners, shuffled, averaged), strict=True):
        for peer in range(peers):
            for place in range(count):
                color = (*COLORS, GRAY)[int(values[peer, place])]
                axes.bar(place, 0.8, 0.8, peers - 1 - peer, color=color)
        axes.set(title=title, xticks=[], yticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
    panels[0].set(yticks=[3.4, 2.4, 1.4, 0.4])
    panels[0].set_yticklabels([f"peer {peer}" for peer in range(peers)])
    panels[0].tick_params(left=False)
    panels[2].set_xlabel("gray: mean of the four peers")
    return figure


def _peers(axes: Axes, spans: Sequence[tuple[int, float, float]], label: str = "epochs") -> None:
    for peer, start, end in spans:
        axes.plot([start, end], [-peer, -peer], color=COLORS[peer], linewidth=4, solid_capstyle="butt")
    axes.set(xlabel=label, yticks=[-peer for peer in range(4)], ylim=(-3.5, 0.5), xlim=(0, 8))
    axes.set_yticklabels([f"peer {peer}" for peer in range(4)])
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)


def branch() -> Figure:
    """One peer trains for all, then four."""
    figure, (axes,) = _panels(7, 1.9)
    _peers(axes, [(0, 0, 8), *((peer, 4, 8) for peer in (1, 2, 3))])
    for peer in (1, 2, 3):
        axes.plot([4, 4], [0, -peer], color=GRAY, linewidth=1)
    axes.text(4.1, 0.25, "copies of weights and momentum", fontsize=9)
    axes.text(0.1, 0.25, "one peer for all", fontsize=9)
    return figure


def post_local_sgd() -> Figure:
    """Four peers that average gradients first, and weights later."""
    figure, (axes,) = _panels(7, 1.9)
    _peers(axes, [(peer, 0, 8) for peer in range(4)])
    for time in (*(step / 8 for step in range(1, 33)), 6, 8):
        axes.plot([time, time], [0, -3], color=GRAY, linewidth=0.6 if time <= 4 else 2.5)
    axes.text(0.1, 0.25, "mean of the gradients in every step", fontsize=9)
    axes.text(4.1, 0.25, "mean of the weights now and then", fontsize=9)
    return figure


def repr_cycles() -> Figure:
    """Share of the filters that train under RePr, with the defaults."""
    figure, (axes,) = _panels(7, 2)
    settings, epochs = ReprSettings(), 110
    times, shares = [0], [1.0]
    for _ in range(settings.N):
        dropped = times[-1] + settings.S1
        back = dropped + settings.S2
        times += [dropped, dropped, back, back]
        shares += [1, 1 - settings.rate, 1 - settings.rate, 1]
        axes.text(dropped - settings.S1 / 2, 0.85, "S1", ha="center")
        axes.text(dropped + settings.S2 / 2, 0.55, "S2", ha="center")
    axes.plot([*times, epochs], [*shares, 1], color=COLORS[0])
    axes.set(xlabel="epoch", ylabel="share that trains", ylim=(0, 1.1), xlim=(0, epochs))
    return figure


def pruning_schedules() -> Figure:
    """Share of the rate and factor of a weak unit, by epoch."""
    figure, (amount, factor) = _panels(7, 2.9, 2)
    epochs = 40
    shown = {"soft, hard, attenuate, softer": "soft", "asymptotic": "asymptotic"}
    for (label, name), color in zip(shown.items(), COLORS, strict=False):
        values = [SCHEDULES[name].amount(epoch, epochs) for epoch in range(1, epochs + 1)]
        amount.plot(range(1, epochs + 1), values, color=color, label=label)
    given = PruningSettings().factor
    for name, color in zip(("attenuate", "softer", "soft"), COLORS[1:], strict=True):
        scale = given if name == "attenuate" else 1
        values = [scale * SCHEDULES[name].factor(epoch, epochs) for epoch in range(1, epochs + 1)]
        label = {"attenuate": f"attenuate, factor {given:g}", "soft": "soft, hard, asymptotic"}.get(name, name)
        factor.plot(range(1, epochs + 1), values, color=color, label=label)
    amount.set(title="share of the rate", xlabel="epoch", ylim=(0, 1.05))
    factor.set(title="factor of a weak unit", xlabel="epoch", ylim=(-0.05, 1.05))
    amount.legend(loc="lower right")
    factor.legend(loc="upper right")
    return figure


def gated() -> Figure:
    """Phases of Gate Decorator."""
    figure, (axes,) = _panels(7, 1.3)
    epochs, colors = 40, {"tock": COLORS[0], "tick": COLORS[1], "train": COLORS[2]}
    phases = phases_of(PruningSettings(preset="gate_decorator", ticks=5, tock_epochs=10), epochs)
    for epoch in range(epochs):
        axes.bar(epoch + 0.5, 1, 0.9, color=colors[phases.of(epoch)])
    for name, label in (("tock", "tock: all trains"), ("tick", "tick: gates train"), ("train", "fine-tuning")):
        axes.bar([0], [0], color=colors[name], label=label)
    axes.set(xlabel="epoch", yticks=[], xlim=(0, epochs))
    axes.spines["left"].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


PICTURES: Final[Mapping[str, Callable[[], Figure]]] = {
    "alpha": alpha,
    "branch": branch,
    "entries": entries,
    "entropy": entropies,
    "gated": gated,
    "post_local_sgd": post_local_sgd,
    "pruning_schedules": pruning_schedules,
    "repr": repr_cycles,
    "topologies": topologies,
}


def svg(name: str) -> str:
    """Return a picture as SVG."""
    text = StringIO()
    with mpl.rc_context(STYLE):
        PICTURES[name]().savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


if __name__ == "__main__":
    for picture in PICTURES:
        (Path(__file__).parent / f"{picture}.svg").write_text(svg(picture), encoding="utf-8")
