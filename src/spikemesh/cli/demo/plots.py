"""The plots of the report page: matplotlib SVG, each drawn for a wide and for a narrow screen.

Colours are drawn as marks that `_inline` turns into the page's CSS variables, so a plot follows light and dark.
Text from outside stays out of the plots, but for layer names, which are reduced to ASCII and never read as formulas.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spikemesh.cli.demo.facts import MIN_GAP_CLOSED, Report
from spikemesh.cli.readable import bytes_text, decimal_text, duration_text, one_line

COLOURS = {
    "ink": "#0a0b01",
    "muted": "#0a0b02",
    "line": "#0a0b03",
    "accent": "#0a0b04",
    "paper": "#0a0b05",
    "bad": "#0a0b06",
}
SERIES = tuple(f"#0a0b1{number}" for number in range(8))
"""One for each volunteer, in the order of the report; the page defines --series-0 to --series-7."""
MAX_POINTS = 240
MAX_EVENTS = 12
WIDE, NARROW = (9.2, 4.0), (4.6, 3.8)
NAN = float("nan")
Row = TypeVar("Row")


class Plot(NamedTuple):
    """One plot, twice. `alt` says in words what it shows."""

    name: str
    alt: str
    wide: str
    narrow: str


def series_names(report: Report) -> list[str]:
    """Every volunteer that is drawn, in the order of its colours."""
    seen = [node.name for node in report.nodes]
    seen += [node.name for point in report.history for node in point.nodes]
    return list(dict.fromkeys(seen))


def gap_plot(report: Report) -> Plot:
    loss = report.loss
    alt = (
        f"Held-out loss on a line: joint {loss.joint:.3f}, merged {loss.merged:.3f}, lone {loss.lone:.3f} nats per "
        "byte."
    )
    if loss.gap_closed is not None:
        alt += f" The merged model closes {100 * loss.gap_closed:.0f} percent of the gap."
    return _plot("gap", alt, report, _draw_gap, (9.2, 1.1), (4.6, 1.1))


def loss_plot(report: Report) -> Plot:
    loss = report.loss
    ends = ", ".join(f"{name} {value:.2f}" for name in series_names(report) if (value := _last_loss(report, name)))
    alt = (
        f"Training loss of each volunteer over {duration_text(_end_s(report))}, nats per byte, ending at "
        f"{ends or 'nothing'}; horizontal lines at the held-out losses lone {loss.lone:.3f}, merged {loss.merged:.3f}, "
        f"joint {loss.joint:.3f}."
    )
    return _plot("loss", alt, report, _draw_loss)


def traffic_plot(report: Report) -> Plot:
    _, received, fp32 = traffic(report)
    alt = (
        f"Bytes received by all volunteers over time: {bytes_text(received[-1] if received else 0)} at the end, "
        f"where the same deltas in fp32 would have been {bytes_text(fp32[-1] if fp32 else 0)}."
    )
    return _plot("traffic", alt, report, _draw_traffic)


def spike_plot(report: Report) -> Plot:
    rates = ", ".join(f"{name} {decimal_text(rate)}" for name, rate in report.spike_rate.items())
    height = 0.7 + 0.34 * max(1, len(report.spike_rate))
    return _plot(
        "spikes",
        f"Spikes per neuron and step by layer: {rates or 'none reported'}.",
        report,
        _draw_spikes,
        (9.2, height),
        (4.6, height),
    )


def traffic(report: Report) -> tuple[list[float], list[float], list[float]]:
    """Seconds, bytes received by all, and bytes that the deltas they fetched would have been in fp32."""
    fp32_delta = report.wire.fp32_bytes_per_coordinate * report.num_coordinates
    received: dict[str, float] = {}
    fetched: dict[str, float] = {}
    rows = []
    for point in report.history:
        for node in point.nodes:  # a volunteer that is down keeps what it had
            received[node.name] = max(received.get(node.name, 0), node.received_bytes)
            fetched[node.name] = max(fetched.get(node.name, 0), node.num_deltas_fetched)
        rows.append((point.t_s, sum(received.values()), sum(fetched.values()) * fp32_delta))
    rows = _thin(rows)
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def _plot(
    name: str,
    alt: str,
    report: Report,
    draw: Callable[[Axes, Report, bool], None],
    wide: tuple[float, float] = WIDE,
    narrow: tuple[float, float] = NARROW,
) -> Plot:
    drawn = []
    for size, is_narrow in ((wide, False), (narrow, True)):
        key = f"{name}-{'narrow' if is_narrow else 'wide'}"
        with matplotlib.rc_context(_style(key)):
            figure = Figure(figsize=size, layout="constrained")
            draw(figure.add_subplot(), report, is_narrow)
            drawn.append(_inline(figure, key))
    return Plot(name, alt, *drawn)


def _style(key: str) -> Any:  # matplotlib spells out the type of each of its 300 names
    ink, muted, line = COLOURS["ink"], COLOURS["muted"], COLOURS["line"]
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": key,
        "text.parse_math": False,
        "text.color": ink,
        "font.size": 11,
        "axes.edgecolor": line,
        "axes.labelcolor": muted,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": line,
        "grid.linewidth": 0.7,
        "xtick.color": line,
        "ytick.color": line,
        "xtick.labelcolor": muted,
        "ytick.labelcolor": muted,
        "lines.linewidth": 1.7,
        "lines.solid_capstyle": "round",
    }


def _inline(figure: Figure, key: str) -> str:
    """The figure as an `<svg>` that can stand in a page beside others: own ids, the page's colours, no metadata."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{key}-", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    for number, colour in enumerate(SERIES):
        svg = svg.replace(colour, f"var(--series-{number})")
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _draw_gap(axes: Axes, report: Report, narrow: bool) -> None:
    loss = report.loss
    axes.axis("off")
    values = _finite((loss.joint, loss.merged, loss.lone))
    if len(values) < 3:
        return
    low, high = min(values), max(values)
    pad = 0.16 * (high - low) or 0.1
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(-1, 1)
    bar = loss.lone - MIN_GAP_CLOSED * (loss.lone - loss.joint)
    axes.plot((loss.joint, loss.lone), (0, 0), color=COLOURS["line"], linewidth=9, solid_capstyle="round")
    gain = COLOURS["accent" if loss.merged <= loss.lone else "bad"]
    axes.plot((loss.merged, loss.lone), (0, 0), color=gain, linewidth=9, solid_capstyle="round")
    if not report.shortened:
        axes.plot((bar, bar), (-0.34, 0.34), color=COLOURS["muted"], linewidth=1.4, linestyle=(0, (2, 2)))
        axes.text(bar, 0.42, f"needed: {100 * MIN_GAP_CLOSED:.0f} %", ha="center", va="bottom", color=COLOURS["muted"])
    for name, value, size in (("joint", loss.joint, 7), ("lone", loss.lone, 7), ("merged", loss.merged, 12)):
        colour = gain if name == "merged" else COLOURS["muted"]
        axes.plot(value, 0, "o", color=colour, markersize=size, markeredgecolor=COLOURS["paper"], markeredgewidth=2)
    places = spread(values, 0.17 * (high - low + 2 * pad) * (1.75 if narrow else 1))
    for name, value, place in zip(("joint", "merged", "lone"), values, places, strict=True):
        weight = "bold" if name == "merged" else "normal"
        axes.text(place, -0.36, f"{name} {value:.3f}", ha="center", va="top", fontweight=weight)


