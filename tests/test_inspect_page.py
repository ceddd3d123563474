"""The page of `ep inspect --html` in a real browser, headless. Skipped where there is no chromium or no playwright."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inspections import KINDS, inspection, observed_inspection

from epcli.records import KeptStream, Modality, TokenStream
from epcli.report import figures
from epcli.report.html import to_html
from epcli.sieve.select import Budget, keep_count, narrow
from epcli.text import format_time

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install 'epcli[dev]')")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH")]
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)


@pytest.fixture(scope="module")
def looked():
    return inspection(selectors=("query-aware", "random"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as program:
        started = program.chromium.launch(executable_path=CHROMIUM, args=list(QUIET), timeout=180_000)
        yield started
        started.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, looked) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(to_html(looked), encoding="utf-8")
    return path


@pytest.fixture
def trouble() -> list[str]:
    """What a page must not do: complain, ask for anything, run what it was told."""
    return []


@pytest.fixture
def page(browser: Any, file: Path, trouble: list[str]) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    yield opened(context, file, trouble)
    context.close()
    assert trouble == []


def until(page: Any, expression: str, seconds: float = 60.0) -> None:
    """Wait until it is true in the page. Playwright's own wait would evaluate a text there: its policy forbids that."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


def opened(context: Any, file: Path, trouble: list[str], frames: int = 8) -> Any:
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: trouble.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (trouble.append("dialog"), dialog.dismiss()))
    page.on("request", lambda asked: asked.url.startswith(("data:", "file:")) or trouble.append(asked.url))
    page.goto(file.as_uri())
    if frames:
        until(page, f"document.querySelectorAll('#frames em').length == {frames}")
        until(page, "document.querySelector('#frames em').textContent != ''")
    return page


def kept_at(run: Any, percent: int) -> np.ndarray:
    """What the sieve keeps of these scores: (n,) bool."""
    n = len(run.scores)
    kept = np.zeros(n, bool)
    kept[np.argsort(-run.scores, kind="stable")[: keep_count(n, percent / 100)]] = True
    return kept


def numbers_of(page: Any) -> list[list[str]]:
    return page.eval_on_selector_all("#budget tr", "rows => rows.map(r => [...r.cells].map(c => c.textContent))")


def test_the_page_shows_the_answer_the_counts_and_the_moments(page, looked):
    run = looked.runs[0]
    assert page.text_content("#answer") == run.report.answer  # <b> and all, as text
    for row, modality in zip(numbers_of(page), ("video", "audio"), strict=False):
        count = run.report.tokens.of(modality)
        assert row[2] == f"{count.kept} of {count.total}"
    labels = page.eval_on_selector_all("#moments button", "all => all.map(b => b.children[1].textContent)")
    assert labels == [moment.label for moment in run.report.evidence.moments]
    assert page.eval_on_selector_all("img, iframe, object, link", "all => all.length") == 0
    assert looked.info.path.name in page.title()


def test_the_slider_keeps_what_the_sieve_keeps(page, looked):
    run, tokens = looked.runs[0], looked.tokens
    assert len(np.unique(run.scores)) < len(run.scores) / 4  # many ties: the earlier must stay
    for percent in (2, 7, 10, 29, 57, 100):
        page.eval_on_selector("#keep", "(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", percent)
        until(page, f"document.querySelector('#keep-now').textContent == '{percent}%'")
        kept = kept_at(run, percent)
        want = [f"{int(kept[tokens.modality == m].sum())} of {int((tokens.modality == m).sum())}" for m in (1, 2)]
        assert [row[2] for row in numbers_of(page)[:2]] == want, percent
        page.wait_for_timeout(100)
        shown = page.eval_on_selector_all("#frames em", "all => all.map(e => e.textContent)")
        of = tokens.modality == Modality.VIDEO
        frames = np.bincount(tokens.cells[of, 0], kept[of]).astype(int)
        assert shown == [f"{count} of 28" for count in frames], percent
    page.click("#keep-back")
    assert np.array_equal(kept_at(run, 10), run.kept)  # the run itself was at 10%
    assert numbers_of(page)[0][2] == f"{run.report.tokens.video.kept} of 224"


