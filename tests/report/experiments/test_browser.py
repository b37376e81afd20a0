"""The pages in a real browser, opened from disk; skipped where there is none.

A harness holds the page, unchanged and under its own policy, in a frame of a given width and asks
it questions; the answers are read from the harness's own document.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spamo_cache import io
from spamo_cache.report import write_report
from spamo_cache.runs.records import ScoredClip, ScoreWarning, keep_card, read_card
from tests.support.browser import OVERFLOW, Browser, found_or_skipped

Build = Callable[..., Path]

pytestmark = pytest.mark.slow
HOSTILE = [
    "<script>document.title = 'in'</script><img src=x onerror=\"document.title='in'\">",
    "\"'><svg onload=\"document.title='in'\"> & </style></script>--> javascript:alert(1)",
    "שלום עולם \u202e mixed with latin",
    "x" * 5_000,
    "wind 🌬️ 👩🏽‍🦱 \U0001f9cf and \u0000 \ufffe",
    "词" * 300,
]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return found_or_skipped(tmp_path_factory.mktemp("browser"))


@pytest.fixture
def lab_page(build_lab: Build, tmp_path: Path) -> Path:
    return write_report([build_lab()], tmp_path / "lab.html")


@pytest.fixture
def hostile_page(build_run: Build, tmp_path: Path) -> Path:
    """Texts that want out of their place, wherever a corpus's texts stand."""
    run = build_run(question=HOSTILE[0], analysed=True)
    lines = [
        ScoredClip(
            id=f"{text[:40]}{n}", hypothesis=f"{text} {n}", reference=f"{text[::-1]} {n} a",
            failed=text if n % 2 else None,
        )
        for n, text in enumerate(HOSTILE)
    ]  # fmt: skip
    card = read_card(run / "evaluation/test.json")
    warnings = [ScoreWarning(kind="x", words=text, severity="warning") for text in HOSTILE]
    keep_card(run, replace(card, warnings=warnings, failed={t: t for t in HOSTILE}), lines)
    return write_report([run], tmp_path / "hostile.html")


def test_it_opens_from_disk_without_a_word_on_the_console(browser: Browser, lab_page: Path) -> None:
    assert browser.console(lab_page) == []


def test_a_page_that_breaks_its_policy_would_be_noticed(browser: Browser, lab_page: Path) -> None:
    lab_page.write_text(
        lab_page.read_text().replace("</main>", "<img src='http://[::1]:9/x'></main>")
    )
    assert any("Content Security Policy" in line for line in browser.console(lab_page))


@pytest.mark.parametrize("width", [390, 1200])
def test_every_figure_is_seen(browser: Browser, lab_page: Path, width: int) -> None:
    found = browser.ask(
        lab_page,
        """
        for (const folded of page.querySelectorAll("details")) folded.open = true;
        const box = (e) => e.getBoundingClientRect();
        // Of two sizes the style sheet shows one.
        const figures = [...page.querySelectorAll("svg")].filter((e) => e.checkVisibility());
        const small = figures.filter((e) => box(e).width < 200 || box(e).height < 40);
        const dots = figures.flatMap((e) => [...e.querySelectorAll("circle, rect.bar")]);
        const narrow = [...page.querySelectorAll(".wide svg")].filter((e) => e.checkVisibility() &&
          box(e).width < box(e.closest("main")).width * 0.75);
        const none = dots.filter((e) => box(e).width === 0 || e.getBBox().width === 0);
        const colours = new Set(dots.map((e) => getComputedStyle(e).fill));
        const outside = figures.flatMap((svg) => [...svg.querySelectorAll("text")].filter((t) =>
          box(t).left < box(svg).left - 2 || box(t).right > box(svg).right + 2)
          .map((t) => t.textContent));
        return [figures.length, small.length, dots.length, none.length,
                [...colours].includes("rgb(0, 0, 0)"), outside, narrow.length];
        """,
        width=width,
    )
    figures, small, dots, none, unstyled, outside, narrow = found
    assert figures > 20
    assert dots > 50
    assert (small, none, unstyled, outside, narrow) == (0, 0, False, [], 0)


