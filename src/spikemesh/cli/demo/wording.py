"""How bars and comparisons are put into words, the same in the terminal and on the page."""

from __future__ import annotations

from spikemesh.cli.demo.facts import Check, Length, Report, checks
from spikemesh.cli.readable import bytes_text, duration_text, percent_text


def check_text(check: Check) -> str:
    """`bar: at least 0.08 ✓`, with a cross where it does not hold."""
    return f"bar: {bar_text(check)} {'✓' if check.holds else '✗'}"


def beside(report: Report, name: str) -> str:
    """` · bar: at least 0.08 ✓` of the check called `name`; nothing where this report has no such check."""
    return "".join(f" · {check_text(check)}" for check in checks(report) if check.name == name)


def length_text(length: Length) -> str:
    """What a demo says before it trains."""
    whole = f"A training step takes {1000 * length.step_s:.0f} ms here"
    if not length.shortened:
        return f"{whole}: about {duration_text(length.expected_s)} for all {length.whole_rounds} rounds and baselines."
    return (
        f"{whole}: all {length.whole_rounds} rounds and baselines would take about {duration_text(length.whole_s)}, so "
        f"this demo trains {length.num_rounds} rounds, in about {duration_text(length.expected_s)}; --full trains all."
    )


def shortened_text(length: Length) -> str:
    """What the report of a shortened run says of it."""
    return (
        f"Shortened to {length.num_rounds} of {length.whole_rounds} rounds, as all would have taken about "
        f"{duration_text(length.whole_s)} here. The baselines are as short, so the losses can be compared with each "
        "other, and with no other run's. `spikemesh demo --fresh --full` trains all rounds."
    )


def bar_text(check: Check) -> str:
    """`at least 0.08`."""
    return f"{check.limit} {_amount(check.bar, check.unit)}{'' if check.decides else ' (for information)'}"


def value_text(check: Check) -> str:
    """The checked value with its unit."""
    unit = " nats/byte" if check.unit == "nats/byte" else ""
    return f"{_amount(check.value, check.unit, places=3)}{unit}"


def _amount(value: float, unit: str, places: int | None = None) -> str:
    if unit == "fraction":
        return percent_text(value, 0 if places is None else 1)
    if unit == "s":
        return duration_text(value)
    if unit == "bytes" and value > 1000:
        return bytes_text(value)
    if unit == "":
        return f"{value:g}"
    return f"{value:.2f}" if places is None else f"{value:.{places}f}"


def gain_text(gain: float) -> str:
    return f"{abs(gain):.3f} {'above' if gain < 0 else 'below'}"


def ratio_text(fp32: float, value: float) -> str:
    return f"{fp32 / value:.1f} times" if value > 0 else "any number of times"
