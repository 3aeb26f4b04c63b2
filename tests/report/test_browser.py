"""The report page in a real browser: it draws, sorts, filters and answers, from a file alone, whatever runs are called."""

import runpy
from pathlib import Path

import pytest

from tests.helpers.page import EVIL

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "screenshot_report.py"))

pytestmark = pytest.mark.slow


@pytest.fixture(params=["light", "dark", "phone"])
def seen(request, made):  # noqa: F811
    """The page in a browser of one view: the driver, and the view's name."""
    context = SCRIPT["browser"](*SCRIPT["VIEWS"][request.param])
    try:
        found = context.__enter__()
    except RuntimeError as error:
        pytest.skip(str(error))
    try:
        SCRIPT["open_page"](found, made[0] / "report.html")
        yield found, request.param
    finally:
        context.__exit__(None, None, None)


def column(found, heading: str) -> list[str]:
    """The texts of the first table's column."""
    return found.execute_script(
        "const table = document.querySelector('table.main');"
        "const at = [...table.querySelectorAll('thead tr:last-child th')].findIndex(head => head.textContent.includes(arguments[0]));"
        "return [...table.tBodies[0].rows].map(row => row.cells[at + 2].firstChild.data.trim())",
        heading,
    )


def test_it_works_from_a_file_without_an_error(seen):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    found, view = seen
    # Nobody's name ran, and it stands there as text.
    assert found.execute_script("return window.hacked") is None
    heads = [cell.text for cell in found.find_elements(By.CSS_SELECTOR, "table.main:first-of-type tbody th")]
    assert EVIL in heads
    ids = found.execute_script("return [...document.querySelectorAll('table.main thead th')].map(head => head.textContent)")
    assert any(EVIL in text for text in ids)

    # No line is wider than the page; what is wider scrolls in a box of its own.
    width = found.execute_script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width[0] <= width[1] == SCRIPT["VIEWS"][view][0]

    # Sorting by a click and by the keyboard, by number: 5.0 before 10.0.
    head = found.find_elements(By.XPATH, "//table[contains(@class,'main')][1]//thead//th[contains(., 'dtd')]")[0]
    found.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", head)
    before = column(found, "dtd")
    head.click()
    numbers = [float(text.split()[0]) for text in column(found, "dtd")]
    assert numbers == sorted(numbers) and sorted(before) == sorted(column(found, "dtd"))
    assert head.get_attribute("aria-sort") == "ascending"
    head.find_element(By.CSS_SELECTOR, "[tabindex], .dt-column-order").send_keys(Keys.ENTER)
    WebDriverWait(found, 5).until(lambda _: head.get_attribute("aria-sort") == "descending")
    assert [float(text.split()[0]) for text in column(found, "dtd")] == numbers[::-1]

    # Filtering.
    field = found.find_element(By.CSS_SELECTOR, ".dt-search input")
    field.send_keys("linear")
    assert len(column(found, "dtd")) == 1
    field.send_keys(Keys.CONTROL, "a", Keys.DELETE)
    assert len(column(found, "dtd")) == 4

    # A chart is drawn, is described, and says what the pointer is at.
    chart = found.find_element(By.CSS_SELECTOR, ".chart")
    assert chart.get_attribute("role") == "img" and "Pareto front" in chart.get_attribute("aria-label")
    found.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    WebDriverWait(found, 20).until(lambda _: chart.find_elements(By.CSS_SELECTOR, ".scatterlayer .point"))
    mark = chart.find_elements(By.CSS_SELECTOR, ".scatterlayer .point")[1]
    ActionChains(found).move_to_element(mark).perform()
    WebDriverWait(found, 10).until(lambda _: chart.find_elements(By.CSS_SELECTOR, ".hovertext"))
    assert "parameters, accuracy" in chart.find_element(By.CSS_SELECTOR, ".hovertext").text

    # What is folded is drawn when it is opened.
    details = found.find_elements(By.CSS_SELECTOR, "details:not([open])")
    panel = next(one for one in details if one.find_elements(By.CSS_SELECTOR, ".chart"))
    found.execute_script("arguments[0].open = true; arguments[0].scrollIntoView()", panel)
    WebDriverWait(found, 20).until(lambda _: panel.find_elements(By.CSS_SELECTOR, ".main-svg"))

    ground = found.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(13, 17, 23)" if view == "dark" else "rgb(255, 255, 255)")
    assert [entry["message"] for entry in found.get_log("browser")] == []


def test_screenshots_are_of_the_width_that_is_said(made, tmp_path, capsys):  # noqa: F811
    from PIL import Image

    code = SCRIPT["main"]([str(made[0] / "report.html"), str(tmp_path / "shots"), "--height", "700"])
    out, err = capsys.readouterr()
    if code == 2:
        pytest.skip(err)
    sizes = {path.name: Image.open(path).size for path in (tmp_path / "shots").iterdir()}
    assert sizes == {"report-light.png": (1280, 700), "report-dark.png": (1280, 700), "report-phone.png": (390, 700)}
    assert SCRIPT["main"]([str(tmp_path / "absent.html"), str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