def test_tables_are_sorted_by_value_with_absent_ones_last(browser: Browser, lab_page: Path) -> None:
    found = browser.ask(
        lab_page,
        """
        const table = page.querySelector("table.variants");
        const names = () => [...table.tBodies[0].rows].map((row) =>
          row.cells[0].textContent.match(/both|spatial|motion|floor|not/)[0]);
        const press = (n) => table.tHead.rows[0].cells[n].querySelector("button").click();
        const seen = [names()];
        for (const column of [1, 1, 0]) { press(column); seen.push(names()); }
        return [seen, table.tHead.rows[0].cells[0].getAttribute("aria-sort"),
                table.tHead.rows[0].cells[1].getAttribute("aria-sort")];
        """,
    )
    (start, rising, falling, words), now, before = found
    assert start == ["motion", "spatial", "both", "floor", "not"]
    assert rising == ["spatial", "both", "motion", "floor", "not"]
    assert falling == ["both", "spatial", "motion", "floor", "not"]
    assert words == ["both", "floor", "motion", "not", "spatial"]
    assert (now, before) == ("ascending", None)


def test_durations_are_sorted_by_seconds(
    browser: Browser, build_lab: Build, tmp_path: Path
) -> None:
    folder = build_lab()
    for name, seconds in (("default", 3700), ("spatial", 59)):
        done = folder.parent / name / "done.json"
        io.write_json(done, io.read_json(done) | {"seconds": seconds})
    found = browser.ask(
        write_report([folder], tmp_path / "lab.html"),
        """
        const table = page.querySelector("table.variants");
        const head = [...table.tHead.rows[0].cells];
        const column = head.findIndex((cell) => cell.textContent === "training time");
        head[column].querySelector("button").click();
        return [...table.tBodies[0].rows].map((row) => row.cells[column].textContent);
        """,
    )
    assert found == ["59 s", "1 h 01 min", "–", "–", "–"]


def test_a_link_unfolds_the_run_it_leads_to(browser: Browser, lab_page: Path) -> None:
    found = browser.ask(
        lab_page,
        """
        const run = page.getElementById("run-spatial");
        const before = run.open;
        page.defaultView.location.hash = "#run-spatial";
        page.defaultView.dispatchEvent(new HashChangeEvent("hashchange"));
        return [before, run.open];
        """,
    )
    assert found == [False, True]


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("kind", ["lab_page", "hostile_page"])
def test_nothing_is_wider_than_the_page(
    browser: Browser, request: pytest.FixtureRequest, kind: str, width: int
) -> None:
    page = request.getfixturevalue(kind)
    scroll, client, wide = browser.ask(page, OVERFLOW, width=width)
    assert wide == []
    assert client <= width
    assert scroll == client


def test_a_phone_cuts_no_table_and_breaks_no_number(browser: Browser, lab_page: Path) -> None:
    found = browser.ask(
        lab_page,
        """
        for (const folded of page.querySelectorAll("details")) folded.open = true;
        const cut = [...page.querySelectorAll(".scroll")].filter((e) =>
          e.querySelector("table") && e.scrollWidth > e.clientWidth + 1);
        const lines = (e) => {
          const range = page.createRange();
          range.selectNodeContents(e.firstChild);
          return range.getClientRects().length;
        };
        const broken = [...page.querySelectorAll("td data, .cards dd:not(.note)")]
          .filter((e) => lines(e) > 1);
        const cell = page.querySelector("table.variants td:nth-child(5)");
        const name = page.defaultView.getComputedStyle(cell, "::before").content;
        return [cut.map((e) => e.ariaLabel), broken.map((e) => e.textContent), name];
        """,
        width=390,
    )
    assert found == [[], [], '"chrF"']


def saved(browser: Browser, page: Path, label: str) -> list[list[str]]:
    """The rows of the CSV file that a button gives."""
    name, content = browser.ask(
        page,
        """
        const window = page.defaultView, files = [];
        window.Blob = class { constructor(parts) { files.push(parts.join("")); } };
        window.URL.createObjectURL = () => "blob:";
        let name;
        window.HTMLAnchorElement.prototype.click = function () { name = this.download; };
        page.querySelector(`button[data-save="LABEL"]`).click();
        return [name, files[0]];
        """.replace("LABEL", label),
    )
    assert name.endswith(".csv")
    assert content[0] == "\ufeff"
    return list(csv.reader(content[1:].splitlines(keepends=True)))


def test_tables_are_saved_as_csv_with_whole_numbers(browser: Browser, lab_page: Path) -> None:
    head, *rows = saved(browser, lab_page, "Experiment streams")
    assert head[:6] == ["variant", "BLEU-4", "BLEU-4 ±", "Δ BLEU-4", "p", "chrF"]
    assert rows[1][1:4] == ["22", "2.2", "-18"]
    assert rows[0][1:4] == ["", "", ""]  # it failed
    head, *rows = saved(browser, lab_page, "Experiments")
    assert (head[2:4], rows[0][2:4]) == (["held against", "held against, of"], ["40", "both"])
    assert saved(browser, lab_page, "Settings against the paper")[0][0] == "setting"


