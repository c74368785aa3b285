"""The report's page: it shows every fact, is well formed, loads nothing, and obeys no text from outside."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from spikemesh.cli.demo.plots import spread, traffic
from spikemesh.cli.demo.report import HistoryNode, HistoryPoint, summary_lines, write_report
from tests.cli.samples import DIGEST, hostile_report, node, report
from tests.hang import HANG_S
from tests.machine import cannot

VOID = frozenset(("meta", "link", "br", "img"))


class Reader(HTMLParser):
    """Reads a page strictly: every element that opens must close, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of <{tag}> stands twice"
        self.seen.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    write_report(place, report())
    return place


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hostile")
    write_report(place, hostile_report())
    return place


def page_of(place: Path) -> str:
    return (place / "report.html").read_text(encoding="utf-8")


def test_the_page_holds_every_fact(folder: Path) -> None:
    text = Reader(page_of(folder)).text
    for fact in (
        "Five volunteers, one model",
        "All 7 bars met",
        "24 rounds of 20 steps",
        *("1.751", "1.882", "1.702", "3.158", "2.442", "73 %", "72.8 %"),
        *("0.183", "21.8×", "0.224", "17.8 times", "22.9 MB", "102 contributions"),
        *("7.0 %", "7.12 %", "6.94 %", "0.145", "0.051"),
        *("705 MB", "3 min 32 s", "4 min 11 s", "8 min 14 s"),
        *(f"volunteer-{number}" for number in range(1, 6)),
        *("killed, restarted", "joined late, snapshot, 3 vouching", "92 s volunteer-2 killed (SIGKILL)"),
        *("10.4k", "1.97M", "3.26 MB", "4.61 MB"),
        "return a < b",
        *("spikemesh demo --seed 0", "9b" * 32, "2026-01-02T03:04:05Z", "A CPU, 2 cores, 8.00 GB", "torch 2.13.0"),
    ):
        assert fact in text
    assert text.count(DIGEST) == 5


def test_equal_digests_have_one_colour_and_a_different_one_another(tmp_path: Path, folder: Path) -> None:
    def colours(page: str) -> list[str]:
        return re.findall(r"--hue: (\d+)", page)

    assert len(set(colours(page_of(folder)))) == 1
    write_report(tmp_path, report(nodes=[node(1), node(2), node(3, digest="00" * 32)], history=[]))
    page = page_of(tmp_path)
    first, second, third = colours(page)
    assert first == second != third
    assert "Three volunteers, two models" in page and "They ended with different weights." in page
    assert re.findall(r"<b>([A-Z])</b>", page) == ["A", "A", "B"]


def test_each_plot_says_in_words_what_it_shows(folder: Path) -> None:
    images = [attrs for _, attrs in Reader(page_of(folder)).seen if attrs.get("role") == "img"]
    gap, loss, bytes_over_time, spikes = (attrs["aria-label"] for attrs in images)
    assert "joint 1.702, merged 1.751, lone 1.882" in gap and "73 percent" in gap
    assert "volunteer-1 1.75" in loss and "lone 1.882" in loss
    assert "22.5 MB" in bytes_over_time and "165 MB" in bytes_over_time
    assert "block0.mix 0.145, block0.hidden 0.051" in spikes


