"""A person at the page, in a browser without a window, on a desk and on a telephone.

SCREENSHOTS=docs/images makes the pictures of the documentation by the same steps, after a run of the whole sample.
"""

import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.local.lab import compare, condition, fail, get, parameter
from tests.local.samples import ROOT, definition, python_step, run_cli
from tests.studio.conftest import Studio

api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = api.expect
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PICTURES = os.environ.get("SCREENSHOTS")
LARGEST_PICTURE = 150_000  # bytes
CLASSES = {"dress": 30, "hat": 30, "shoes": 30}  # photos of each
TABS = ("executions", "experiments", "models", "endpoints", "data", "schedules")
SECONDS = 1000  # milliseconds of Playwright


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A server on a home in which our pipeline has run and waits for approval, and a small one can be started."""
    folder = tmp_path_factory.mktemp("browser")
    home, config = folder / "home", folder / "pipeline.yaml"
    photos = ROOT / "sample/photos"
    settings = yaml.safe_load((ROOT / "pipeline.yaml").read_text())
    if not PICTURES:
        for label, count in CLASSES.items():
            (folder / "photos" / label).mkdir(parents=True)
            for photo in sorted((photos / label).iterdir())[:count]:
                shutil.copy(photo, folder / "photos" / label)
        photos = folder / "photos"
        settings["data"] |= {"image_size_px": 64, "augmented_views": 0}
        settings["tuning"] |= {"max_jobs": 2, "max_parallel_jobs": 2}
        settings["evaluation"] |= {"accuracy_threshold": 0.1}
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    places = ("--home", home, "--config", config)
    done = run_cli(
        "run", *places, "--data", photos, "--param", "ModelApprovalStatus=PendingManualApproval", timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "small.json").write_text(json.dumps(small()))
    done = run_cli("run", "--definition", folder / "small.json", "--name", "small", *places)
    assert done.returncode == 0, done.stdout + done.stderr
    assert run_cli("experiments", *places).returncode == 0
    found = Studio(home, folder / "log", "--config", config)
    yield found
    found.end()
    assert run_cli("teardown", "--yes", *places).returncode == 0


def small() -> dict[str, Any]:
    """A pipeline whose one step takes as many seconds as a parameter says."""
    slow = python_step("Wait", "import sys, time; print('waits', flush=True); time.sleep(float(sys.argv[1]))")
    slow["Arguments"]["AppSpecification"]["ContainerArguments"] = [get("Parameters.Seconds")]
    long = compare("GreaterThan", get("Parameters.Level"), 5)
    check = condition("Check", [long], [fail("TooMuch", "more than 5")], [python_step("After", "print('done')")])
    parameters = [parameter("Seconds", "String", "0"), parameter("Level", "Integer", 1)]
    return definition(slow, {**check, "DependsOn": ["Wait"]}, Parameters=parameters)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium of this machine."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: install one of {', '.join(BROWSERS)} (Debian: apt install chromium)")
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=options)
        yield found
        found.close()


class Person:
    """Somebody at a screen of some width, who sees at once when a page fails or leaves it."""

    def __init__(self, browser: Any, server: Studio, width: int, scheme: str) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme)
        self.page, self.server, self.width = self.context.new_page(), server, width
        self.page.set_default_timeout(30 * SECONDS)
        expect.set_options(timeout=30 * SECONDS)
        self.complaints = list[str]()
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda problem: self.complaints.append(str(problem)))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.open(f"/?token={server.token}")

    def hear(self, said: Any) -> None:
        """Note what the browser complains of; that a form was refused (400) is said on the page as well."""
        if said.type in ("error", "warning") and "status of 400" not in said.text:
            self.complaints.append(said.text)

    def open(self, path: str) -> Any:
        """Go to an address; the page fits the screen."""
        self.page.goto(self.server.url + path)
        return self.looks_well()

    def press(self, words: str, role: str = "button") -> Any:
        """Press what has this name."""
        self.page.get_by_role(role, name=words, exact=True).first.click()
        self.page.wait_for_load_state()
        return self.looks_well()

    def looks_well(self) -> Any:
        """Nothing was complained of, and nothing but tables is wider than the screen."""
        complaints, self.complaints[:] = list(self.complaints), []
        assert not complaints, self.page.url
        wide = self.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= self.width, f"{self.page.url} is {wide} wide"
        return self.page

    def picture(self, name: str) -> None:
        """Keep a picture for the documentation, if they are wanted."""
        if PICTURES and self.width > 1000:
            self.page.wait_for_load_state("networkidle")
            file = Path(PICTURES) / f"{name}.png"
            shown = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
            shown.quantize(256, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)
            assert file.stat().st_size < LARGEST_PICTURE


@pytest.fixture(scope="module", params=[(1280, "light"), (400, "dark")], ids=["desk", "telephone"])
def person(browser: Any, server: Studio, request: Any) -> Iterator[Person]:
    """A person, who has opened the link."""
    found = Person(browser, server, *request.param)
    yield found
    found.context.close()


def start(person: Person, **parameters: str) -> None:
    """Start the small pipeline by its form."""
    person.open("/executions")
    person.press("Start small", "link")
    for name, value in parameters.items():
        person.page.locator(f"[name='parameter.{name}']").fill(value)
    person.press("Start")


def ends(person: Person, status: str) -> None:
    """The page, left alone, comes to show how the execution has ended."""
    expect(person.page.locator("h1 + p .status")).to_have_text(status)
    person.looks_well()


def test_a_run_with_a_changed_parameter_goes_green_and_is_compared(person: Person) -> None:
    start(person, Seconds="1.5")
    expect(person.page.locator("#node-Wait.busy")).to_be_visible()
    ends(person, "Succeeded")
    expect(person.page.locator("#node-After.good")).to_be_visible()
    expect(person.page.locator("#node-TooMuch.grey")).to_be_visible()
    person.page.locator("#node-Wait").click()
    expect(person.page.locator("#step")).to_contain_text("waits")
    person.open("/executions?pipeline=small")
    for box in person.page.locator("[name=pair]").all()[:2]:
        box.check()
    person.press("Compare the two that are ticked")
    expect(person.page.get_by_role("row", name=re.compile("^Seconds"))).to_contain_text("1.5")
    person.picture("studio-compare")


def test_a_run_is_stopped_and_a_wrong_parameter_refused(person: Person) -> None:
    start(person, Seconds="100")
    expect(person.page.locator("#node-Wait.busy")).to_be_visible()
    person.press("Stop")
    ends(person, "Stopped")
    start(person, Level="many")
    expect(person.page.locator("label", has_text="Level").get_by_role("alert")).to_be_visible()


def test_our_pipelines_execution_shows_its_graph_trials_and_reports(person: Person) -> None:
    person.open("/executions?pipeline=image-classification")
    person.picture("studio-executions")
    person.page.locator("tbody a").first.click()
    ends(person, "Succeeded")
    person.picture("studio-execution")
    expect(person.page.locator(".plot .winner")).to_be_attached()
    trials = person.page.locator("#trials")
    trials.get_by_role("button", name="Seconds").click()
    expect(trials.locator("th[aria-sort=ascending]")).to_have_text("Seconds")
    objective = trials.locator("tbody tr").first.locator("td[title]").last
    assert float(objective.inner_text()) == pytest.approx(float(objective.get_attribute("title")), rel=1e-3)
    report = person.page.frame_locator("iframe[title='Evaluation report']")
    expect(report.locator("body")).to_contain_text("accuracy", ignore_case=True)
    person.page.locator("#node-TrainWithDebugger").click()
    expect(person.page.locator("#rules summary")).to_contain_text("rules: ")
    person.looks_well()


def test_a_version_is_approved_and_its_endpoint_asked_about_an_image(person: Person) -> None:
    person.open("/models")
    person.page.locator("tbody a").first.click()
    person.page.get_by_label("Comment").fill("looked at <b>every</b> mistake")
    person.press("Approve and deploy")
    expect(person.page.locator(".card", has_text="looked at <b>every</b> mistake").first).to_be_visible()
    person.page.locator("a[href^='/endpoints/']").first.click()
    expect(person.page.get_by_text("InService").first).to_be_visible()
    person.page.locator(".drop input").set_input_files(ROOT / "sample/photos/hat/40.jpg")  # which takes drops as well
    bars = person.page.locator("article .bar")
    expect(bars.first).to_be_visible()
    assert 2 <= bars.count() <= 5
    person.press("What does the answer depend on?")
    expect(person.page.get_by_alt_text(re.compile("What the answer depends on"))).to_be_visible()
    person.looks_well()
    person.picture("studio-endpoint")


def test_a_label_is_corrected_by_a_click(person: Person) -> None:
    person.open("/data")
    person.press("hat", "link")
    picture = person.page.locator("figure", has=person.page.get_by_role("button", name="Correct")).first
    name = picture.get_attribute("id")
    picture.get_by_role("combobox").select_option("shoes")
    picture.get_by_role("button", name="Correct").click()
    expect(person.page.locator(f"[id='{name}']")).to_contain_text("shoes from the next run on")
    person.looks_well()


def test_experiments_are_shown_and_every_page_fits_by_keyboard_too(person: Person) -> None:
    person.open("/experiments?pipeline=image-classification")
    person.page.get_by_role("link", name="steps and trials").click()
    expect(person.page.get_by_role("row", name=re.compile("^trial 1 "))).to_be_visible()
    for tab in TABS:
        person.open(f"/{tab}")
        person.page.keyboard.press("Tab")
        expect(person.page.locator(".skip")).to_be_focused()
    assert person.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (person.width < 1000)
    colour = person.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour))) < 300) == (person.width < 1000)