ALL_SHARES = """slider => {
    const seen = [];
    for (let share = 2; share <= 100; share++) {
        slider.value = share;
        slider.dispatchEvent(new Event("input"));
        const rows = [...document.querySelectorAll("#budget tr")].slice(0, 2);
        seen.push(rows.map(row => [...row.cells].slice(2).map(cell => cell.textContent)));
    }
    return seen;
}"""


@pytest.mark.parametrize("selector", ["query-aware", "cs2-per-modality"])
def test_at_every_share_the_page_has_the_numbers_of_the_sieve(browser, tmp_path, trouble, selector):
    found = inspection(selectors=(selector,))
    file, run, kinds = tmp_path / "report.html", found.runs[0], torch.from_numpy(found.tokens.modality)
    file.write_text(to_html(found, media=False), encoding="utf-8")
    context = browser.new_context()
    shown = opened(context, file, trouble).eval_on_selector("#keep", ALL_SHARES)
    context.close()
    none = torch.zeros(len(kinds), 1)
    stream = TokenStream(none, none.T, kinds, none, none, found.tokens.grid, 0)
    whole = KeptStream(stream, none, none.T, torch.arange(len(kinds)), torch.from_numpy(run.scores))
    for share, rows in zip(range(2, 101), shown, strict=True):
        kept = narrow(whole, Budget(ratio=share / 100), per_modality=selector == "cs2-per-modality").indices
        for row, modality in zip(rows, (1, 2), strict=True):
            part, all_ = int((kinds[kept] == modality).sum()), int((kinds == modality).sum())
            assert row == [f"{part} of {all_}", f"{part / all_:.1%}"], share  # as the terminal writes it
    assert trouble == []


def test_a_selector_without_scores_has_no_slider_and_says_why(page):
    page.click("#runs button:nth-child(2)")
    assert page.is_disabled("#keep")
    assert "random gives no scores" in page.text_content("#keep-note")


def test_runs_can_be_switched_and_stand_side_by_side(page, looked):
    page.click("#runs button:nth-child(3)")
    assert page.text_content("#answer") == looked.runs[2].report.answer
    assert page.get_attribute("#runs button:nth-child(3)", "aria-pressed") == "true"
    assert page.locator("#compare-list .lane").count() == 4
    for run, note in zip(looked.runs, page.locator("#compare-list .quiet").all_text_contents(), strict=True):
        tokens = run.report.tokens
        assert f"{run.kept.sum()} of 288 pieces ({tokens.keep_ratio:.1%}): " in note
        assert f"{tokens.video.kept} of picture, {tokens.audio.kept} of sound" in note
        assert run is looked.runs[0] or f"{figures.overlap(run, looked.runs[0]):.0%} of them" in note


def test_another_question_opens_at_its_own_moment(page, looked):
    at = "document.querySelector('#cursor-area').getAttribute('aria-valuenow')"
    peaks = [f"{run.report.evidence.moments[0].peak_s:.2f}" for run in looked.runs]
    assert peaks[0] != peaks[2]
    until(page, f"{at} == '{peaks[0]}'")
    page.click("#runs button:nth-child(2)")  # the same question, another selector: the moment stays
    page.wait_for_timeout(200)
    assert page.evaluate(at) == peaks[0]
    page.click("#runs button:nth-child(3)")
    until(page, f"{at} == '{peaks[2]}'")


@pytest.mark.parametrize("switch", ["#dim", "#heat"])
def test_the_overlays_can_be_switched(page, switch):
    shot = "c => c.toDataURL()"
    page.wait_for_timeout(300)
    before = page.eval_on_selector("#frame", shot)
    page.focus(switch)
    page.keyboard.press("Space")
    page.wait_for_timeout(300)
    after = page.eval_on_selector("#frame", shot)
    page.keyboard.press("Space")
    page.wait_for_timeout(300)
    assert before != after
    assert page.eval_on_selector("#frame", shot) == before


