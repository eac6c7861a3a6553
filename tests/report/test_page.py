"""The report in a browser: whole, escaped, readable, and alone."""

import math
from html.parser import HTMLParser

import pytest

from ostinato.report.page import to_html
from ostinato.report.results import LengthLoss
from ostinato.report.summary import rows
from ostinato.report.tables import SUMMARY
from ostinato.report.text import safe
from tests.report.made_up import failure, made_up_comparison, made_up_run

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What is on a page: its elements with attributes, its text, and whether everything that opens is closed."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def comparison():
    return made_up_comparison(failures=[failure()])


@pytest.fixture(scope="module")
def page(comparison):
    return Page(to_html(comparison))


def test_it_needs_nothing_else(comparison, page):
    """No network, no script: nothing refers to anything but a place on the page itself."""
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "img", "object", "embed", "base")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    html = to_html(comparison)
    assert "@import" not in html
    assert "url(" not in html
    assert "http" not in html


def test_links_lead_somewhere(page):
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    assert {attributes["href"][1:] for attributes in page.all("a")} <= set(names)


def test_every_figure_of_every_mixer_is_there(comparison, page):
    shown = {float(attributes["value"]) for attributes in page.all("data")}
    for row in rows(comparison):
        for column in SUMMARY:
            assert row.spread(column.figure).mean in shown, (row.mixer, column.title)
        for length in (256, 512, 1024):
            values = [part.bits_per_byte for run in row.runs for part in run.lengths if part.length == length]
            assert any(math.isclose(sum(values) / 3, value) for value in shown)


def test_tables_have_headers(page):
    assert page.all("table")
    scopes = [attributes.get("scope") for attributes in page.all("th")]
    assert set(scopes) == {"col", "colgroup", "row"}


def test_plots_say_in_words_what_they_show(page):
    drawings = [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert len(drawings) == 2 * 5  # each once for wide and once for narrow screens
    assert all(attributes["aria-label"] for attributes in drawings)


def test_series_differ_without_colour(page):
    lines = {attributes.get("stroke-dasharray") for attributes in page.all("path") if attributes.get("class") == "line"}
    forms = {attributes["d"] for attributes in page.all("path") if attributes.get("class") == "marker"}
    assert len(lines) == len(forms) == 5


def test_what_comes_from_outside_is_escaped():
    evil = '</pre><script>alert("x")</script>\x00\x1b[31m\u202e\ud800 & <b>'
    run = made_up_run(mixer=evil, prompt=evil, sample=evil)
    made = {evil: {evil: evil}}
    page = Page(
        to_html(
            made_up_comparison([evil], runs=[run], failures=[failure(evil)], missing=[(evil, 1)], title=evil, made=made)
        )
    )
    assert not page.all("script")
    assert "<script>" in page.text  # shown, not run
    assert not any(ord(character) < 32 and character not in "\n\t" for character in page.text)
    page.text.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b\x7f", "a\u2400b\u2421"),
        ("\r\n\t", "\n\t"),
        ("\ud800\x85\u2067\uffff", "\ufffd" * 4),
        ("<&\">'", "&lt;&amp;&quot;&gt;&#x27;"),
        ("na\u00efve \U0001f3b5", "na\u00efve \U0001f3b5"),
    ],
)
def test_only_characters_that_may_stand_in_a_page(text, shown):
    assert safe(text) == shown


def test_failures_and_warnings_are_said(page):
    assert "a <b>gate</b> & its bias" in page.text
    assert "1 of the runs failed" in page.text


def test_a_page_before_anything_has_ended():
    page = Page(to_html(made_up_comparison(runs=[], missing=[("gla", 0)])))
    assert "No run has ended yet." in page.text
    assert "gla (seed 0)" in page.text


def test_what_was_not_measured_is_a_dash():
    lengths = [LengthLoss(256, 2.5), LengthLoss(1024, None, "reads at most 256 tokens")]
    run = made_up_run(peak_memory_bytes=None, lengths=lengths)
    page = Page(to_html(made_up_comparison(["gla"], runs=[run])))
    titles = [attributes.get("title") for attributes in page.all("span")]
    assert titles.count("not measured") == 2
    assert "reads at most 256 tokens" in page.text


def test_one_flat_run_can_be_drawn():
    """Axes of no extent, a curve of one point, a diverged loss."""
    run = made_up_run(curve=made_up_run().curve[-1:], state_bytes={1: 0, 1024: 0}, positions=[])
    diverged = made_up_run("attention", final_bits_per_byte=math.inf, best_bits_per_byte=math.inf)
    page = Page(to_html(made_up_comparison(["gla", "attention"], runs=[run, diverged])))
    for attributes in page.all("path"):
        assert "nan" not in attributes["d"]
        assert "inf" not in attributes["d"]


def test_many_and_long_names_have_keys():
    names = [f"gated_deltanet+attention(window={n})" for n in range(30)]
    page = Page(to_html(made_up_comparison(names, seeds=1)))
    assert " AD" in page.text
    assert names[29] in page.text