def _draw_loss(axes: Axes, report: Report, narrow: bool) -> None:
    axes.set_ylabel("nats per byte")
    for number, name in enumerate(series_names(report)):
        late = any(node.late for node in report.nodes if node.name == name)
        times, losses = _loss_series(report, name)
        axes.plot(times, losses, color=SERIES[number % len(SERIES)], linestyle=(0, (4, 1.5)) if late else "-")
    if report.held_out:
        held = [(point.t_s, point.loss) for point in report.held_out]
        axes.plot(*zip(*held, strict=True), "o-", color=COLOURS["ink"], markersize=4, linewidth=1)
    low, high = _loss_limits(report)
    axes.set_ylim(low, high)
    _time_axis(axes, report)
    _event_marks(axes, report)
    loss = report.loss
    ends = {"lone": loss.lone, "merged": loss.merged, "joint": loss.joint}
    ends = {name: value for name, value in ends.items() if low < value < high}
    strokes = {"lone": (0, (5, 2)), "merged": "-", "joint": (0, (1, 1.5))}
    for name, value in ends.items():
        colour = COLOURS["accent" if name == "merged" else "muted"]
        axes.axhline(value, color=colour, linestyle=strokes[name], linewidth=1.6, zorder=1.5)
    places = spread(list(ends.values()), 0.075 * (high - low))
    for (name, value), place in zip(ends.items(), places, strict=True):
        _end_label(axes, f"{name} {value:.3f}", place, "ink" if name == "merged" else "muted")