def test_the_keyboard_moves_through_the_clip_and_hears_it(page):
    page.focus("#cursor-area")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('#cursor-area').getAttribute('aria-valuenow') == '1.00'")
    assert "of this picture" in page.get_attribute("#cursor-area", "aria-valuetext")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#sound').currentTime > 5.9")
    assert page.evaluate("document.querySelector('#sound').duration") == pytest.approx(8, abs=0.3)


def test_a_moment_leads_to_its_place_in_the_clip(page, looked):
    peak = looked.runs[0].report.evidence.moments[0].peak_s
    page.focus("#cursor-area")
    page.keyboard.press("Home")
    page.click("#moments button")
    until(page, f"document.querySelector('#cursor-area').getAttribute('aria-valuenow') == '{peak:.2f}'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser, file, trouble, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page = opened(context, file, trouble)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    back, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    light = [sum(map(int, value[4:-1].split(","))) for value in (back, ink)]
    assert light[0] > light[1] if scheme == "light" else light[0] < light[1]
    context.close()
    assert trouble == []


@pytest.mark.parametrize("kind", ["sound only", "silent", "a picture"])
def test_every_kind_of_file_has_a_page(browser, looked, tmp_path, trouble, kind):
    file, found = tmp_path / "report.html", KINDS[kind](looked)
    file.write_text(to_html(found), encoding="utf-8")
    context = browser.new_context()
    count = 0 if found.preview.frames is None else len(found.preview.frames)
    page = opened(context, file, trouble, count)
    assert page.text_content("#answer") == found.runs[0].report.answer
    assert page.is_visible("#frame") == page.is_visible("#dim") == (count > 0)
    assert page.is_visible("#play") == (found.preview.samples is not None)
    assert page.is_visible("#timeline") == (found.range_s[1] > 0)
    page.click("#runs button:nth-child(3)")
    context.close()
    assert trouble == []


def test_without_media_it_still_works(browser, looked, tmp_path, trouble):
    bare, times = tmp_path / "bare.html", np.arange(8) + 0.25
    found = replace(looked, preview=replace(looked.preview, times_s=times))
    bare.write_text(to_html(found, media=False), encoding="utf-8")
    context = browser.new_context()
    page = opened(context, bare, trouble)
    assert page.is_hidden("#play")
    assert numbers_of(page)[0][2].endswith("of 224")
    shown = page.eval_on_selector_all("#frames span", "all => all.map(each => each.firstChild.textContent)")
    assert shown == [format_time(round(time, 1)) for time in times.tolist()]  # a half as in the terminal: 0:00.2
    context.close()
    assert trouble == []


def test_names_and_boxes_are_drawn_and_listed(browser, tmp_path, trouble):
    found = observed_inspection()
    run, path = found.runs[0], tmp_path / "observed.html"
    path.write_text(to_html(found), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = opened(context, path, trouble)
    rows = page.eval_on_selector_all("#observed tr", "rows => rows.map(r => [...r.cells].map(c => c.textContent))")
    for each in figures.observed(found.tokens):
        kept = figures.kept_of(each.places, run.kept)
        kind = figures.WORDS[each.modality.name.lower()]
        assert [each.name, "", f"{kept} of {len(each.places)}", kind, each.when] in rows
    assert page.text_content("#story").startswith("The clip was cut into 12 pieces of what was seen and 67 moments of")
    note = page.text_content("#frame-note")  # opens where the answer came from
    assert "read: person, text 'EXIT'" in note, note
    blue = "c => { const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
    blue += "for (let i = 0; i < p.length; i += 4) n += p[i] === 0x6c && p[i + 1] === 0xb2 && p[i + 2] === 0xff;"
    assert page.eval_on_selector("#frame", blue + "return n; }") > 300
    page.eval_on_selector("#keep", "s => { s.value = 2; s.dispatchEvent(new Event('input')); }")  # the text only
    page.wait_for_timeout(300)
    assert "dropped: person" in page.text_content("#frame-note")
    context.close()
    assert trouble == []
