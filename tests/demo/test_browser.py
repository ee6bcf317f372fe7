"""The demo in a headless Chromium: a real scan dropped, seen, scrolled, downloaded."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.support.demo_server import PATIENCE, Demo
from tests.support.hostile_uploads import EXCERPT
from tests.support.prediction import tiny_model_folder

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

pytestmark = pytest.mark.slow

MEAN = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.reduce((sum, value) => sum + value, 0) / data.length;
}"""
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
