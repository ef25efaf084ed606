"""debugger.html and debugger.json: understandable, self-contained, and never stopped by what is missing or damaged."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import training_output as made

from watch.report.report import write_report
from watch.report.search import Search, read_search

STEPS = Path(__file__).parents[2] / "steps"
VOID = {"meta"}
SHAPES = {"path", "rect", "circle", "g"}
LARGEST_BYTES = 3_000_000
SPACE = "\N{NARROW NO-BREAK SPACE}"
Write = Callable[..., "Page"]


class Page(HTMLParser):
    """A page taken apart; a closing tag that does not match is a failure."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.document: dict[str, Any] = json.loads(path.with_name("debugger.json").read_text())
        self.open: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.sections: dict[str, list[str]] = {}
        self.labels: list[dict[str, str]] = []  # of each chart: x and y
        self.y_label = ""
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        assert "src" not in found
        assert found.get("href", "#").startswith("#")
        if tag == "svg":
            self.labels.append({"y": self.y_label})
        if tag not in VOID:
            self.open.append((tag, found))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][0] != "style":
            self.words.append(data)
        for tag, found in self.open:
            if tag == "section":
                self.sections.setdefault(found.get("id", ""), []).append(data)
        within = self.open[-1] if self.open else ("", {})
        if within[1].get("class") == "y-label":
            self.y_label = data.strip()
        if within[0] == "text" and within[1].get("class") == "title":
            self.labels[-1]["x"] = data.strip()

    @property
    def text(self) -> str:
        return joined(self.words)

    def section(self, name: str) -> str:
        return joined(self.sections[name])

    def article(self, name: str) -> str:
        """The markup of a rule's card."""
        found = re.search(rf'<(article|details) class="rule \w+" id="rule-{name}">.*?</\1>', self.source, re.DOTALL)
        assert found, name
        return found[0]


