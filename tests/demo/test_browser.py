"""The demo in a headless Chromium: a real scan dropped, seen, scrolled, downloaded."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.support.demo_server import PATIENCE, Demo
from tests.support.hostile_uploads import EXCERPT, marked_up
from tests.support.prediction import tiny_model_folder

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

pytestmark = pytest.mark.slow

MEAN = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.reduce((sum, value) => sum + value, 0) / data.length;
}"""
#: The element with the focus, through shadow roots.
FOCUSED = """() => {
  let element = document.activeElement;
  while (element?.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
  return element;
}"""
#: Contrast (WCAG 2) of the text of an element with what lies behind it.
CONTRAST = r"""element => {
  const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((part) => part / 255)
      .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element, colour;
  do {
    colour = getComputedStyle(behind).backgroundColor;
    behind = behind.parentElement ?? behind.getRootNode().host;
  } while (behind && parts(colour)[3] === 0);
  const both = [light(getComputedStyle(element).color), light(colour)].sort((a, b) => b - a);
  return (both[0] + 0.05) / (both[1] + 0.05);
}"""
#: What has to be readable, where there is any of it.
READ = (
    "#ctv-use strong, .ctv-use", ".ctv-head h1", ".ctv-head p", "#ctv-run", ".ctv-value",
    ".ctv-soft", ".ctv-links a", ".ctv-tag", ".ctv-card dt", ".ctv-card dd", ".ctv-card li",
    "ct-viewer .windows button", "ct-viewer .help", "ct-viewer .ends", "ct-viewer .keys b",
    "ct-viewer .over label", "[role=tab]", ".ctv-error p", ".ctv-table th", ".ctv-table td",
)  # fmt: skip
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def browser_path(playwright):
    """A Chromium of the system or one that playwright has installed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or next(
        (path for path in [playwright.chromium.executable_path] if Path(path).is_file()), None
    )


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = browser_path(playwright)
        if path is None:
            pytest.skip(
                f"needs a Chromium; none of {', '.join(NAMES)} is here (apt install chromium)"
            )
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"], timeout=PATIENCE * 1000
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    running = Demo(tiny_model_folder(folder / "tiny"), folder)
    yield running
    assert running.close() == 0


@pytest.fixture
def scan(tmp_path):
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for path in EXCERPT.glob("*.dcm"):
            archive.write(path, path.name)
    return tmp_path / "scan.zip"


def open_page(browser, demo, **options):
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.asked, page.trouble = set(), []
    page.on("request", lambda request: page.asked.add(request.url))
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.goto(demo.url)
    page.wait_for_selector("#ctv-run")
    return page


def drop(page, path):
    page.set_input_files("#ctv-upload input[type=file]", path)
    page.wait_for_selector(f"#ctv-upload >> text={path.stem}")
    page.click("#ctv-run")


def shown(page, index):
    page.wait_for_selector(f"ct-viewer .stage[data-shown='{index}']")


def colours(page):
    """How many pixels of the slice are not grey."""
    return page.eval_on_selector(
        "ct-viewer .picture",
        """canvas => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let at = 0; at < data.length; at += 4) count += data[at] !== data[at + 2];
          return count;
        }""",
    )


def test_a_scan_is_dropped_seen_scrolled_and_downloaded(browser, demo, scan, tmp_path):
    page = open_page(browser, demo, viewport={"width": 1280, "height": 900})
    drop(page, scan)
    page.wait_for_selector("ct-viewer .stage[data-shown]")
    assert "Not for clinical use" in page.inner_text("#ctv-use")
    assert [page.inner_text(f"ct-viewer .side.{side}") for side in "rlap"] == list("RLAP")
    stage = page.locator("ct-viewer .stage")

    stage.focus()
    page.keyboard.press("Home")
    shown(page, 0)
    page.keyboard.press("ArrowUp")
    shown(page, 1)
    page.keyboard.press("PageUp")
    shown(page, 11)
    stage.hover()
    page.mouse.wheel(0, -60)
    shown(page, 13)
    page.fill("ct-viewer .scroll", "20")
    shown(page, 20)
    curve = page.locator("ct-viewer .curve").bounding_box()
    page.mouse.click(curve["x"] + 9, curve["y"] + 40)
    shown(page, 0)

    page.locator("ct-viewer .keys button").first.click()
    best = page.get_attribute("ct-viewer .keys button", "data-index")
    shown(page, best)
    assert colours(page) > 50
    page.uncheck("ct-viewer .on")
    assert colours(page) == 0
    page.check("ct-viewer .on")
    strong = colours(page)
    page.fill("ct-viewer .opacity", "0.1")
    assert page.get_attribute("ct-viewer .stage", "data-overlay") == "0.1"
    assert 0 < colours(page) <= strong

    greys = set()
    for name, centre in (("Mediastinum", 40), ("Bone", 400), ("PE", 100), ("Lung", -600)):
        page.click(f"ct-viewer .windows button >> text={name}")
        assert f"C {centre} " in page.inner_text("ct-viewer .win")
        assert page.get_attribute(f"ct-viewer button >> text={name}", "aria-pressed") == "true"
        greys.add(page.eval_on_selector("ct-viewer .picture", MEAN))
    assert len(greys) == 4

    with page.expect_download() as waiting:
        page.click("text=Result (JSON)")
    result = json.loads(Path(waiting.value.path()).read_text())
    assert f"{result['study_probability']:.3f}" == page.inner_text(".ctv-value")
    with page.expect_download() as waiting:
        page.click("text=Report (HTML)")
    assert "Not for clinical use" in Path(waiting.value.path()).read_text()
    assert page.trouble == []
    assert all(url.startswith((demo.url, "data:", "blob:")) for url in page.asked), page.asked
    page.context.close()


def fits(page):
    """Nothing is wider than the screen, which a phone would show by zooming out."""
    return page.evaluate(
        "document.documentElement.scrollWidth <= innerWidth && innerWidth === screen.width"
    )


def test_a_bad_scan_is_told_and_the_next_is_scored_on_a_phone(browser, demo, scan, tmp_path):
    page = open_page(browser, demo, **PHONE)
    (tmp_path / "broken.zip").write_bytes(scan.read_bytes()[:50_000])
    drop(page, tmp_path / "broken.zip")
    page.wait_for_selector(".ctv-error")
    assert "zip" in page.inner_text(".ctv-error")
    assert fits(page)
    drop(page, scan)
    page.wait_for_selector("ct-viewer .stage[data-shown]")
    assert fits(page)
    page.get_by_role("tab", name="Several scans").click()
    page.set_input_files("#ctv-batch-upload input[type=file]", [tmp_path / "broken.zip", scan])
    page.wait_for_selector("#ctv-batch-upload >> text=scan")
    page.click("#ctv-batch-run")
    page.wait_for_selector("#ctv-batch-result >> text=Table (CSV)")
    rows = [words.lower() for words in page.locator("#ctv-batch-result tbody tr").all_inner_texts()]
    assert len(rows) == 2
    assert "not scored" in rows[0]
    assert "zip" in rows[0]
    assert "not scored" not in rows[1]
    assert "30" in rows[1]
    assert fits(page)
    with page.expect_download() as waiting:
        page.tap("text=Table (CSV)")
    lines = Path(waiting.value.path()).read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["study", "scan 1", "scan 2"]
    page.get_by_role("tab", name="About").click()
    page.wait_for_selector("text=What happens to a scan")
    assert fits(page)
    assert page.trouble == []
    page.context.close()


def tab_to(page, selector):
    """Press Tab until an element has the focus, and see that it shows."""
    for _ in range(60):
        page.keyboard.press("Tab")
        element = page.evaluate_handle(FOCUSED).as_element()
        if element and element.evaluate("(it, selector) => it.matches(selector)", selector):
            shown = element.evaluate("it => getComputedStyle(it).outlineStyle")
            assert shown != "none", selector
            return element
    raise AssertionError(f"{selector} is not reached by Tab")


def choose_by_keyboard(page, path):
    """Listening begins before the key: a chooser that opens meanwhile is the browser's own."""
    opened = []
    page.on("filechooser", lambda chooser: opened.append(chooser))
    for _ in range(10):
        tab_to(page, "#ctv-upload button")
        page.keyboard.press("Enter")
        for _ in range(50):
            if opened:
                return opened[0].set_files(path)
            page.wait_for_timeout(100)
    raise AssertionError("Enter on the upload button opens no file chooser")


