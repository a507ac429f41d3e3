import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from canary.decision import Verdict
from canary.evidence.observation import SCHEMA
from canary.report import ReportData, render_html

VOID = {"meta", "link", "br", "wbr", "img", "hr", "input"}
LOADED_BY = ("src", "href", "xlink:href", "srcset", "action", "data", "poster")


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed, in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag, and that it is open."""
        names = [name for name, _ in attrs]
        if len(set(names)) < len(names):
            self.faults.append(f"<{tag}> has an attribute twice: {names}")
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that is closed at once."""
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost tag, which must be this one."""
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()} closes something else")

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of every element of this kind."""
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def html(report_data: ReportData) -> str:
    return render_html(report_data)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def only(data: ReportData, index: int, **changes: object) -> ReportData:
    """The report of one policy alone, its decision changed."""
    return dataclasses.replace(
        data,
        policies=(data.policies[index],),
        decisions=(dataclasses.replace(data.decisions[index], **changes),),
    )


def test_is_well_formed(page: Page) -> None:
    """Every element is closed in order and has each attribute once."""
    assert [] == page.faults


def test_ids_are_unique_and_references_lead_somewhere(page: Page) -> None:
    """No id stands twice; every link, label and clip path has its target."""
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    wanted = set()
    for _, attributes in page.tags:
        wanted |= set(attributes.get("aria-labelledby", "").split())
        wanted |= set(re.findall(r"url\(#([^)]+)\)", " ".join(attributes.values())))
        if attributes.get("href", "").startswith("#"):
            wanted.add(attributes["href"][1:])

    assert len(set(ids)) == len(ids)
    assert set() == wanted - set(ids)


def test_loads_nothing(html: str, page: Page) -> None:
    """One file: no script, no import, nothing to fetch from anywhere."""
    loaded = {
        attributes[name]
        for _, attributes in page.tags
        for name in LOADED_BY
        if name in attributes and not attributes[name].startswith("#")
    }

    assert {"data:,"} == loaded
    assert [] == page.all("script")
    assert "@import" not in html
    assert "http://" not in html
    assert "https://" not in html


def test_is_small(html: str) -> None:
    """Five policies with all their charts stay far under 1.5 MB."""
    assert len(html.encode()) < 750_000


def test_many_policies_stay_within_the_limit(report_data: ReportData) -> None:
    """Twelve policies on a thousand requests still make a page under 1.5 MB."""
    index = [0] * 12
    data = dataclasses.replace(
        report_data,
        policies=tuple(report_data.policies[i] for i in index),
        decisions=tuple(report_data.decisions[i] for i in index),
    )

    assert len(render_html(data).encode()) < 1_500_000


def test_equal_data_give_equal_bytes(report_data: ReportData, html: str) -> None:
    """Nothing of the clock, the process or a random id is in the page."""
    assert html == render_html(report_data)
    assert not re.search(r"0x[0-9a-f]{8,}", html)


def test_hostile_text_stays_text(report_data: ReportData) -> None:
    """Names, sentences and errors from files and models can't become markup."""
    hostile = "<script>alert(1)</script>\"'&"
    data = only(
        report_data,
        1,
        policy=hostile,
        because=(hostile,),
        action=hostile,
        gates=tuple(
            dataclasses.replace(gate, name=f"$x_{hostile}$", task=hostile)
            for gate in report_data.decisions[1].gates
        ),
    )
    run = {**report_data.run, "run": hostile, "command": hostile, "arms": {hostile: {}}}
    page = Page(render_html(dataclasses.replace(data, run=run)))

    assert [] == page.faults
    assert [] == page.all("script")
    assert "".join(page.text).count(hostile) >= 8


def test_every_graphic_says_what_it_shows(page: Page) -> None:
    """Each SVG has a title; each chart tells its finding to those who can't see."""
    graphics = page.all("svg")
    charts = [svg for svg in graphics if svg.get("role") == "img"]
    titles = page.all("title")

    assert len(titles) == len(graphics) + 1
    assert len(charts) >= 5 * 4
    assert all(len(svg["aria-label"]) > 40 for svg in charts)
    assert all(s.get("role") == "img" or s["aria-hidden"] == "true" for s in graphics)


def test_headings_and_landmarks_are_in_order(page: Page) -> None:
    """One h1, no level skipped, and main, header and footer for screen readers."""
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]

    assert 1 == levels.count(1)
    assert 1 == levels[0]
    assert all(b - a <= 1 for a, b in pairwise(levels))
    for landmark in ("main", "header", "footer"):
        assert 1 == len(page.all(landmark))
    assert "#overview" == page.all("a")[0]["href"]
    assert all("scope" in head for head in page.all("th"))


def test_every_verdict_is_a_word(report_data: ReportData, page: Page) -> None:
    """Colour is never the only sign: the word stands in the overview and the banner."""
    text = "".join(page.text)

    assert set(Verdict) == {decision.verdict for decision in report_data.decisions}
    assert all(text.count(str(verdict)) >= 3 for verdict in Verdict)


def test_colours_follow_the_page(html: str) -> None:
    """Charts use the page's variables only, so that they work in light and dark."""
    for svg in re.findall(r"<svg class=\"chart\".*?</svg>", html, re.DOTALL):
        assert not re.search(r"#[0-9a-fA-F]{6}\b", svg)
        assert "font-family" not in svg


