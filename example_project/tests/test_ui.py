"""`make ui` in a real browser: the page of the check shows the dropped rows, and nothing stays behind after Ctrl-C."""

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

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

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
    deadline = time.monotonic() + 120
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


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_check_shows_the_dropped_rows(ui: str, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.goto(f"{ui}/assets/resampled?view=checks")
        page.get_by_text("2 of 12 rows dropped (16.7%): 1 at download, 1 at fn").first.wait_for(timeout=60_000)
        page.screenshot(path=tmp_path / "check.png")
        shown = page.inner_text("body")
        overflow = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        browser.close()
    for text in ("case-07", "case-10", "NoSuchKey", "damaged or cut short", "dropped_fraction"):
        assert text in shown
    assert not overflow
