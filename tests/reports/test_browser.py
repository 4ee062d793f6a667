"""The page in a real browser: it filters, sorts, opens, prints and darkens, and nothing from outside ever runs."""

import base64
import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

import spectra

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def found_browser():
    return os.environ.get("SPECTRA_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """Headless Chromium, driven by its DevTools protocol over a pair of pipes."""

    def __init__(self, program, profile):
        out, self.out = os.pipe()
        self.back, back = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (out, back)]

        def place():
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
             "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=place, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (out, back, *high):
            os.close(end)
        self.waiting, self.last, self.session, self.events = b"", 0, None, []
        (target, *_) = [item for item in self.send("Target.getTargets")["targetInfos"] if item["type"] == "page"]
        self.session = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """Send one command and return its result; what happens meanwhile is kept in `events`."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        return self.until(lambda answer: answer.get("id") == self.last, method)["result"]

    def until(self, wanted, what, seconds=60):
        """Return the first thing since the page was opened that is what was waited for."""
        end = time.monotonic() + seconds
        seen = 0
        while True:
            for event in self.events[seen:]:
                assert "error" not in event, (what, event)
                if wanted(event):
                    return event
            seen = len(self.events)
            ready, _, _ = select.select([self.back], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"the browser says nothing to {what}"
            self.waiting += os.read(self.back, 1 << 20)
            *whole, self.waiting = self.waiting.split(b"\0")
            self.events += map(json.loads, whole)

    def open(self, page):
        """Go to a file and wait until it is loaded; what earlier pages did is forgotten."""
        self.events.clear()
        self.send("Page.navigate", url=Path(page).as_uri())
        self.until(lambda event: event.get("method") == "Page.loadEventFired", f"loading {page}")
        return self

    def run(self, script):
        """Return the value of an expression in the page."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key, code, text=""):
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def look(self, width=1180, height=900, *, media="", dark=False):
        """Give the window a size, and the page a medium and a colour scheme."""
        narrow = width < 500
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=narrow)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def screenshot(self):
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def pdf(self):
        return base64.b64decode(self.send("Page.printToPDF", preferCSSPageSize=True, printBackground=False)["data"])

    def requests(self):
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    def complaints(self):
        """Every message on the console, every exception, every violation of the page's policy."""
        heard = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event.get("method") in heard]

    def close(self):
        self.session = None
        self.send("Browser.close")
        self.process.wait(20)
        os.close(self.out)
        os.close(self.back)


# --- pages to try ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = found_browser()
    if program is None:
        pytest.skip(f"no headless Chromium: none of {', '.join(NAMES)} is on PATH, and SPECTRA_CHROMIUM names none")
    started = Browser(program, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, report, hostile, many, comparison):
    folder = tmp_path_factory.mktemp("pages")
    for name, result in {"report": report, "hostile": hostile, "many": many, "comparison": comparison}.items():
        result.to_html(folder / f"{name}.html")
    return folder


@pytest.fixture
def page(browser, pages):
    """The ordinary report, freshly opened in an ordinary window."""
    browser.look()
    return browser.open(pages / "report.html")


SEEN = "[...document.querySelectorAll('#rows tbody tr[id]')].filter(row => row.checkVisibility())"


def seen(page):
    """The keys of the rows that a reader sees, from top to bottom."""
    return page.run(f"{SEEN}.map(row => row.dataset.key)")


def keys(report):
    return [layer.key for layer in report.rows]


def fill(page, selector, value, event):
    page.run(f"(() => {{ const field = document.querySelector({json.dumps(selector)}); field.value = {json.dumps(value)};"
             f" field.dispatchEvent(new Event('{event}', {{bubbles: true}})) }})()")  # fmt: skip


def click(page, selector, place=0):
    page.run(f"document.querySelectorAll({json.dumps(selector)})[{place}].click()")


def colour(page, selector="body", what="background-color"):
    return page.run(f"getComputedStyle(document.querySelector({json.dumps(selector)})).getPropertyValue('{what}')")


# --- nothing runs, nothing is loaded, nothing complains --------------------------------------------------------------


@pytest.mark.parametrize("name", ["report", "hostile", "many", "comparison"])
def test_a_page_asks_for_nothing_and_complains_of_nothing(browser, pages, name):
    browser.open(pages / f"{name}.html")
    click(browser, ".open")
    click(browser, ".sort", 2)
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith(("file:", "data:image/png"))] == []
    assert [url for url in browser.requests() if url.startswith("file:")] == [(pages / f"{name}.html").as_uri()]