def _draw_traffic(axes: Axes, report: Report, narrow: bool) -> None:
    times, received, fp32 = traffic(report)
    top = max([1.0, *received, *fp32])
    unit, word = next((size, name) for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")) if top >= size)
    axes.set_ylabel(word)
    lines = (("as fp32", fp32, "muted"), ("received", received, "accent"))
    for _, values, colour in lines:
        scaled = [value / unit for value in values]
        axes.plot(times, scaled, color=COLOURS[colour])
        axes.fill_between(times, scaled, color=COLOURS[colour], alpha=0.14, linewidth=0)
    axes.set_ylim(0, 1.12 * top / unit)
    _time_axis(axes, report)
    _event_marks(axes, report)
    if times:
        places = spread([fp32[-1] / unit, received[-1] / unit], 0.15 * top / unit)
        for (name, values, colour), place in zip(lines, places, strict=True):
            _end_label(axes, f"{name}\n{bytes_text(values[-1])}", place, "ink" if colour == "accent" else "muted")


def _draw_spikes(axes: Axes, report: Report, narrow: bool) -> None:
    names = [one_line(name, 14 if narrow else 28).encode("ascii", "replace").decode() for name in report.spike_rate]
    rates = [rate if math.isfinite(rate) else 0.0 for rate in report.spike_rate.values()]
    rows = range(len(rates))
    axes.barh(rows, rates, height=0.62, color=COLOURS["accent"])
    for row, rate in zip(rows, rates, strict=True):
        axes.annotate(f"{rate:.3f}", (rate, row), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max([0.01, *rates]))
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8))
    axes.set_xlabel("spikes per neuron and step")


def _time_axis(axes: Axes, report: Report) -> None:
    axes.set_xlim(0, max(1.0, _end_s(report)))
    axes.set_xlabel("seconds since the start of the swarm")


def _event_marks(axes: Axes, report: Report) -> None:
    """A line at each event, with its number in the page's list on top."""
    end = max(1.0, _end_s(report))
    events = report.events[:MAX_EVENTS]
    places = spread([min(max(event.t_s, 0.0), end) for event in events], 0.05 * end)
    for number, (event, place) in enumerate(zip(events, places, strict=True), 1):
        axes.axvline(event.t_s, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            str(number),
            (place, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            fontweight="bold",
            color=COLOURS["muted"],
        )


def _end_label(axes: Axes, text: str, y: float, colour: str) -> None:
    axes.annotate(
        text,
        (1.0, y),
        xycoords=("axes fraction", "data"),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=COLOURS[colour],
        fontweight="bold" if colour == "ink" else "normal",
    )


def _loss_series(report: Report, name: str) -> tuple[list[float], list[float]]:
    rows = [
        (point.t_s, NAN if node.loss is None or node.state == "down" else node.loss)
        for point in report.history
        for node in point.nodes
        if node.name == name
    ]
    rows = _thin(rows)
    return [row[0] for row in rows], [row[1] for row in rows]


def _last_loss(report: Report, name: str) -> float | None:
    seen = _finite(_loss_series(report, name)[1])
    return seen[-1] if seen else None


def _loss_limits(report: Report) -> tuple[float, float]:
    """From a little under the best to where learning starts to show: the first steps would squeeze all the rest."""
    loss = report.loss
    bars = _finite((loss.merged, loss.lone, loss.joint)) or [2.0]
    curves = [value for name in series_names(report) for value in _finite(_loss_series(report, name)[1])]
    ceiling = 1.5 * max(bars)
    low, high = min(bars + curves), max([*bars, *(value for value in curves if value <= ceiling)])
    return low - 0.06 * (high - low), high + 0.06 * (high - low) + 1e-6


def _end_s(report: Report) -> float:
    return max([0.0, *(point.t_s for point in report.history), *(point.t_s for point in report.held_out)])


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _thin(rows: Sequence[Row]) -> list[Row]:
    """At most `MAX_POINTS` of the rows, evenly, the last one among them."""
    step = -(-len(rows) // MAX_POINTS) or 1
    return list(reversed(rows[::-1][::step]))


def spread(values: Sequence[float], apart: float) -> list[float]:
    """`values` moved as little as needed to stand at least `apart` from each other; the order stays."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    groups: list[list[int]] = []
    places: dict[int, float] = {}
    for index in order:
        groups.append([index])
        while True:
            group = groups[-1]
            centre = sum(values[member] for member in group) / len(group)
            for position, member in enumerate(group):
                places[member] = centre + (position - (len(group) - 1) / 2) * apart
            if len(groups) < 2 or places[group[0]] - places[groups[-2][-1]] >= apart - 1e-12:
                break
            groups[-2:] = [groups[-2] + group]
    return [places[index] for index in range(len(values))]