def test_a_saved_table_runs_nothing_in_a_spreadsheet(
    browser: Browser, build_run: Build, tmp_path: Path
) -> None:
    run = build_run()
    texts = ["=cmd|'/c calc'!A1", "+1", "-x", "@SUM(A1)", 'a "b", c\nd', " =1", "\uff1d1", "词 词"]
    lines = [ScoredClip(id=t, hypothesis=t[::-1], reference=t, chrf=7.25) for t in texts]
    lines.append(ScoredClip(id="gone", hypothesis="", reference="a", failed="no video"))
    keep_card(run, read_card(run / "evaluation/test.json"), lines)
    page = write_report([run], tmp_path / "r.html")
    _, *rows = saved(browser, page, "Translations of default")
    assert {row[0] for row in rows} == {
        *("'" + text.strip() for text in (*texts[:4], texts[6])), "' =1", texts[4], "词 词", "gone",
    }  # fmt: skip
    assert {row[1] for row in rows} == {"7.25", "0"}
    (gone,) = [row for row in rows if row[0] == "gone"]
    assert gone[2:] == ["a", "", "no video", "no"]
    assert not any(re.match(r"\s*[=+\-@]", cell) for row in rows for cell in row)


def test_paper_cuts_nothing_off(browser: Browser, lab_page: Path) -> None:
    # A4 less its margins is 717 wide, a harness's scroll bar 15.
    printed = lab_page.read_text().replace("@media print {", "@media all {")
    lab_page.write_text(printed)
    question = OVERFLOW.replace(".scroll, nav, pre, .film, svg", "svg, caption")
    _, _, wide = browser.ask(lab_page, question, width=732)
    assert wide == []


def test_frames_are_shown_whole(browser: Browser, build_run: Build, tmp_path: Path) -> None:
    run = build_run()
    square = (
        build_run("looked-into", analysed=True) / "analysis/attribution/clip-0.jpg"
    ).read_bytes()
    page = write_report(
        [run], tmp_path / "r.html", frames=lambda _, ids: dict.fromkeys(ids, [square] * 8)
    )
    for width in (1200, 390):
        sizes = browser.ask(
            page,
            """return [...page.querySelectorAll(".film img")].map((e) =>
                 [e.clientWidth, e.clientHeight]);""",
            width=width,
        )
        assert sizes
        assert all(abs(wide - high) <= 1 for wide, high in sizes)


def test_texts_of_a_corpus_do_nothing(browser: Browser, hostile_page: Path) -> None:
    assert browser.console(hostile_page) == []
    title, scripts, images, handlers, text = browser.ask(
        hostile_page,
        """
        const all = [...page.querySelectorAll("*")];
        return [page.title, page.scripts.length, page.querySelectorAll("img").length,
                all.filter((e) => e.getAttributeNames().some((a) => a.startsWith("on"))).length,
                page.body.textContent];
        """,
    )
    assert title == "default on signed-weather · spamo-cache"
    assert (scripts, images, handlers) == (1, 0, 0)
    for hostile in HOSTILE:
        assert hostile.replace("\u0000", "\ufffd") in text


def test_directions_of_writing_do_not_leak_into_their_surroundings(
    browser: Browser, hostile_page: Path
) -> None:
    found = browser.ask(
        hostile_page,
        """
        const isolated = [...page.querySelectorAll(".reference, .hypothesis")]
          .every((e) => e.querySelector("bdi"));
        return [isolated, getComputedStyle(page.querySelector("bdi")).unicodeBidi];
        """,
    )
    assert found == [True, "isolate"]


def test_what_is_unfolded_for_paper_is_folded_again(
    browser: Browser, build_run: Build, tmp_path: Path
) -> None:
    page = write_report([build_run(repeat=10)], tmp_path / "r.html")
    found = browser.ask(
        page,
        """
        const window = page.defaultView;
        const open = () => [page.querySelectorAll("details[open]").length,
                            page.querySelectorAll("details.more[open]").length];
        const seen = [open()];
        for (const event of ["beforeprint", "afterprint"]) {
          window.dispatchEvent(new Event(event));
          seen.push(open());
        }
        return [page.querySelectorAll("details").length, seen];
        """,
    )
    # The sample of translations stands; all of them would be most of the paper.
    every, (before, during, after) = found
    assert during == [every - 1, 0]
    assert before == after


def test_it_prints_with_everything_unfolded(browser: Browser, lab_page: Path) -> None:
    printed = lab_page.with_suffix(".pdf")
    browser.run(lab_page, f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    content = printed.read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) > 5