def test_a_hostile_name_makes_no_element_and_runs_nothing(browser, pages, hostile, hostile_name):
    browser.open(pages / "hostile.html")
    elements = browser.run("document.querySelectorAll('img, script').length")
    assert elements == 2  # the numbers and the page's own script
    (row,) = [number for number, layer in enumerate(hostile.rows) if layer.key == hostile_name]
    click(browser, f"#m{row} .open")
    fill(browser, "#search", "onerror", "input")
    assert browser.run("document.querySelectorAll('img, script').length") == elements
    assert browser.run(f"{SEEN}.length") == 1
    assert "</script><img src=x onerror=alert(1)>" in browser.run("document.querySelector('.more').textContent")
    assert not [event for event in browser.events if event.get("method") == "Page.javascriptDialogOpening"]
    assert browser.complaints() == []


def test_the_policy_stops_what_is_not_the_pages_own(page):
    page.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    page.run(
        "document.body.insertAdjacentHTML('beforeend', '<b id=b style=\"color: red\" onclick=\"window.ran = 1\">x</b>')"
    )
    click(page, "#b")
    page.run("fetch('data:text/plain,x').catch(() => 0)")
    assert page.run("window.ran") is None
    assert colour(page, "#b", "color") != "rgb(255, 0, 0)"
    assert len(page.complaints()) >= 3


# --- find ------------------------------------------------------------------------------------------------------------


def test_search_and_filters_narrow_the_table_and_say_so(page, report):
    assert seen(page) == keys(report)
    fill(page, "#search", "UP layers.1", "input")
    assert seen(page) == ["model.layers.1.mlp.up.weight"]
    assert page.run("document.querySelector('#shown').textContent") == "1 of 6 matrices"
    assert page.run("document.querySelector('#shown').getAttribute('role')") == "status"
    click(page, "#reset")
    fill(page, "[data-filter=block]", "2", "change")
    fill(page, "[data-filter=module]", "mlp.down", "change")
    assert seen(page) == ["model.layers.2.mlp.down.weight"]
    click(page, "#reset")
    assert seen(page) == keys(report)
    assert page.run("document.querySelector('#shown').textContent") == "6 matrices"


def test_a_finding_shows_its_matrices(page, report):
    finding = next(finding for finding in report.findings if 0 < len(finding.keys) < len(report.rows))
    place = [found for found in report.findings if found.keys].index(finding)
    click(page, ".only", place)
    assert seen(page) == list(finding.keys)
    assert f"those of {finding.code}" in page.run("document.querySelector('#shown').textContent")
    fill(page, "[data-filter=block]", "0", "change")
    assert seen(page) == [key for key in finding.keys if ".0." in key]


def test_a_cell_of_the_map_shows_its_matrices_from_the_keyboard_too(page):
    page.run('document.querySelector(\'.map a[data-block="1"][data-module="mlp.down"]\').focus()')
    page.press("Enter", 13, "\r")
    assert seen(page) == ["model.layers.1.mlp.down.weight"]
    assert page.run("document.activeElement.className") == "scroll tall"


def test_the_map_changes_its_measure(page, report):
    shown = "[...document.querySelectorAll('.map tbody td')].map(cell => cell.innerText.trim())"
    assert page.run(shown) == [str(layer.found) for layer in report.rows]
    titles = page.run("[...document.querySelectorAll('#measure option')].map(option => option.textContent)")
    fill(page, "#measure", f"s{titles.index('effective rank')}", "change")
    assert page.run(shown) == [f"{layer.rank.effective:.1f}" for layer in report.rows]


# --- sort ------------------------------------------------------------------------------------------------------------


def test_columns_sort_by_their_numbers_and_say_so(page, report):
    heads = page.run("[...document.querySelectorAll('#rows thead th')].map(head => head.textContent.trim())")
    column = heads.index("size")
    order = [layer.key for layer in sorted(report.rows, key=lambda layer: layer.norm.ratio)]
    click(page, ".sort", column)
    assert seen(page) == order[::-1]
    head = f"document.querySelectorAll('#rows thead th')[{column}].getAttribute('aria-sort')"
    assert page.run(head) == "descending"
    page.run(f"document.querySelectorAll('.sort')[{column}].focus()")
    page.press("Enter", 13, "\r")
    assert seen(page) == order
    assert page.run(head) == "ascending"
    assert page.run("document.querySelectorAll('[aria-sort]').length") == 1
    click(page, ".sort", 0)
    assert seen(page) == keys(report)


