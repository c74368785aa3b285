"""`report.html`: one self-contained page. No script, nothing loaded, and every text from outside escaped.

Text from outside passes through `_text` (one line) or, for the sample, `_escape(printable(...))`; nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as _escape

from spikemesh.cli.demo.facts import NodeReport, Report, checks, group_letters
from spikemesh.cli.demo.plots import (
    MAX_EVENTS,
    SERIES,
    Plot,
    gap_plot,
    loss_plot,
    series_names,
    spike_plot,
    traffic_plot,
)
from spikemesh.cli.demo.style import STYLE
from spikemesh.cli.demo.wording import bar_text, gain_text, ratio_text, shortened_text, value_text
from spikemesh.cli.readable import (
    bytes_text,
    count_text,
    decimal_text,
    digest_colours,
    duration_text,
    one_line,
    percent_text,
    printable,
)

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
WORDS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")


def page(report: Report) -> str:
    """The whole page."""
    parts = (
        _opening(report),
        *([] if report.shortened else [_tiles(report)]),
        _quality(report),
        _digests(report),
        _traffic(report),
        _spikes(report),
        _sample(report),
        _bars(report),
        _volunteers(report),
        _footer(report),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{_title(report)} · spikemesh</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def _text(value: object, limit: int = 80) -> str:
    return _escape(one_line(str(value), limit))


def _title(report: Report) -> str:
    models = len({node.digest for node in report.nodes})
    return f"{_number(len(report.nodes))} volunteers, {_number(models).lower()} model{'' if models == 1 else 's'}"


def _number(count: int) -> str:
    return WORDS[count] if count < len(WORDS) else str(count)


def _opening(report: Report) -> str:
    failed = sum(check.decides and not check.holds for check in checks(report))
    deciding = sum(check.decides for check in checks(report))
    verdict = f"{failed} of {deciding} bars not met" if failed else f"All {deciding} bars met"
    verdict += " (those of any length)" if report.shortened else ""
    return (
        f"<header><h1>{_title(report)}</h1>\n<p>{_story(report)}</p>\n{_shortened(report)}"
        f'<p class="verdict {"bad" if failed else "good"}">{"✗" if failed else "✓"} {verdict}</p></header>'
    )


def _shortened(report: Report) -> str:
    return f"<p><b>{_escape(shortened_text(report.length))}</b></p>\n" if report.length and report.shortened else ""


def _story(report: Report) -> str:
    killed = sum(node.killed for node in report.nodes)
    late = sum(node.late for node in report.nodes)
    sentences = [
        f"A spiking language model with {report.num_coordinates:,} alive weights, trained by gossip and without a "
        f"server: {report.num_rounds} rounds of {report.steps_per_round} steps."
    ]
    if killed:
        sentences.append(f"{_number(killed)} {'was' if killed == 1 else 'were'} killed mid-way and started again.")
    if late:
        snapshot = " from a peer's snapshot" if any(node.started_from_snapshot for node in report.nodes) else ""
        sentences.append(f"{_number(late)} joined late{snapshot}.")
    same = checks(report)[0].holds
    sentences.append("All ended with the same weights, to the bit." if same else "They ended with different weights.")
    return " ".join(sentences)


def _tiles(report: Report) -> str:
    loss, wire, nodes = report.loss, report.wire, report.nodes
    letters = list(group_letters({node.name: node.digest for node in nodes}).values())
    rates = list(report.spike_rate.values())
    tiles = (
        (
            "held-out loss, merged",
            f"{loss.merged:.3f}",
            "nats/byte",
            f"{gain_text(loss.lone - loss.merged)} a lone volunteer",
        ),
        (
            "gap to the joint run",
            percent_text(loss.gap_closed, 0),
            "closed",
            f"lone {loss.lone:.3f}, joint {loss.joint:.3f}",
        ),
        ("same digest", f"{letters.count('A')} of {len(nodes)}", "", "compared to the bit"),
        (
            "smaller than fp32",
            f"{ratio_text(wire.fp32_bytes_per_coordinate, wire.bytes_per_coordinate).removesuffix(' times')}×",
            "",
            f"{wire.bytes_per_coordinate:.3f} bytes per coordinate and contribution",
        ),
        (
            "weights alive",
            percent_text(report.density),
            "",
            f"{report.num_coordinates:,} alive coordinates",
        ),
        (
            "spike rate",
            decimal_text(sum(rates) / len(rates) if rates else None),
            "",
            f"mean of layers, {min(rates, default=0):.3f} to {max(rates, default=0):.3f}",
        ),
        ("peak memory of a volunteer", bytes_text(report.peak_rss_bytes), "", "largest resident size"),
        (
            "time in all",
            duration_text(report.wall_seconds),
            "",
            f"training {duration_text(report.train_seconds)}, baselines {duration_text(report.baseline_seconds)}",
        ),
    )
    shown = (
        f'<div><dt>{label}</dt><dd class="value">{value}{f" <small>{unit}</small>" if unit else ""}</dd>'
        f'<dd class="beside">{beside}</dd></div>'
        for label, value, unit, beside in tiles
    )
    return f'<dl class="tiles">{"".join(shown)}</dl>'


def _figure(plot: Plot, caption: str) -> str:
    return (
        f'<figure class="plot" id="plot-{plot.name}"><div role="img" aria-label="{_text(plot.alt, 1000)}">'
        f'<div class="wide">{plot.wide}</div><div class="narrow">{plot.narrow}</div></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _quality(report: Report) -> str:
    loss = report.loss
    scale = [f"{name} {value:.3f}" for name, value in (("unigram", loss.unigram), ("bigram", loss.bigram)) if value]
    beside = f" For scale, on the same files: {', '.join(scale)}." if scale else ""
    gap = _figure(
        gap_plot(report),
        "Held-out loss in nats per byte, lower is better. Lone: one volunteer on its own shard for the same number of "
        f"steps. Joint: one run with four times the batch.{beside}",
    )
    if not report.history:
        return f"<section><h2>How good is the merged model?</h2>\n{gap}</section>"
    dots = " Dots: the merged model on held-out files." if report.held_out else ""
    curves = _figure(
        loss_plot(report),
        "Curves: each volunteer's running mean on its own shard. Horizontal lines: held-out losses at the end." + dots,
    )
    return (
        f"<section><h2>How good is the merged model?</h2>\n{gap}\n"
        f"<h2>Training</h2>\n{_legend(report)}\n{curves}\n{_events(report)}</section>"
    )


def _legend(report: Report) -> str:
    late = {node.name for node in report.nodes if node.late}
    items = []
    for number, name in enumerate(series_names(report)):
        dashed, note = (" dashed", " (late)") if name in late else ("", "")
        colour = f"var(--series-{number % len(SERIES)})"
        items.append(f'<li><span class="stroke{dashed}" style="color: {colour}"></span>{_text(name, 32)}{note}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _events(report: Report) -> str:
    """The list that the numbers on top of the plots refer to."""
    items = []
    for number, event in enumerate(report.events, 1):
        mark = number if number <= MAX_EVENTS else "·"
        items.append(f"<li><b>{mark}</b><time>{event.t_s:.0f} s</time><span>{_text(event.text, 120)}</span></li>")
    return f'<ol class="events">{"".join(items)}</ol>' if items else ""


def _digests(report: Report) -> str:
    colours = digest_colours(node.digest for node in report.nodes)
    letters = group_letters({node.name: node.digest for node in report.nodes})
    rows = []
    for node in report.nodes:
        colour, letter = f"--hue: {30 * colours[node.digest]}", letters[node.name]
        chip = f'<span class="chip" style="{colour}"><b>{letter}</b>{_text(node.digest, 64)}</span>'
        rows.append([_row_head(node.name), _cell("", chip, "whole"), _cell("", _fate(node), "whole")])
    caption = "Digest of the merged weights at each volunteer. Equal letter and colour: equal to the bit."
    return f"<section><h2>Do they agree?</h2>\n{_table(caption, ('volunteer', 'digest', ''), rows)}</section>"


def _fate(node: NodeReport) -> str:
    notes = []
    if node.killed:
        notes.append("killed, restarted")
    elif node.num_starts > 1:
        notes.append(f"{node.num_starts} starts")
    if node.late:
        notes.append("joined late")
    if node.started_from_snapshot:
        notes.append(f"snapshot, {node.num_vouchers} vouching")
    return ", ".join(notes)


def _traffic(report: Report) -> str:
    wire = report.wire
    fp32 = wire.fp32_bytes_per_coordinate
    words = (
        f"<p>A contribution costs <b>{wire.bytes_per_coordinate:.3f} bytes</b> per alive coordinate, delta and signed "
        f"record together: {ratio_text(fp32, wire.bytes_per_coordinate)} less than fp32 ({fp32:g} bytes). With gossip, "
        f"repeats and handshakes counted at the transport it is <b>{wire.transport_bytes_per_coordinate:.3f} bytes</b> "
        f"for each receiver, {ratio_text(fp32, wire.transport_bytes_per_coordinate)} less. "
        f"{wire.num_contributions} contributions, {bytes_text(wire.total_bytes)} received in all.</p>"
    )
    if not report.history:
        return f"<section><h2>What does it cost to talk?</h2>\n{words}</section>"
    caption = (
        "Bytes received by all volunteers together, everything included, against the same deltas sent as fp32. "
        "Numbers on top are the events listed above."
    )
    return f"<section><h2>What does it cost to talk?</h2>\n{words}\n{_figure(traffic_plot(report), caption)}</section>"


def _spikes(report: Report) -> str:
    tensors = "".join(
        f'<tr><th scope="row" class="mono">{_text(name)}</th><td class="number">{percent_text(density, 2)}</td></tr>'
        for name, density in report.density_per_tensor.items()
    )
    details = (
        f"<details><summary>Density of each of {len(report.density_per_tensor)} weight matrices</summary>"
        f'<table><thead><tr><th scope="col">tensor</th><th scope="col" class="number">may be non-zero</th></tr></thead>'
        f"<tbody>{tensors}</tbody></table></details>"
    )
    caption = (
        f"Share of neurons that spike in a step, on held-out text. Weight density is {percent_text(report.density)}."
    )
    return (
        f"<section><h2>How sparse is it?</h2>\n{_figure(spike_plot(report), caption)}\n"
        f"{details if tensors else ''}</section>"
    )


def _sample(report: Report) -> str:
    shown = _escape(printable(report.sample).strip("\n"))
    note = '<p class="note">A sample from the merged model, drawn byte by byte.</p>'
    return f"<section><h2>What does it write?</h2>\n{note}\n<pre>{shown}</pre></section>"


def _bars(report: Report) -> str:
    rows = []
    for check in checks(report):
        mark = f'<span class="{"good" if check.holds else "bad"}">{"✓ yes" if check.holds else "✗ no"}</span>'
        cells = (("value", value_text(check)), ("bar", bar_text(check)), ("met", mark))
        rows.append([_row_head(check.name), *(_cell(label, content, "number") for label, content in cells)])
    heads = ("fact", "#value", "#bar", "#met")
    return f"<section><h2>Bars</h2>\n{_table('What this demonstration is held against.', heads, rows)}</section>"


def _volunteers(report: Report) -> str:
    labels = ("published", "fetched", "tokens", "tokens/s", "sent", "received", "peak memory", "starts")
    rows = []
    for node in report.nodes:
        cells = (_cell(label, amount, "number") for label, amount in zip(labels, _amounts(node), strict=True))
        rows.append([_row_head(node.name), *cells])
    caption = "Published and fetched count contributions. Bytes are the transport’s, over all starts."
    heads = ("volunteer", *(f"#{label}" for label in labels))
    return f"<section><h2>Each volunteer</h2>\n{_table(caption, heads, rows)}</section>"


def _amounts(node: NodeReport) -> tuple[str, ...]:
    return (
        str(node.num_contributions),
        str(node.num_deltas_fetched),
        count_text(node.num_tokens),
        count_text(node.tokens_per_s),
        bytes_text(node.sent_bytes),
        bytes_text(node.received_bytes),
        bytes_text(node.peak_rss_bytes),
        str(node.num_starts),
    )


def _row_head(name: str) -> str:
    return f'<th scope="row">{_text(name)}</th>'


def _cell(label: str, content: str, kind: str) -> str:
    return f'<td class="{kind}" data-label="{label}">{content}</td>'


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that turns into cards on a phone. A head that starts with # stands over numbers."""
    top = "".join(
        f'<th scope="col"{" class=number" if head.startswith("#") else ""}>{head.removeprefix("#")}</th>'
        for head in heads
    )
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f'<table class="cards"><caption>{caption}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    )


def _footer(report: Report) -> str:
    machine = report.hardware
    facts = (
        ("command", f'<span class="mono">{_text(report.command, 400)}</span>'),
        ("run", f'<span class="mono">{_text(report.run_id)}</span>'),
        ("seed", str(report.seed)),
        ("date", _text(report.date)),
        ("machine", f"{_text(machine.cpu)}, {machine.cores} cores, {bytes_text(machine.memory_bytes)}"),
        (
            "versions",
            f"spikemesh {_text(report.spikemesh)}, Python {_text(machine.python)}, torch {_text(machine.torch)}",
        ),
        ("numbers", "report.json beside this page"),
    )
    return f"<footer><dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in facts)}</dl></footer>"
