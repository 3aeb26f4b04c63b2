"""Screenshots of a report page, for the docs: at 1280 px light and dark, and at a phone's width.

    python scripts/screenshot_report.py results/real6/report.html docs/images

writes report-light.png, report-dark.png and report-phone.png. Needs selenium (pip install -e '.[dev]'), Chromium and ChromeDriver (Debian:
chromium chromium-driver). Exit code 2 where one of them, or the page, is missing.
"""

import argparse
import base64
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

#: Width and height in px of what is seen, and the scheme.
VIEWS = {"light": (1280, 1800, "light"), "dark": (1280, 1800, "dark"), "phone": (390, 1800, "light")}
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars")  # fmt: skip


@contextmanager
def browser(width: int, height: int, scheme: str):
    """A headless Chromium with a profile of its own. Raises RuntimeError, in one line, where there is none."""
    try:
        from selenium import webdriver
    except ImportError as error:
        raise RuntimeError("selenium is not installed: pip install -e '.[dev]'") from error
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        raise RuntimeError("chromium or chromedriver is not on the path (Debian: chromium, chromium-driver)")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={max(width, 500)},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
        try:
            # The narrowest window is wider than a phone, so the width is set as for one.
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                  {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})  # fmt: skip
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
            yield driver
        finally:
            driver.quit()


def open_page(driver, path: Path) -> None:
    """Opens a report and waits until its tables sort and the charts in sight are drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(path.resolve().as_uri())
    WebDriverWait(driver, 60).until(
        lambda page: page.execute_script(
            "const seen = box => box.checkVisibility({contentVisibilityAuto: true}) && box.getBoundingClientRect().top < innerHeight + 500;"
            "return document.documentElement.dataset.tables === 'ready'"
            " && [...document.querySelectorAll('.chart')].every(box => 'drawn' in box.dataset || !seen(box));"
        )
    )


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", metavar="REPORT.HTML", type=Path)
    parser.add_argument("out", metavar="DIR", type=Path, help="folder for the screenshots")
    parser.add_argument("--height", type=int, help="px of the page that are shown (default: 1800)")
    options = parser.parse_args(arguments)
    if not options.page.is_file():
        print(f"pvera: no page at {options.page}: python -m pvera.report DIR makes DIR/report.html", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        for name, (width, height, scheme) in VIEWS.items():
            with browser(width, options.height or height, scheme) as driver:
                open_page(driver, options.page)
                shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
                path = options.out / f"report-{name}.png"
                path.write_bytes(base64.b64decode(shot))
                print(path)
    except RuntimeError as error:
        print(f"pvera: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