def test_numbers_sort_by_size_not_by_spelling(browser, pages, many):
    browser.open(pages / "many.html")
    click(browser, ".sort", 0)
    assert seen(browser) == [layer.key for layer in many.rows][::-1]


def test_what_has_no_number_comes_last_either_way(browser, troubled, tmp_path):
    troubled.to_html(tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    for _ in range(2):
        click(browser, ".sort", 2)
        assert seen(browser)[0] == "a.2.x.weight"


# --- open ------------------------------------------------------------------------------------------------------------


def leaves(value, path=""):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{name}" if path else name)
    else:
        yield path


def test_a_row_opens_all_its_measurements_whatever_they_are(page, report):
    button = "document.querySelector('#m3 .open')"
    page.run(f"{button}.focus()")
    page.press("Enter", 13, "\r")
    assert page.run(f"{button}.getAttribute('aria-expanded')") == "true"
    names = set(page.run("[...document.querySelectorAll('.more :is(h3, h4, dt, th)')].map(name => name.textContent)"))
    notes = page.run("document.querySelector('.more').textContent")
    row = report.rows[3].to_dict()
    for path in leaves(row):
        group, _, name = path.rpartition(".")
        if group.split(".")[-1] not in ("spectrum", "sweep") and path not in ("notes", "reason"):
            assert name in names or (row.get(path) is None and path in notes), path
    assert f"{report.rows[3].norm.ratio:.5g}"[:5] in notes
    assert page.run("document.querySelectorAll('.more .panel svg').length") == 1
    click(page, "#m3 .open")
    assert page.run("document.querySelector('.more')") is None
    assert page.run(f"{button}.getAttribute('aria-expanded')") == "false"


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_headings_stay_in_order_when_a_row_is_open(browser, pages, name):
    browser.open(pages / f"{name}.html")
    click(browser, "#m0 .open")
    levels = browser.run("[...document.querySelectorAll('h1, h2, h3, h4, h5')].map(head => Number(head.tagName[1]))")
    assert browser.run("document.querySelectorAll('.more :is(h3, h4)').length") > 5
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_open_details_go_with_their_row(page):
    click(page, "#m2 .open")
    click(page, ".sort", 0)  # descending
    assert page.run("document.querySelector('.more').previousElementSibling.id") == "m2"
    fill(page, "[data-filter=block]", "2", "change")
    assert page.run("document.querySelector('.more').checkVisibility()") is False
    assert len(seen(page)) == 2


def test_a_link_to_a_row_shows_it_even_when_it_is_filtered_out(page):
    fill(page, "[data-filter=block]", "2", "change")
    click(page, ".panel a[href='#m0']")
    assert "model.layers.0.mlp.up.weight" in seen(page)
    assert page.run("document.activeElement.id") == "m0"


def test_the_numbers_can_be_saved(browser, pages, tmp_path, report):
    browser.open(pages / "report.html")
    session, browser.session = browser.session, None
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), eventsEnabled=True)
    browser.session = session
    click(browser, "#save")
    browser.until(lambda event: event.get("params", {}).get("state") == "completed", "saving")
    saved = json.loads((tmp_path / "spectra-report.json").read_text())
    assert [layer["key"] for layer in saved["layers"]] == keys(report)
    assert browser.complaints() == []


# --- see -------------------------------------------------------------------------------------------------------------


def test_dark_follows_the_system_and_the_switch(page):
    light = colour(page)
    page.look(dark=True)
    dark = colour(page)
    assert sum(map(int, re.findall(r"\d+", light)[:3])) > 600 > 200 > sum(map(int, re.findall(r"\d+", dark)[:3]))
    click(page, "#theme-light")
    assert colour(page) == light
    click(page, "#theme-dark")
    assert colour(page) == dark
    page.look()
    assert colour(page) == dark
    assert page.run("localStorage.length + sessionStorage.length") == 0
    # Figures change with it: the words of a figure are never dark on dark.
    words = page.run("getComputedStyle(document.querySelector('.figures [fill=\"#222222\"]')).fill")
    assert sum(map(int, re.findall(r"\d+", words)[:3])) > 600


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_narrow_screen_never_scrolls_sideways(browser, pages, name):
    browser.look(375, 800)
    browser.open(pages / f"{name}.html")
    assert browser.run("document.documentElement.scrollWidth") <= 375
    click(browser, "#m0 .open")
    assert browser.run("document.documentElement.scrollWidth") <= 375