def joined(words: list[str]) -> str:
    return " ".join(" ".join(words).replace(SPACE, " ").split())


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an output directory by `training_output`, and its report."""

    def report(*, search: Search | None = None, **changes: Any) -> Page:
        output_dir = made.write_output(tmp_path / "output", **changes)
        return Page(write_report(output_dir, tmp_path / "report", search=search))

    return report


def sound(page: Page) -> None:
    """What holds of every report."""
    assert len(page.source.encode()) < LARGEST_BYTES
    assert not re.search(r"url\(|@import|<script|<link|https?://", page.source)
    for labels in page.labels:
        assert labels.keys() == {"x", "y"}
        assert all(labels.values())
    assert not re.search(r"\b(nan|inf)\b", page.text)


# a whole training


def test_a_training_that_went_well_is_told_from_top_to_bottom(write: Write) -> None:
    page = write(search=read_search(made.search()))
    sound(page)
    for words in (
        "Completed Every one of its 20 epochs ran.",
        "Validation accuracy (selected on) 94.0 % (95 %: 90.5 % to 96.3 %) "
        "Kept epoch 17 of 20 Duration 11.5 s Train images 1,257 Validation images 270",
        "No rule found a problem.",
        "21 rules watched the training: 0 found a problem, 21 found none.",
        "20 epochs trained; the weights of epoch 17 were kept, with validation accuracy 94.0 % (selected on) and",
        "Learning rate 0.0008269",
        "Started 2026-09-21 14:13:20 UTC",
    ):
        assert words in page.text
    assert "What this report lacks" not in page.text
    charts = re.findall(r"<figcaption><b>(.*?)</b>", page.source)
    for title in (
        "Loss",
        "Accuracy",
        "Gradients",
        "Weights",
        "Duration of each training step",
        "Processor",
        "Disk",
        "lr",
    ):
        assert title in charts


def test_a_training_that_a_rule_stopped_says_which_why_and_what_to_do(write: Write) -> None:
    page = write(**made.sick())
    sound(page)
    assert page.document["headline"] == "Stopped by rule Overfit"
    assert "Stopped by rule Overfit at step 160: validation loss is 11 % above training loss" in page.text
    assert "2 rules found a problem Overfit Validation loss is 11 % above" in page.text
    card = joined([re.sub("<.*?>", " ", page.article("Overfit"))])
    assert "Looks for a validation loss well above the training loss: learnt by heart." in card
    assert "EVAL step 160, 4 s after the start Validation loss is 11 % above" in card
    assert "4 more" in card
    assert "What to do The model learns the training images by heart." in card
    assert "ratio_threshold = 0.1 fired at 160" in card
    assert 'class="series threshold"' in page.article("Overfit")


def test_rules_that_fired_come_first_and_quiet_ones_are_folded(write: Write) -> None:
    page = write(**made.sick())
    order = re.findall(r'<(article|details) class="rule (\w+)" id="rule-(\w+)"', page.source)
    assert [(tag, kind) for tag, kind, _ in order] == [
        ("article", "fired"),
        ("article", "fired"),
        ("article", "error"),
        *[("details", "quiet")] * 21,
    ]
    assert "too little data" in page.article("Overtraining")


def test_a_rule_that_failed_shows_its_traceback_and_blames_nothing_else(write: Write) -> None:
    page = write(**made.sick())
    card = page.article("MyRule")
    assert "ZeroDivisionError: float division by zero &lt;b&gt;" in card
    assert "The training and the other rules go on." in card
    assert page.document["rules"][2]["traceback"].startswith("Traceback (most recent call last):")


def test_json_holds_the_same_and_only_finite_numbers(write: Write) -> None:
    page = write(**made.sick(), search=read_search(made.search()))
    document = page.document
    assert document["outcome"] == "Stopped"
    assert [rule["name"] for rule in document["rules"]][:3] == ["Overfit", "LossNotDecreasing", "MyRule"]
    assert document["rules"][0]["fired"][0]["step"] == 160
    assert document["profile"]["steps"]["count"] == made.STEPS
    assert document["profile"]["utilisation"]["GPUUtilization"]["devices"] == 2
    assert [trial["winner"] for trial in document["search"]["trials"]].count(True) == 1
    assert document["epochs"][0]["train_loss"] == made.epoch(1)["train_loss"]


# sections


def test_where_the_time_goes_is_a_bar_of_phases_with_what_none_covers(write: Write) -> None:
    page = write()
    told = page.section("time")
    assert "Most of the measured time, 34.0 %, went into backward." in told
    for phase in ("Backward 34.0 %", "Forward 27.0 %", "Data wait 12.0 %", "Logging 8.0 %", "Other"):
        assert phase in told
    shares = [float(share) for share in re.findall(r"flex-grow:([0-9.]+)", page.source)]
    assert sum(shares) == pytest.approx(1, abs=0.001)


def test_of_a_long_training_all_steps_count_though_the_trace_holds_some(write: Write) -> None:
    counters = [
        {"name": "StepCounts", "ph": "C", "ts": 0, "args": {"TRAIN": 4000}},
        {"name": "StepMicroseconds", "ph": "C", "ts": 0, "args": {"TRAIN": 110e6}},
        {"name": "PhaseMicroseconds", "ph": "C", "ts": 0, "args": {"Forward": 70e6, "Backward": 40e6}},
    ]
    told = write(timeline=[*made.timeline(), *counters]).section("time")
    assert "4,000 training steps, of which the trace holds 400, took 27." in told
    assert "Forward 63.6 % (70 s)" in told


def test_the_machine_is_shown_with_its_gpus_or_without(write: Write) -> None:
    assert "2 processor cores, no GPU." in write().section("machine")
    measured = {"cpu": "Busy time of all 64 cores.", "disk": 7}
    page = write(system=made.system_lines(cores=64, gpus=8), replaced={"profile/measured.json": json.dumps(measured)})
    assert "8 GPUs. Busy time of all 64 cores." in page.section("machine")
    assert "64 processor cores, 8 GPUs." in page.section("machine")
    assert "least busy GPU" in page.section("machine")
    sound(page)


def test_operators_are_those_of_the_device(write: Write) -> None:
    assert "What PyTorch spent processor time on, measured over 3 steps" in write().section("operators")
    page = write(operators=made.operators("cuda"))
    assert "What PyTorch spent GPU time on" in page.section("operators")
    assert "900 µs" in page.section("operators")


def test_the_search_shows_every_trial_and_marks_the_winner(write: Write) -> None:
    search = read_search(made.search())
    assert search is not None
    page = write(search=search)
    told = page.section("search")
    assert "12 trials (Bayesian) looked for the highest validation:accuracy. The winner reached" in told
    rows = re.findall(r'<tr( class="winner")?><th scope="row" title="(tuning-\d+)">', page.source)
    assert rows[0][0] == ' class="winner"'
    assert sorted(name for _, name in rows) == [trial.name for trial in search.trials]
    assert rows[-1][1] == "tuning-005", "it failed, without an objective"
    assert page.source.count('<g class="series best"><g class="dots">') == 3 + 2, (
        "three hyperparameters, loss and accuracy"
    )
    assert "lr – logarithmic" in told


def test_a_search_for_the_lowest_value_sorts_upwards(write: Write) -> None:
    search = made.search()
    search["objective_type"] = "Minimize"
    for trial in search["trials"]:
        trial["winner"] = False
    objectives = sorted(trial["objective"] for trial in search["trials"] if trial["objective"])
    page = write(search=read_search(search))
    rows = re.findall(r'<tr><th scope="row" title="tuning-\d+">\d+</th><td>(.*?)</td>', page.source)
    assert rows == [*(f"{value:.4g}" for value in objectives), "–"]
    assert "None of them won." in page.section("search")


# what is missing or damaged is said

PROFILE = [name for name in made.files() if name.startswith("profile/")]


@pytest.mark.parametrize(
    ("replaced", "sentences"),
    [
        (
            {"rules/status.json": None, "rules/series.json": None},
            [
                "rules/status.json is missing, so the rules' verdicts are not known.",
                "rules/series.json is missing, so gradients and weights over time are not known.",
                "No rule's verdict was saved.",
            ],
        ),
        ({"history.json": '{"epochs": [{"ep'}, ["history.json is damaged: it is not JSON, so how the training went"]),
        ({"history.json": "[1, 2]"}, ["history.json is damaged: it is no JSON object, so how the training went"]),
        ({"rules/status.json": "\x00" * 100}, ["rules/status.json is damaged: it is not JSON"]),
        ({"rules/series.json": "[" * 100_000}, ["rules/series.json is damaged: it is not JSON"]),
        (
            dict.fromkeys(PROFILE),
            [
                "profile/torch/operators.json is missing, so the heaviest operators are not known.",
                "The profile holds no system metrics, so the machine's utilisation is not known.",
                "The profile holds no step times, so where a step's time goes is not known.",
                "No step was timed.",
                "No utilisation was recorded.",
                "No operator was recorded.",
            ],
        ),
        (dict.fromkeys(made.files()), ["How it ended is not known", "history.json is missing"]),
    ],
)
def test_missing_and_damaged_files_are_said_in_words(
    write: Write, replaced: dict[str, str | None], sentences: list[str]
) -> None:
    page = write(replaced=replaced)
    sound(page)
    for sentence in sentences:
        assert sentence in page.text
    assert page.document["missing"]


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    output_dir = made.write_output(tmp_path / "output", replaced={"history.json": None})
    (output_dir / "history.json").mkdir()
    page = Page(write_report(output_dir, tmp_path / "report"))
    assert "history.json cannot be read (" in page.text


def test_a_killed_observer_and_a_full_tensor_directory_are_said(write: Write) -> None:
    trouble = "No space left on device: tensors are no longer saved from step 120 on."
    page = write(
        history=made.history(debugger_trouble=trouble),
        status=made.status(
            made.rule("Overfit", "InProgress", evidence=None),
            made.rule("AllZero", "Stopped"),
            state="killed",
            detail="It was killed by signal 9 after 3.2 s.",
        ),
    )
    sound(page)
    assert f"The debugger had trouble during the training: {trouble}" in page.text
    assert "ended before the training did. It was killed by signal 9 after 3.2 s." in page.text
    assert "Not judged to the end" in page.article("Overfit")
    assert "2 could not judge to the end" in page.section("rules")
    assert "No rule found a problem, but 2 rules could not judge to the end." in page.text


def test_an_observer_that_never_said_it_had_finished_is_said(write: Write) -> None:
    page = write(status=made.status(state="running"))
    assert "said no last word: verdicts are as of its last look." in page.text


def test_a_training_that_diverged_shows_where_the_loss_is_no_number(write: Write) -> None:
    nan, inf = float("nan"), float("inf")
    epochs = [made.epoch(1), made.epoch(2, train_loss=1e30), *(made.epoch(n, train_loss=nan, validation_loss=inf)
              for n in (3, 4))]  # fmt: skip
    page = write(history=made.history(epochs=epochs, best_epoch=1, outcome="Failed", reason="The loss is no number."))
    sound(page)
    assert "Failed The loss is no number." in page.text
    assert "The loss was not a number in some epochs: the training diverged." in page.text
    lost = re.findall(r'<g class="series lost">(.*?)</g></g>', page.source)
    assert sum(found.count("<circle") for found in lost) == 4
    assert page.document["epochs"][2]["train_loss"] is None


def test_where_fine_tuning_began_is_marked(write: Write) -> None:
    epochs = [made.epoch(number) for number in range(1, 5)]
    page = write(history=made.history(epochs=epochs, best_epoch=4, fine_tuning_from_epoch=3))
    sound(page)
    assert "From epoch 3 on the backbone learned, too" in page.text
    assert page.section("learning").count("fine-tuning begins") == 3  # loss, accuracy and learning rate
    assert page.document["fine_tuning_from_epoch"] == 3


def test_values_that_are_all_nan_are_no_chart(write: Write) -> None:
    nothing = made.rule("AllZero", "IssuesFound", evidence=made.evidence(series=[{"name": "a", "x": [1], "y": [None]}]))
    page = write(status=made.status(nothing))
    sound(page)
    assert "No value was recorded." in page.article("AllZero")


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_training_of_hardly_any_epoch_has_a_report(write: Write, epochs: int) -> None:
    page = write(history=made.history(epochs=[made.epoch(n + 1) for n in range(epochs)], best_epoch=epochs or None))
    sound(page)
    assert ("1 epoch trained; the weights of epoch 1 were kept" in page.text) == (epochs == 1)
    assert "Loss by saved training step" in page.text


def test_many_classes_with_long_names_stay_in_their_place(write: Write) -> None:
    names = [f"{number:03}.{'very long name ' * 40}<script>" for number in range(200)]
    page = write(history=made.history(classes=names))
    sound(page)
    assert "Classes (200)" in page.text
    assert "and 188 more" in page.text
    assert len(page.source) < 250_000


def test_texts_are_text_and_never_markup(write: Write) -> None:
    evil = "</section><script>alert('x')</script>\ud800"
    search = made.search()
    search["trials"][0]["hyperparameters"] = {evil: evil}
    page = write(
        history=made.history(reason=evil, job_name=evil, classes=[evil], backbone=evil, debugger_trouble=evil,
                             hyperparameters={evil: evil}),
        status=made.status(
            made.rule(evil, "IssuesFound", rule=evil, fired=[made.fired(3, evil, mode=evil)], advice=evil, note=evil,
                      parameters={evil: evil}, traceback=evil,
                      evidence=made.evidence(title=evil, x_label=evil, y_label=evil,
                                             series=[{"name": evil, "x": [1, 2], "y": [3, 4]}] * 2,
                                             thresholds=[{"name": evil, "y": 3}])),
        ),
        series={"gradients": {evil: {"step": [1, 2], "abs_mean": [1, 2]}}},
        operators={"device": "cpu", "steps": [1], "operators": [{"name": evil, "calls": 1, "self_cpu_us": 5}]},
        search=read_search(search),
    )  # fmt: skip
    sound(page)
    assert "alert" in page.text


WRONG: tuple[Any, ...] = (None, 7, "text", [], [[]], {}, {"a": [None, {"b": 1}]}, True, 1e999, 10**400)


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_members_of_the_wrong_kind_are_no_exception(write: Write, wrong: Any) -> None:
    history = dict.fromkeys(made.history(), wrong)
    rules = [dict.fromkeys(made.rule("x"), wrong), wrong, {**made.rule("x"), "evidence": {"series": wrong}}]
    rules.append(made.rule("y", "IssuesFound", fired=[wrong], evidence={**made.evidence(), "thresholds": [wrong]}))
    page = write(
        history={**history, "epochs": [wrong, dict.fromkeys(made.epoch(1), wrong)]},
        status={"rules": rules, "observer": wrong},
        series={"gradients": wrong, "weights": {"a": wrong}, "losses": {"TRAIN": wrong}},
        operators={"device": wrong, "steps": wrong, "operators": [wrong, {"name": wrong, "self_cpu_us": wrong}]},
        system=[json.dumps({"Type": wrong, "Timestamp": wrong, "Value": wrong}), json.dumps(wrong)],
        timeline=[
            wrong,
            {"ph": "X", "name": "Step:ModeKeys.TRAIN", "ts": wrong, "dur": wrong},
            {"ph": "M", "args": wrong},
        ],
        search=read_search({"trials": [wrong, {"hyperparameters": {"lr": wrong}, "objective": wrong}]}),
    )
    assert len(page.source) < LARGEST_BYTES


# size, speed, command


def test_a_report_of_a_large_training_stays_small(write: Write) -> None:
    steps = list(range(400))
    tensors = {f"blocks.{n}.attention.projection.weight": {"step": steps, "abs_mean": [0.1 / (n + 1)] * 400}
               for n in range(150)}  # fmt: skip
    lines = [{"name": name, "x": steps, "y": [0.001 * step for step in steps]} for name in list(tensors)[:12]]
    rules = [made.rule(f"Rule{n}", "IssuesFound", evidence=made.evidence(series=lines)) for n in range(40)]
    page = write(series={"gradients": tensors, "weights": tensors}, status=made.status(*rules))
    sound(page)
    assert "8 of 150 layers" in page.text
    assert "8 of 12 series; all are in debugger.json" in page.article("Rule0")
    assert len(page.document["series"]["gradients"]) == 150


def test_the_command_writes_both_files_and_loads_nothing_slow(tmp_path: Path) -> None:
    made.write_output(tmp_path / "output")
    (tmp_path / "search.json").write_text(json.dumps(made.search()))
    code = (
        "import sys; sys.argv[0] = 'training_report.py'; "
        "from watch.report import report; training_report.main();"
        "print([name for name in ('torch', 'smdebug', 'PIL', 'psutil') if name in sys.modules])"
    )
    words = ["--output-dir", "output", "--report-dir", "report", "--search", "search.json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, check=True,
        env={**os.environ, "PYTHONPATH": str(STEPS)},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["report/debugger.html", "[]"]
    assert "The search for hyperparameters" in (tmp_path / "report/debugger.html").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--output-dir", "none", "--report-dir", "r"],
            "--output-dir none is no directory; give the one that the training job wrote.",
        ),
        (
            ["--output-dir", ".", "--report-dir", "r", "--search", "none.json"],
            "--search none.json is missing; give a JSON document of the search's trials.",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_a_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    script = [sys.executable, "-m", "watch.report.report"]
    environment = {**os.environ, "PYTHONPATH": str(STEPS)}
    done = subprocess.run([*script, *words], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (done.returncode, done.stderr) == (1, f"{sentence}\n")
