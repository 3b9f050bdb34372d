"""`make ui` in a real browser: what a person sees of assets, checks and partitions; nothing stays behind after Ctrl-C.

`make screenshots` keeps the pictures in docs/images.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "FILE_DATASET_DEMO_S3"}
    command = [sys.executable, "-m", "example_project.demo", "--ui", "--port", str(port)]
    server = subprocess.Popen(command, cwd=tmp_path_factory.mktemp("ui"), env=environment, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{url}/server_info")
        yield url
    finally:
        os.killpg(server.pid, signal.SIGINT)  # as a terminal's Ctrl-C: the whole group
        server.wait(timeout=60)
        _wait_until_gone(server.pid)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310  # a loopback URL
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(1)
        else:
            return


def _wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "processes of `make ui` are still there"
        time.sleep(0.5)


class Browser:
    """A page of the UI: opens a view, waits for what must be on it, and keeps a picture of it."""

    def __init__(self, page: Any, url: str, pictures: Path) -> None:  # playwright is for slow tests alone
        self.page, self.url, self.pictures = page, url, pictures

    def open(self, path: str, *awaited: str) -> None:
        self.page.goto(f"{self.url}{path}")
        self.wait(*awaited)

    def wait(self, *awaited: str) -> None:
        for text in awaited:
            self.page.get_by_text(text).first.wait_for(timeout=60_000)

    def click(self, text: str) -> None:
        self.page.get_by_text(text, exact=True).first.click()

    def keep(self, name: str) -> str:
        """Keep a picture for the docs, and return the text of the page."""
        self.page.wait_for_timeout(2000)  # icons, plots
        self.page.screenshot(path=self.pictures / f"{name}.png")
        return self.text()

    def text(self) -> str:
        """Return the text of the page, which must not be wider than the window."""
        assert not self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        return str(self.page.inner_text("body"))


@pytest.fixture
def browser(ui: str, tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    pictures = Path(os.environ.get("FILE_DATASET_SCREENSHOTS") or tmp_path).absolute()
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield Browser(chromium.new_page(viewport={"width": 1500, "height": 1000}), ui, pictures)
        chromium.close()


def test_the_check_shows_the_dropped_rows_and_plots(browser: Browser) -> None:
    browser.page.set_viewport_size({"width": 1500, "height": 1400})  # the plots are below the table
    browser.open("/assets/resampled?view=checks", "2 of 12 rows dropped (16.7%): 1 at download, 1 at fn")
    shown = browser.keep("check")
    for text in ("case-07", "case-10", "the row has no file", "damaged or cut short", "dropped_fraction", "Plots"):
        assert text in shown


def test_the_overview_shows_rows_columns_and_storage(browser: Browser) -> None:
    browser.open("/assets/measured?view=overview", "Row count", "slices.png")
    shown = browser.keep("overview")
    for text in ("Row count\n10", "measures.json", "foreground", "manifests/measured/manifest.parquet"):
        assert text in shown


def test_a_materialization_from_the_ui_shows_thumbnails(browser: Browser) -> None:
    browser.open("/assets/measured?view=events", "stored_bytes")
    events = browser.page.get_by_text("Materialized in run")
    before = events.first.inner_text()
    browser.page.locator("button", has_text="Materialize").first.click()
    browser.wait("targets this asset")  # the launch would be given up with the page
    deadline = time.monotonic() + 120
    while True:
        browser.open("/assets/measured?view=events", "stored_bytes")
        if events.first.inner_text() != before:
            break
        assert time.monotonic() < deadline, "no new materialization appeared"
        time.sleep(3)
    browser.click("[Show Markdown]")
    browser.page.locator("img[alt=preview]").nth(2).wait_for(timeout=60_000)
    shown = browser.keep("thumbnails")
    assert "case-03" in shown
    widths = browser.page.locator("img[alt=preview]").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert len(widths) == 3
    assert min(widths) > 100  # pixels: they are pictures, not broken links


def test_the_partitions_show_the_bad_day_and_the_empty_one(browser: Browser) -> None:
    browser.open("/assets/pictures?view=partitions", "Failed (1)", "Materialized (5)")
    browser.click("2026-01-07")
    browser.wait("dagster/partition_row_count")
    shown = browser.keep("partitions")
    assert "partition=2026-01-07.parquet" in shown


def test_the_lineage_shows_every_asset(browser: Browser) -> None:
    browser.open(
        "/locations/example_project/asset-groups/cohort/lineage", "listed_scans", "3 / 3 Passed", "0 / 1 Passed"
    )
    shown = browser.keep("lineage")
    for text in ("raw_scans", "resampled", "measured", "report", "arrivals", "measured_on_ray"):
        assert text in shown


def test_the_resource_shows_no_secret(browser: Browser) -> None:
    browser.open("/locations/example_project/resources/store", "base_path", "FILE_DATASET_DEMO_S3")
    shown = browser.keep("resource")
    assert shown.count("********") == 3


def test_the_launchpad_is_filled_in_and_starts_without_a_change(browser: Browser) -> None:
    browser.open("/locations/example_project/jobs/series/playground", "FILE_DATASET_DEMO_S3", "No errors")
    assert browser.text().count("********") == 3
    browser.page.locator("button", has_text="Launch Run").click()
    browser.page.get_by_text("RUN_SUCCESS", exact=True).first.wait_for(timeout=120_000)
    browser.wait("slices are missing")  # the check's table
    browser.text()


def test_the_asset_of_directories_shows_columns_and_a_slice(browser: Browser) -> None:
    browser.open("/assets/volumes?view=overview", "Row count", "series.size_bytes")
    shown = browser.text()
    for text in ("slices", "image.mha", "new_series", "manifests/volumes/manifest.parquet"):
        assert text in shown
    browser.open("/assets/volumes?view=events", "stored_bytes")
    browser.click("[Show Markdown]")
    picture = browser.page.locator("img[alt=preview]").first
    picture.wait_for(timeout=60_000)
    assert picture.evaluate("one => one.naturalWidth") == 256


def test_the_sensor_requests_each_series_once(browser: Browser) -> None:
    def preview() -> str:
        browser.open("/locations/example_project/sensors/new_series", "raw/<id>/series/")
        browser.click("Preview tick result")
        browser.page.locator("button", has_text="Continue").click()
        browser.wait("Try again")
        return browser.text()

    assert "1 run request" in preview()
    browser.keep("sensor")
    browser.page.locator("button", has_text="Apply requests").click()
    browser.wait("file_dataset/new: 2")  # the run, in the list of runs
    assert 'Skip reason: "nothing has changed: 2 files"' in preview()


def test_the_automation_page_has_the_schedule_and_the_sensor(browser: Browser) -> None:
    browser.open("/automation", "nightly", "At 02:00 AM", "new_series", "Standard sensor")
    browser.text()


def test_the_schedule_runs_at_two(browser: Browser) -> None:
    browser.open("/locations/example_project/schedules/nightly", "At 02:00 AM")


def test_a_red_day_stays_red_in_the_check(browser: Browser) -> None:
    """The last day was good, and the check is that of all days."""
    browser.page.set_viewport_size({"width": 1900, "height": 1000})  # Dagster cuts a wide table off here
    browser.open("/assets/pictures?view=checks", "Latest execution", "2026-01-10: 0 of 2 rows dropped")
    assert "no_dropped_rows\nFailed" in browser.page.inner_text("body")
    browser.page.get_by_text("Partitions", exact=True).nth(1).click()  # the asset has a tab of that name, too
    browser.wait("Failed (1)", "Passed (5)")
    browser.click("2026-01-08")
    browser.wait("2 of 2 rows dropped")
    shown = browser.keep("check-by-partition")
    for text in ("case-07", "case-10", "the row has no file", "partition=2026-01-08.rejected.parquet"):
        assert text in shown


def test_the_end_of_a_chain_says_what_was_lost_before(browser: Browser) -> None:
    browser.open("/assets/measured?view=checks", "Latest execution")
    browser.click("no_dropped_rows")
    browser.wait("0 of 10 rows dropped; 2 of 12 dropped upstream in resampled", "dropped_upstream")


def test_numbers_of_a_materialization_are_plotted(browser: Browser) -> None:
    browser.page.set_viewport_size({"width": 1500, "height": 1400})
    browser.open("/assets/measured?view=overview", "Row count", "slices.png")
    browser.page.locator("button", has_text="Plots").first.click()
    browser.wait("download_s", "fn_s", "read_bytes", "throttles", "upload_s")


def test_a_backfill_from_the_ui_leaves_the_red_day_red(browser: Browser) -> None:
    """One run of the daemon over all days: each of them is evaluated again."""
    browser.open("/assets/pictures?view=partitions", "Failed (1)")
    browser.page.locator("button", has_text="Materialize").first.click()
    browser.wait("Backfills all partitions in a single run.")
    browser.page.get_by_role("dialog").get_by_text("All", exact=True).click()
    browser.page.locator("button", has_text="Launch backfill").click()
    browser.wait("Created backfill")
    deadline = time.monotonic() + 240
    while True:
        browser.open("/overview/backfills", "pictures")
        if "Failure" in (shown := browser.page.inner_text("body")):  # of the one day
            break
        assert time.monotonic() < deadline, shown
        time.sleep(3)
    browser.page.locator("a[href*='/runs/b/']").first.click()
    browser.wait("100% completed")
    targeted, in_progress, succeeded, failed = browser.text().split()[-4:]
    assert (targeted, in_progress, succeeded, failed) == ("6", "0", "5", "1")
    browser.open("/assets/pictures?view=checks", "Latest execution")
    browser.page.get_by_text("Partitions", exact=True).nth(1).click()
    browser.wait("Failed (1)", "Passed (5)")
    browser.click("2026-01-08")
    browser.wait("View all historical executions (2)")