def test_tab_passes_through_the_page_and_out_of_it(page):
    page.run("document.activeElement.blur()")
    page.press("Tab", 9)
    assert page.run("document.activeElement.className") == "skip"
    page.press("Enter", 13, "\r")
    assert page.run("document.activeElement.id") == "report"
    passed = set()
    for _ in range(150):
        page.press("Tab", 9)
        at = page.run(
            "(() => { const at = document.activeElement; return at.id || at.className || at.textContent.slice(0, 40) })()"
        )
        if at in ("", "save") or at == "skip":
            break
        passed.add(at)
    assert at == "save"
    assert {"measure", "search", "open", "sort", "scroll tall"} <= passed


def test_without_scripts_everything_is_there_and_nothing_pretends(browser, pages, report):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages / "report.html")
        browser.look()
        rows = browser.send("DOM.getDocument", depth=-1)  # scripts are off for `run` too: ask for the document
        text = json.dumps(rows)
        assert all(key in text for key in keys(report))
        assert '"BUTTON"' in text
        shown = browser.send("DOMSnapshot.captureSnapshot", computedStyles=["display"])
        names = shown["strings"]
        (snapshot,) = shown["documents"]
        laid_out = {names[snapshot["nodes"]["nodeName"][node]] for node in snapshot["layout"]["nodeIndex"]}
        assert {"TABLE", "TR", "SUMMARY", "svg"} <= laid_out
        assert laid_out.isdisjoint({"BUTTON", "SELECT"})
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)


def test_print_has_everything_but_the_controls(page, report):
    click(page, "#theme-dark")
    page.look(media="print")
    assert colour(page) == "rgb(255, 255, 255)"
    for gone in (".bar", ".controls", ".sort", ".open", ".only", "#save"):
        assert page.run(f"document.querySelector({json.dumps(gone)}).checkVisibility()") is False
    words = page.run("document.body.innerText")
    for finding in report.findings:
        assert finding.message.replace("`", "") in words
        assert finding.source in words
    assert len(seen(page)) == len(report.rows)
    assert page.run(
        "document.querySelector('#rows').scrollWidth <= document.querySelector('#rows').parentElement.clientWidth"
    )
    page.look()
    raw = page.pdf()
    assert raw.startswith(b"%PDF-")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", raw)) <= 8


def test_print_of_five_hundred_rows_has_them_all(browser, pages):
    browser.open(pages / "many.html")
    assert len(re.findall(rb"/Type\s*/Page\b", browser.pdf())) >= 8


@pytest.mark.slow
def test_five_hundred_rows_are_there_in_less_than_a_second(browser, pages):
    browser.look()
    took = []
    for _ in range(3):
        browser.open(pages / "many.html")
        took.append(browser.run("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))
    assert browser.run("document.querySelectorAll('.sort').length") > 5  # the script is through
    assert min(took) < 1000


LOOKS = {
    "light": {"height": 1560},
    "dark": {"height": 1560, "dark": True},
    "narrow": {"width": 375, "height": 1560},
    "print": {"width": 794, "height": 1123, "media": "print"},  # a sheet of A4
}


@pytest.mark.slow
def test_screenshots_of_the_demo(browser, trio, tmp_path):
    """With SPECTRA_FIGURES=figures these are the README's pictures of the page."""
    folder = Path(os.environ.get("SPECTRA_FIGURES", tmp_path))
    spectra.diagnose(trio / "base", trio / "lora-r32").to_html(tmp_path / "demo.html")
    browser.open(tmp_path / "demo.html")
    for name, look in LOOKS.items():
        browser.look(**look)
        browser.run(
            f"document.querySelector('{'#map' if name == 'dark' else 'body'}').scrollIntoView({{behavior: 'instant'}})"
        )
        browser.run(f"document.body.style.padding = '{'53px 45px' if name == 'print' else ''}'")  # the sheet's margins
        raw = browser.screenshot()
        assert raw.startswith(b"\x89PNG")
        assert len(raw) < 500_000
        (folder / f"report-{name}.png").write_bytes(raw)