def test_unknown_is_said_never_zero(report_data: ReportData) -> None:
    """A gate without a finite value prints "not known" and its reason."""
    html = render_html(only(report_data, 3))
    text = "".join(Page(html).text)

    assert "not known to not known" in text
    assert "no request of this kind has been answered by both arms yet" in text
    assert "0, needed: not known" in text


def test_inconclusive_says_how_many_more(page: Page) -> None:
    """The number of pairs that is still missing stands in the overview."""
    assert "latency p99: about 4,800 more pairs (640 so far)" in "".join(page.text)


def test_only_what_the_verdict_saw_is_shown(report_data: ReportData) -> None:
    """Pairs that arrived after the last look are in no chart and no table."""
    early = "".join(Page(render_html(only(report_data, 4))).text)
    late = "".join(Page(render_html(only(report_data, 4, elapsed_s=95.0))).text)

    assert "75 pairs. A failed request" in early
    assert "640 pairs. A failed request" in late


def test_without_observations(report_data: ReportData) -> None:
    """No rows at all: every part of the page says what is not known."""
    data = dataclasses.replace(report_data, observations=SCHEMA.empty_table())
    page = Page(render_html(data))
    text = "".join(page.text)

    assert [] == page.faults
    assert 5 == text.count("Nothing was scored, so accuracy is not known.")
    assert 5 == text.count("No time was measured, so latency is not known.")


@pytest.mark.parametrize("kind", ["latency", "quality"])
def test_with_one_kind_of_request_only(report_data: ReportData, kind: str) -> None:
    """A run without scored requests, or without timed ones, is reported as such."""
    rows = report_data.observations
    kept = rows.filter([value == kind for value in rows["kind"].to_pylist()])
    page = Page(render_html(dataclasses.replace(report_data, observations=kept)))
    text = "".join(page.text)

    assert [] == page.faults
    assert ("accuracy is not known" in text) == (kind == "latency")
    assert ("latency is not known" in text) == (kind == "quality")


def test_with_an_empty_record(report_data: ReportData) -> None:
    """Measurements made elsewhere have no run.json: its part is not recorded."""
    page = Page(render_html(dataclasses.replace(report_data, run={})))

    assert [] == page.faults
    assert "".join(page.text).count("not recorded") >= 20


def test_without_looks_or_routing(report_data: ReportData) -> None:
    """A decision that holds only gates makes a page without those parts."""
    page = Page(render_html(only(report_data, 0, looks=(), routing=())))
    text = "".join(page.text)

    assert [] == page.faults
    assert "Evidence over the looks" not in text
    assert "No routing was recorded." in text


def test_evidence_beyond_measure(report_data: ReportData) -> None:
    """Infinite evidence neither breaks a chart nor prints as a number."""
    gates = tuple(
        dataclasses.replace(gate, log_e_hold=float("-inf"), log_e_broken=float("inf"))
        for gate in report_data.decisions[1].gates
    )
    looks = tuple(
        dataclasses.replace(
            look,
            log_e_hold=(float("-inf"),) * len(gates),
            log_e_broken=(float("inf"),) * len(gates),
        )
        for look in report_data.decisions[1].looks
    )
    html = render_html(
        only(report_data, 1, gates=gates, looks=looks, log_e_rollback=float("inf"))
    )

    assert [] == Page(html).faults
    assert "beyond measure" in html
    assert ">nan<" not in html
    assert "inf of" not in html


def test_override_is_never_hidden(report_data: ReportData) -> None:
    """Who overrode a verdict, and why, stands in its banner."""
    override = {
        "action": "rollback",
        "by": "Ada <ada@example.org>",
        "when": "2026-11-24T02:10:00+00:00",
        "why": "freeze",
    }
    html = render_html(only(report_data, 0, override=override))

    assert [] == Page(html).faults
    assert "Overridden by hand." in html
    who = "Ada &lt;ada@example.org&gt;"
    assert f"rollback, by {who} on 24 November 2026, 02:10 UTC: freeze" in html
    assert "by hand: rollback" in html


def test_import_is_quick() -> None:
    """Whoever imports the package doesn't pay for matplotlib, ray or torch."""
    heavy = "matplotlib", "torch", "ray"
    code = f"import sys, canary.report; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )

    assert "[]" == done.stdout.strip()


def test_the_control_shows_what_it_could_tell(report_data: ReportData) -> None:
    """One table with a row per metric, where a control ran; elsewhere that none did."""
    page = render_html(report_data)

    assert 1 == page.count("Evidence: differs")
    for status in ("agrees", "differs", "can&#39;t tell yet"):
        assert f"<td>{status}</td>" in page
    assert "asked for 25% of the requests" in page
    assert 4 == page.count("none ran; the policy asks for none")


def test_what_counts_as_independent_is_said(report_data: ReportData, html: str) -> None:
    """The page names the units of each policy: requests, blocks of time, or both."""
    first, second, *_ = report_data.policies
    rules = first.decision.model_copy(update={"block": 300.0})
    blocks = first.model_copy(update={"decision": rules})
    decisions = report_data.decisions
    both = dataclasses.replace(
        report_data, policies=(blocks, second), decisions=decisions[:2]
    )
    one = dataclasses.replace(report_data, policies=(blocks,), decisions=decisions[:1])

    assert {"Requests"} == independent(html)
    assert {"Requests", "Blocks of time"} == independent(render_html(both))
    assert {"Blocks of time"} == independent(render_html(one))


def independent(page: str) -> set[str]:
    """What a page says is counted as independent."""
    units = ("Requests", "Blocks of time")
    return {one for one in units if f"{one} counted as independent" in page}