@pytest.mark.parametrize("kind", ["folder", "hostile_folder"])
def test_the_page_is_well_formed_runs_nothing_and_loads_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    reader = Reader(page_of(request.getfixturevalue(kind)))
    assert not {tag for tag, _ in reader.seen} & {
        "script",
        "img",
        "iframe",
        "object",
        "embed",
        "image",
        "foreignobject",
    }
    ids = [attrs["id"] for _, attrs in reader.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in reader.seen:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("href", "xlink:href", "src", "action"):
            assert attrs.get(name, "#").startswith(("#", "data:,"))
        for target in re.findall(r"url\(#([^)]*)\)", attrs.get("clip-path", "") + attrs.get("style", "")):
            assert target in ids
        if "xlink:href" in attrs:
            assert attrs["xlink:href"][1:] in ids


def test_hostile_text_is_shown_and_not_obeyed(hostile_folder: Path) -> None:
    page = page_of(hostile_folder)
    assert "<script" not in page and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", page)
    shown = Reader(page).text
    assert "</pre></svg><script>document.title='owned'</script><img src=x onerror=alert(1)>" in shown


def test_a_report_without_history_layers_or_events_still_makes_a_page(tmp_path: Path) -> None:
    bare = report(history=[], held_out=[], events=[], spike_rate={}, density_per_tensor={}, sample="")
    write_report(tmp_path, bare)
    assert "1.751" in Reader(page_of(tmp_path)).text
    assert summary_lines(bare)


def test_the_same_report_gives_the_same_page(tmp_path: Path, folder: Path) -> None:
    write_report(tmp_path, report())
    assert page_of(tmp_path) == page_of(folder)


def test_traffic_compares_what_was_received_with_the_same_deltas_in_fp32() -> None:
    down = HistoryPoint(t_s=300.0, nodes=[HistoryNode(name="volunteer-1", state="down")])
    history = [*report().history, down]
    times, received, fp32 = traffic(report(history=history))
    assert times[-1] == 300.0
    assert received[-1] == received[-2] == 5 * 4_500_000
    assert fp32[-1] == 5 * 72 * 4 * 114_688


def test_labels_are_moved_apart_and_no_further() -> None:
    assert spread([1.0, 5.0], 1.0) == [1.0, 5.0]
    assert spread([2.0, 2.0], 1.0) == [1.5, 2.5]
    placed = spread([3.0, 1.0, 1.1, 1.2], 1.0)
    assert sorted(placed) == pytest.approx([0.075, 1.075, 2.075, 3.075])
    assert placed[0] == max(placed)


# In a browser


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    cannot("has no chromium, so the page is not opened in a browser: install the package chromium")


def opened(target: Path, profile: Path, *, width: int = 1200) -> tuple[str, str]:
    """The page's elements after loading, and what the browser says on its console."""
    command = [
        *(browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--enable-logging=stderr", f"--user-data-dir={profile}", f"--window-size={width},900"),
        *("--virtual-time-budget=5000", "--dump-dom", target.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, timeout=HANG_S, check=True)
    log = done.stderr.decode(errors="replace").splitlines()
    return done.stdout.decode(errors="replace"), "\n".join(line for line in log if "CONSOLE" in line)


def test_the_browser_has_nothing_to_complain_about(folder: Path, tmp_path: Path) -> None:
    dom, console = opened(folder / "report.html", tmp_path / "profile")
    assert console == ""
    text = Reader(dom).text
    for fact in ("1.751", "1.882", "1.702", "21.8×", "All 7 bars met", DIGEST, "return a < b"):
        assert fact in text
    assert dom.count("<svg") == 8


def test_the_browser_does_not_obey_hostile_text(hostile_folder: Path, tmp_path: Path) -> None:
    dom, console = opened(hostile_folder / "report.html", tmp_path / "profile")
    assert console == ""
    reader = Reader(dom)
    assert not {tag for tag, _ in reader.seen} & {"script", "img"}
    assert "<title>Five volunteers, one model · spikemesh</title>" in dom


def test_the_browser_test_would_see_an_error(tmp_path: Path) -> None:
    watched = tmp_path / "watched.html"
    watched.write_text("<!doctype html><script>console.error('seen'); missing()</script>")
    _, console = opened(watched, tmp_path / "profile")
    assert "seen" in console and "missing" in console


@pytest.mark.parametrize("kind", ["folder", "hostile_folder"])
def test_nothing_is_wider_than_a_phone_and_each_width_shows_its_plots(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The page in frames of two widths, measured from outside since it runs no script of its own."""
    page = html.escape(page_of(request.getfixturevalue(kind)))
    frames = "".join(f'<iframe width="{width}" height="800" srcdoc="{page}"></iframe>' for width in (360, 1200))
    measure = """
    <script>addEventListener("load", () => {
      const facts = [...document.querySelectorAll("iframe")].map(({contentWindow: frame}) => {
        const all = name => [...frame.document.querySelectorAll(name)];
        const seen = name => all(name).filter(e => e.getBoundingClientRect().width > 0);
        return { inner: frame.innerWidth, scroll: frame.document.documentElement.scrollWidth,
          wide: seen(".plot .wide").length, narrow: seen(".plot .narrow").length,
          loaded: frame.performance.getEntriesByType("resource").length };
      });
      document.body.textContent = JSON.stringify(facts);
    });</script>
    """
    (tmp_path / "frames.html").write_text(f"<!doctype html><title>x</title><body>{frames}{measure}", encoding="utf-8")
    dom, console = opened(tmp_path / "frames.html", tmp_path / "profile")
    assert console == ""
    phone, desk = json.loads(Reader(dom).text.removeprefix("x "))
    assert phone["scroll"] <= phone["inner"] == 360 and (phone["wide"], phone["narrow"]) == (0, 4)
    assert desk["scroll"] <= desk["inner"] == 1200 and (desk["wide"], desk["narrow"]) == (4, 0)
    assert phone["loaded"] == desk["loaded"] == 0
