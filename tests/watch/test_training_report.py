"""debugger.html and debugger.json: the diagnosis first, self-contained, never stopped by what is missing or damaged."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import training_output as made

from watch.read.run import read_json
from watch.report.report import write_report

STEPS = Path(__file__).parents[2] / "steps"
SPACE = "\N{NARROW NO-BREAK SPACE}"
Write = Callable[..., "Page"]


class Page(HTMLParser):
    """A page taken apart; a closing tag that does not match, or anything that is fetched, is a failure."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.document: dict[str, Any] = json.loads(path.with_name("debugger.json").read_text())
        self.open: list[tuple[str, str]] = []  # tag and id
        self.words: dict[str, list[str]] = {}  # by the id of what they are in; of the whole page by ""
        self.links: list[str] = []
        self.feed(self.source)
        assert self.open == []
        assert not re.search(r"url\(|@import|<link|https?://", self.source)
        assert not re.search(r"\b(nan|inf)\b", self.text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        assert found.get("src", "data:").startswith("data:")
        assert not any(name.startswith("on") for name in found)
        self.links += [found["href"]] if "href" in found else []
        if tag not in ("meta", "img") and not self.get_starttag_text().endswith("/>"):
            self.open.append((tag, found.get("id", "")))

    def handle_endtag(self, tag: str) -> None:
        assert tag in ("path", "rect") or self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][0] not in ("style", "script"):
            for name in {"", *(name for _, name in self.open)}:
                self.words.setdefault(name, []).append(data)

    def says(self, *sentences: str, at: str = "") -> None:
        assert [sentence for sentence in sentences if sentence not in self.text(at)] == [], self.text(at)

    def text(self, name: str = "") -> str:
        return " ".join(" ".join(self.words.get(name, [])).replace(SPACE, " ").split())


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an output directory by `training_output`, and its report."""

    def report(*, search: Any = None, **changes: Any) -> Page:
        (tmp_path / "output").mkdir(exist_ok=True)
        (tmp_path / "search.json").write_text(json.dumps(search))
        trials, _ = read_json(tmp_path / "search.json")
        return Page(write_report(made.write_output(tmp_path / "output", **changes), search=trials))

    return report


HOT = {
    "cause": "learning_rate_too_high",
    "severity": "fatal",
    "sentence": "The learning rate is too high: the loss rose 12 times, 2 rules agree.",
    "advice": "Try a tenth of it.",
    "rules": ["Overfit", "LossNotDecreasing"],
}


def test_a_healthy_training_is_green_and_most_of_its_page_is_folded(write: Write) -> None:
    figures = {"Validation accuracy": "94.0 %", "Classes": "10"}
    page = write(history=made.history(figures=figures, facts={"Backbone": "lite2"}), search=made.search())
    assert page.text().startswith("No problem found Training report pipelines-abc-TrainWithDebugger-1 No problem found")
    page.says("21 rules watched: 0 found something, 21 found nothing.", "Validation accuracy 94.0 % Classes 10")
    page.says("What was trained Backbone lite2", at="facts")
    page.says("12 trials (Bayesian) looked for the highest validation:accuracy. The winner reached", at="search")
    assert '<header class="outcome good">' in page.source
    assert not re.search("What this report lacks|<details open", page.source)
    assert page.document["diagnosis"] == []
    rows = re.findall(r'<tr( class="winner")?><th scope="row" title="(tuning-\d+)">.*?</th><td>(.*?)</td>', page.source)
    assert (rows[0][0], rows[-1][2], len(rows)) == (' class="winner"', "–", 12), "the last one failed"


def test_the_worst_cause_is_the_headline_and_gives_the_page_its_colour(write: Write) -> None:
    sick = made.sick()
    hint = {**HOT, "severity": "hint", "sentence": "Steps wait for data.", "rules": ["AllZero"], "advice": ""}
    page = write(**sick | {"status": {**sick["status"], "diagnosis": [HOT, hint]}})
    assert '<header class="outcome bad">' in page.source
    assert "<title>The learning rate is too high</title>" in page.source
    told = "The learning rate is too high The loss rose 12 times, 2 rules agree. What to do Try a tenth of it. Overfit"
    page.says(f"{told} , LossNotDecreasing Steps wait for data.", "Stopped by rule Overfit at step 160")
    assert "by heart. Train for fewer epochs" not in page.text(), "one advice for what shares a cause"
    assert page.document["headline"] == "Stopped by rule Overfit"
    assert [found["cause"] for found in page.document["diagnosis"]] == ["learning_rate_too_high"] * 2
    ids = set(re.findall(r'id="([^"]+)"', page.source))
    assert {link.removeprefix("#") for link in page.links} - {"profile/torch/trace.json.gz"} <= ids


def test_rules_that_fired_show_when_why_and_what_to_do(write: Write) -> None:
    page = write(**made.sick())
    assert '<header class="outcome warn">' in page.source, "without a diagnosis each rule is a finding"
    when = "EVAL step 160, 4 s after the start Validation loss is 11 % above"
    why = "Looks for a validation loss well above the training loss"
    page.says(why, when, "4 more", "ratio_threshold = 0.1 fired at 160", at="rule-Overfit")
    page.says("ZeroDivisionError: float division by zero <b>", at="rule-MyRule")
    page.says("2 found something, 20 found nothing, 2 could not judge", "Overtraining Too little data: 4 epochs")
    assert "AllZero" not in page.text("found")
    fired = [made.fired(3, "It grew.", worker=f"worker_{n % 2}") for n in range(3)]
    page = write(status=made.status(made.rule("A", "IssuesFound", fired=fired, judged=1200), made.rule("B", judged=0)))
    page.says("worker_1, TRAIN step 3", "fired 3 × at 1,200 data points", at="rule-A")
    page.says("worker_0 A: 2 × worker_1 A: 1 ×", "B It saw no data.")


def test_a_running_training_says_so_and_loads_itself_anew(write: Write, tmp_path: Path) -> None:
    status = made.status(made.rule("Overfit", "InProgress"), state="running")
    live = {"replaced": {"history.json": None}, "status": status}
    page = write(**live)
    assert '<meta http-equiv="refresh" content="10">' in page.source
    page.says("No problem so far Running. 22 rules watched so far", "1 still watching")
    (tmp_path / "output/finished.json").write_text("{}")
    assert "refresh" not in write(**live).source


def test_where_the_time_goes_and_what_the_machine_did(write: Write) -> None:
    totals = {"StepCounts": {"TRAIN": 4000}, "StepMicroseconds": {"TRAIN": 110e6},
              "PhaseMicroseconds": {"Forward": 70e6, "DataWait": 40e6}}  # fmt: skip
    counters = [{"name": name, "ph": "C", "ts": 0, "args": found} for name, found in totals.items()]
    page = write(timeline=[*made.timeline(), *counters], system=made.system_lines(cores=64, gpus=8),
                 replaced={"profile/torch/trace.json.gz": "x"})  # fmt: skip
    steps = "4,000 training steps, of which the trace holds 400, took 27."
    page.says(steps, "Forward 63.6 % (70 s) Data wait 36.4 % (40 s)", at="time")
    assert re.search(r"mean p50 p95 p99 max Processor 64 devices [\d. ]+%", page.text("machine"))
    rows = {row["quantity"]: row for row in page.document["profile"]["utilisation"]}
    figures = rows["GPUUtilization"]["figures"]
    assert rows["GPUUtilization"]["devices"] == 8
    assert 40 <= figures["p50"] <= figures["p95"] <= figures["p99"] <= figures["max"] <= 70
    assert "../profile/torch/trace.json.gz" in page.links, "the trace lies beside the report"
    assert "What PyTorch spent processor time on, measured over 3 steps by its profiler" in page.text("operators")


def test_own_panels_are_shown_in_a_box_of_their_own(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "output/panels"
    folder.mkdir(parents=True)
    (folder / "<b>.html").write_text("<script>parent.document.title = 'taken'</script>\"'></iframe>")
    (folder / "heat.png").write_bytes(b"\x89PNG")
    (folder / "huge.png").write_bytes(bytes(5 << 20))
    (folder / "passwd.png").symlink_to("/etc/passwd")
    page = write()
    assert page.text("panels").startswith("Own panels <b>.html heat.png Left out, as too large or too many: huge.png")
    assert re.findall(r'<iframe sandbox="([^"]*)"', page.source) == ["allow-scripts"]
    assert "default-src 'none'" in page.source, "nor may a panel ask the network"
    assert "root:" not in page.source


def test_missing_and_damaged_files_and_losses_that_are_no_numbers_are_said(write: Write) -> None:
    page = write(replaced=dict.fromkeys(made.files()))
    assert "Nothing could be judged How it ended is not known." in page.text()
    page = write(replaced={"history.json": '{"ep', "rules/status.json": None, "rules/series.json": "[" * 100_000})
    page.says(
        "rules/status.json is missing, so the rules' verdicts are not known.", "history.json is damaged: it is not"
    )
    epochs = [made.epoch(1), *(made.epoch(n, train_loss=float("nan"), validation_loss=1e999) for n in (2, 3))]
    page = write(history=made.history(epochs=epochs, best_epoch=1, outcome="Failed", fine_tuning_from_epoch=3))
    assert "The training failed Failed." in page.text()
    assert page.source.count('<circle class="dot lost"') == 4
    assert page.text("learning").count("fine-tuning begins") == 3  # loss, accuracy and learning rate
    page = write(status=made.status() | {"rules": [made.rule("OverallSystemUsage")]})
    assert "Nothing could be judged" in page.text(), "a rule that only shows figures is none"
    page = write(history=made.history(epochs=[made.epoch(n, validation_f1=0.5) for n in (1, 2, 3)]))
    shown, _, folded = page.text("learning").partition("Loss by step")
    assert ("F1" in shown, "F1" in folded) == (False, True)


EVIL = "</section></script><script>alert('x')</script>\ud800\" onload='x'"


def test_texts_are_text_and_never_markup(write: Write) -> None:
    search = made.search()
    search["trials"][0]["hyperparameters"] = {EVIL: EVIL}
    told = dict.fromkeys(("reason", "job_name", "backbone", "debugger_trouble"), EVIL)
    page = write(
        history=made.history(**told, classes=[EVIL], warnings=[EVIL], figures={EVIL: EVIL}, facts={EVIL: EVIL}),
        status=made.status(
            made.rule(EVIL, "IssuesFound", rule=EVIL, fired=[made.fired(3, EVIL, mode=EVIL, worker=EVIL)], advice=EVIL,
                      note=EVIL, parameters={EVIL: EVIL}, traceback=EVIL,
                      evidence=made.evidence(title=EVIL, x_label=EVIL, y_label=EVIL,
                                             series=[{"name": EVIL, "x": [1, 2], "y": [3, 4]}] * 2,
                                             thresholds=[{"name": EVIL, "y": 3}])),
        ) | {"diagnosis": [dict.fromkeys(HOT, EVIL) | {"rules": [EVIL]}]},
        series={"gradients": {EVIL: {"step": [1, 2], "abs_mean": [1, 2]}}},
        operators={"device": "cpu", "steps": [1], "operators": [{"name": EVIL, "calls": 1, "self_cpu_us": 5}]},
        search=search,
    )  # fmt: skip
    assert page.text().count("alert") > 12
    assert page.source.count("<script>") == 1


WRONG: tuple[Any, ...] = (None, 7, "text", [], [[]], {}, {"a": [None, {"b": 1}]}, True, 1e999, 10**400)


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_members_of_the_wrong_kind_are_no_exception(write: Write, wrong: Any) -> None:
    history = dict.fromkeys((*made.history(), "figures", "facts", "warnings"), wrong)
    rules = [dict.fromkeys(made.rule("x"), wrong), wrong, {**made.rule("x"), "evidence": {"series": wrong}}]
    rules.append(made.rule("y", "IssuesFound", fired=[wrong], evidence={**made.evidence(), "thresholds": [wrong]}))
    write(
        history={**history, "epochs": [wrong, dict.fromkeys(made.epoch(1), wrong)]},
        status={"rules": rules, "observer": wrong, "diagnosis": [wrong, dict.fromkeys(HOT, wrong)]},
        series={"gradients": wrong, "weights": {"a": wrong}, "losses": {"TRAIN": wrong}},
        operators={"device": wrong, "steps": wrong, "operators": [wrong, {"name": wrong, "self_cpu_us": wrong}]},
        system=[json.dumps({"Type": wrong, "Timestamp": wrong, "Value": wrong}), json.dumps(wrong)],
        timeline=[wrong, {"ph": "X", "name": "Step:ModeKeys.TRAIN", "ts": wrong, "dur": wrong}],
        search={"trials": [wrong, {"hyperparameters": wrong, "objective": wrong, "name": wrong}]},
    )


def test_the_command_writes_both_files_quickly_and_a_mistake_is_a_sentence(tmp_path: Path) -> None:
    made.write_output(tmp_path / "output")

    def run(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-X", "importtime", "-m", "watch", "report", *words]
        environment = {**os.environ, "PYTHONPATH": str(STEPS)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        return done.returncode, done.stdout, done.stderr

    code, out, imported = run("output", "--out", "report")
    assert (code, out) == (0, "report/debugger.html\n")
    assert not re.search(r"\b(torch|smdebug|PIL)$", imported, re.MULTILINE)
    assert "none is not there" in run("none")[2]
    assert "--search none.json is missing" in run("output", "--search", "none.json")[2]
    started = time.process_time()
    write_report(tmp_path / "output", tmp_path / "report")
    assert time.process_time() - started < 0.6  # 0.1 where nothing else runs: it is written every ten seconds
