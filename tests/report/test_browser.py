"""The page in a real browser: a headless Chromium, if the machine has one."""

import re
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from rac.report import preview

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)></pre></details>"
    "<a href='javascript:alert(3)'>{{ 7 * 7 }}</a>\u202e"
)
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHROMIUM, reason="this machine has no Chromium: apt-get install chromium"
    ),
]


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page that is open, and what it did that a quiet page does not."""

    def __init__(self, browser, file: Path, size: str = "desktop", **options):
        width, height = SIZES[size]
        self.page = browser.new_page(viewport={"width": width, "height": height}, **options)
        self.noise: list[str] = []
        self.page.on("console", lambda message: self.noise.append(message.text))
        self.page.on("pageerror", lambda error: self.noise.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.noise.append("dialog"), dialog.dismiss()))
        self.page.on(
            "request",
            lambda request: request.url.startswith("data:") or self.noise.append(request.url),
        )
        self.page.goto(file.as_uri())
        assert self.noise.pop(0) == file.as_uri()


@pytest.fixture(scope="session")
def whole(made, tmp_path_factory):
    """A run with everything that the page can show, its answers hostile."""
    root = tmp_path_factory.mktemp("whole")
    speed = {"tokens_per_second": 20.0, "speedup": 1.2, "dense_tokens_per_second": 16.0}
    timed = {"batches": {"1": speed, "16": speed}, "dense_peak_memory_bytes": 2**21}
    cells = [made.dense([1] * 8, errors=(0, 0))]
    for i, calibration in enumerate(("c4", "mix", "prompts", "rac")):
        for sparsity in (0.3, 0.5):
            cells.append(
                made.cell(
                    *(calibration, f"s-{sparsity:g}", [1] * (2 * i + 1) + [0] * (7 - 2 * i)),
                    pattern=f"unstructured {sparsity:g}",
                    sparsity=sparsity,
                    errors=(sparsity / (i + 1), 0.1),
                    losses=(1.0 / (i + 1), 3.0 + i),
                    texts=[HOSTILE] * 8,
                    tokens=[60 + 40 * n for n in range(8)],
                    finished=[True] * 6 + [False] * 2,
                    runtime=timed | {"peak_memory_bytes": 2**20 * (i + 1)},
                )
            )
    cells.append(made.cell("rac", "s-2of4", [1] * 8, pattern="2:4"))
    run = made.run(root, cells)
    config = made.mixed | {"evals": {"sums": {"seed": 0}}}
    return made.page(run, root, {"command": HOSTILE}, config=config)


@pytest.fixture(scope="session")
def lame(made, tmp_path_factory):
    """A run of which one cell failed and another was not computed."""
    root = tmp_path_factory.mktemp("lame")
    cells = [made.dense([1] * 4)]
    for calibration in ("c4", "rac"):
        for sparsity in (0.3, 0.4, 0.5):
            more = {"pattern": f"unstructured {sparsity:g}", "sparsity": sparsity}
            cells.append(made.cell(calibration, f"s-{sparsity:g}", [1, 1, 0, 0], **more))
    run = made.run(root, cells)
    for cell in run["cells"]:
        if (cell["calibration"], cell["variant"]) in (("c4", "s-0.4"), ("rac", "s-0.5")):
            for key in ("metrics", "scores", "generation"):
                Path(cell[key]).unlink()
    log = root / "logs/tiny/c4/s-0.4/sums/generate.log"
    log.parent.mkdir(parents=True)
    log.write_text("sampling\nrac: error: <b>no space</b> left\n")
    lacking = preview.lacking(run["cells"], root / "logs")
    run["cells"] = preview.so_far(run["cells"])
    return made.page(run, root, lacking=lacking)


@pytest.fixture(scope="session")
def single(made, tmp_path_factory):
    """The dense cell alone."""
    root = tmp_path_factory.mktemp("single")
    return made.page(made.run(root, [made.dense([1, 0])]), root)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["whole", "lame", "single"])
def test_it_opens_quietly_fits_and_can_be_used_by_all(browser, request, kind, size):
    opened = Opened(browser, request.getfixturevalue(kind), size)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = [figure.bounding_box() for figure in page.locator("figure svg").all()]
    assert boxes and all(box["width"] > 250 and box["height"] > 90 for box in boxes)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    bad = [(one["id"], one["nodes"][0]["html"][:200]) for one in found]
    assert bad == []
    assert opened.noise == []
    page.close()


def test_every_section_has_its_figures(browser, whole):
    page = Opened(browser, whole).page
    topics = ("claim", "rambling", "why", "money", "outside", "ablations")
    counts = {
        topic: page.locator(f"section[aria-labelledby={topic}] figure svg").count()
        for topic in topics
    }
    assert min(counts.values()) > 0, counts
    drawn = page.locator("figure svg").evaluate_all(
        "all => all.map(one => one.querySelectorAll('path, use, image').length)"
    )
    assert len(drawn) > sum(counts.values()) / 2 and min(drawn) > 5
    words = page.locator("section[aria-labelledby=outside]").inner_text()
    assert re.search("mixtures? (does|these are)", words)
    page.close()


def test_a_point_says_what_it_is(browser, whole):
    page = Opened(browser, whole).page
    point = page.locator(
        "figure:has(svg[aria-label*='rac']) [data-tip^='rac, s-0.5: 87.5 %']"
    ).first
    point.hover(force=True)
    assert page.locator("#tip").inner_text().startswith("rac, s-0.5: 87.5 % [")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.close()


def test_the_table_sorts_and_filters(browser, lame):
    page = Opened(browser, lame).page
    bar, rows = page.locator(".controls[data-for=cells]"), page.locator("#cells tbody tr:visible")
    assert rows.count() == 7
    bar.get_by_label("Calibration").select_option("rac")
    assert rows.count() == 3 and bar.locator("output").inner_text() == "3 of 7 shown"
    bar.get_by_label("Search").fill("missing")
    assert rows.count() == 1 and "s-0.5" in rows.inner_text()
    bar.get_by_label("Search").fill("")
    bar.get_by_label("Calibration").select_option("")
    head = page.locator("#cells thead th", has_text="accuracy")
    for way in ("ascending", "descending"):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == way
        column = [row.locator("td").nth(2).inner_text() for row in rows.all()]
        assert column[-2:] == ["× missing"] * 2
        shares = [float(text.split()[0]) for text in column[:-2]]
        assert shares == sorted(shares, reverse=way == "descending") and len(set(shares)) == 2
    page.close()


def test_missing_cells_are_shown_as_missing(browser, lame):
    page = Opened(browser, lame).page
    note = page.get_by_role("note")
    assert "2 of 7 cells are not complete" in note.inner_text()
    note.locator("summary").click()
    assert "failed: <b>no space</b> left" in note.inner_text()
    assert page.locator(".tiles li", has_text="rac").inner_text().split("\n")[1] == "× missing"
    assert "missing" in page.locator("figure svg").nth(0).text_content()
    page.close()


def test_answers_are_browsed(browser, whole):
    page = Opened(browser, whole).page
    bar = page.locator(".controls[data-for=problems]")
    problems = page.locator("details.problem:visible")
    assert problems.count() == 8
    bar.get_by_label("Verdicts").select_option("only")
    assert [problem.locator(".id").inner_text() for problem in problems.all()] == [
        "Problem p5",
        "Problem p6",
    ]
    problems.first.locator("summary").first.click()
    assert page.get_by_text("Right answer: 5").is_visible()
    bar.get_by_label("Verdicts").select_option("unfinished")
    assert problems.count() == 2
    bar.get_by_label("Search").fill("nothing of the kind")
    assert problems.count() == 0 and bar.locator("output").inner_text() == "0 of 8 shown"
    page.close()


def test_hostile_text_does_nothing(browser, whole):
    opened = Opened(browser, whole)
    page = opened.page
    for folded in page.locator("details").all():
        folded.evaluate("one => { one.open = true; }")
    page.wait_for_timeout(200)
    assert page.locator("img, iframe, a[href^='javascript:']").count() == 0
    assert page.get_by_text("<script>alert(1)</script>").first.is_visible()
    assert page.get_by_text("{{ 7 * 7 }}").first.is_visible()
    assert opened.noise == []
    # Were it not escaped, the page's policy would still run none of it.
    page.evaluate("text => { document.querySelector('main').innerHTML += text; }", HOSTILE)
    page.wait_for_timeout(200)
    assert "dialog" not in opened.noise and any("Security Policy" in said for said in opened.noise)
    page.close()


def test_all_is_there_without_scripts_and_on_paper(browser, whole):
    page = Opened(browser, whole, java_script_enabled=False).page
    assert page.locator("#cells tbody tr:visible").count() == 10
    assert page.locator(".controls:visible").count() == 0
    assert page.locator("details.problem:visible").count() == 8
    page.emulate_media(media="print")
    assert page.locator("nav:visible").count() == 0
    assert len(page.pdf()) > 20_000
    page.close()