def test_the_keyboard_is_enough(browser, demo, scan):
    page = open_page(browser, demo, viewport={"width": 1280, "height": 900})
    choose_by_keyboard(page, scan)
    page.wait_for_selector("#ctv-upload >> text=scan")
    tab_to(page, "#ctv-run")
    page.keyboard.press("Enter")
    page.wait_for_selector("ct-viewer .stage[data-shown]")

    tab_to(page, ".windows button[title*='key 3']")
    page.keyboard.press("Space")
    assert "C 400 " in page.inner_text("ct-viewer .win")
    tab_to(page, "input.on")
    page.keyboard.press("Space")
    assert page.get_attribute("ct-viewer .stage", "data-overlay") == "0"
    page.keyboard.press("Space")
    opacity = tab_to(page, "input.opacity")
    page.keyboard.press("Home")
    assert opacity.input_value() == "0.1"
    stage = tab_to(page, ".stage")
    page.keyboard.press("End")
    shown(page, 29)
    assert "slice 29 of 0 to 29" in stage.get_attribute("aria-valuetext")
    page.keyboard.press("1")
    assert "C -600 " in page.inner_text("ct-viewer .win")
    page.keyboard.press("r")
    assert page.get_attribute("ct-viewer .stage", "data-overlay") == "0"
    tab_to(page, "input.scroll")
    page.keyboard.press("ArrowLeft")
    shown(page, 28)
    key = tab_to(page, ".keys button")
    page.keyboard.press("Enter")
    shown(page, key.get_attribute("data-index"))
    tab_to(page, ".ctv-links a[href$='result.json']")
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    assert "study_probability" in json.loads(Path(waiting.value.path()).read_text())
    assert page.trouble == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_in_light_and_dark(browser, demo, scan, tmp_path, scheme):
    page = open_page(browser, demo, viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    behind = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", behind)[:3])) < 150) == (scheme == "dark")
    seen = set()

    def look():
        for selector in READ:
            for element in page.locator(selector).all():
                if element.is_visible():
                    seen.add(selector)
                    contrast = element.evaluate(CONTRAST)
                    assert contrast >= 4.5, (selector, element.inner_text(), contrast)

    drop(page, scan)
    page.wait_for_selector("ct-viewer .stage[data-shown]")
    look()
    (tmp_path / "broken.zip").write_bytes(b"PK")
    drop(page, tmp_path / "broken.zip")
    page.wait_for_selector(".ctv-error")
    look()
    page.get_by_role("tab", name="Several scans").click()
    page.set_input_files("#ctv-batch-upload input[type=file]", tmp_path / "broken.zip")
    page.wait_for_selector("#ctv-batch-upload >> text=broken")
    page.click("#ctv-batch-run")
    page.wait_for_selector("#ctv-batch-result >> text=Table (CSV)")
    look()
    assert seen == set(READ)
    page.context.close()


def test_markup_of_a_scan_is_shown_and_does_nothing(browser, demo, tmp_path):
    page = open_page(browser, demo)
    drop(page, marked_up(tmp_path / "scan.zip"))
    page.wait_for_selector("ct-viewer .stage[data-shown]")
    assert "<img src=x" in page.inner_text("ct-viewer")
    assert page.evaluate("window.pwned") is None
    with page.expect_download() as waiting:
        page.click("text=Report (HTML)")
    page.goto(Path(waiting.value.path()).as_uri())
    assert "Not for clinical use" in page.inner_text("body")
    assert page.evaluate("window.pwned") is None
    page.context.close()


def test_who_comes_to_a_full_queue_is_told(browser, demo, scan):
    page = open_page(browser, demo)
    full = {"status": 503, "json": {"detail": "Queue is full. Max size is 20 and size is 20."}}
    page.route("**/queue/join*", lambda route: route.fulfill(**full))
    page.set_input_files("#ctv-upload input[type=file]", scan)
    page.wait_for_selector("#ctv-upload >> text=scan")
    page.click("#ctv-run")
    page.wait_for_selector(".ctv-error >> text=Too many others are waiting")
    page.unroute("**/queue/join*")
    page.click("#ctv-run")
    page.wait_for_selector("ct-viewer .stage[data-shown]")
    page.context.close()


def test_the_page_may_load_nothing_from_elsewhere(browser, demo):
    page = open_page(browser, demo)
    refused = page.evaluate("""async () => {
      const told = new Promise((done) => addEventListener("securitypolicyviolation",
        (event) => done(event.blockedURI)));
      await fetch("http://127.0.0.2:9/").catch(() => {});
      return told;
    }""")
    assert refused.startswith("http://127.0.0.2:9")
    page.context.close()
