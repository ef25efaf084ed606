"""`list`, `logs`, `explain-cache`, `compare` and `open`, of executions of small definitions."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.compile.bundle import Bundle
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from tests.local.samples import command_line, definition, python_step, wait_until

CACHED = {"CacheConfig": {"Enabled": True}}
DATA = "s3://local/data/{}"


def counting(code: str, data: str = "") -> dict[str, Any]:
    """A cached step with an input."""
    step = python_step("Count", code, **CACHED)
    if data:
        where = {"LocalPath": "/opt/ml/processing/input/data", "S3DataType": "S3Prefix", "S3InputMode": "File"}
        step["Arguments"]["ProcessingInputs"] = [
            {"InputName": "data", "S3Input": {"S3Uri": DATA.format(data), **where}}
        ]
    return step


@pytest.fixture
def run(cli, files) -> Any:
    """A function that runs a definition of steps as the pipeline `p` and returns the execution's name."""

    def start(*steps: dict[str, Any]) -> str:
        files(p_json=definition(*steps))
        document = json.loads(cli("run", "--definition", "p.json", "--name", "p", "--json").out)
        return str(document["execution_arn"].rpartition("/")[2])

    return start


@pytest.fixture
def look(cli) -> Any:
    """A function that runs a command about the pipeline `p` and returns its lines."""

    def lines(*words: str) -> list[str]:
        answer = cli(*words, "--pipeline", "p")
        assert answer.status == 0, answer.error
        return list(answer.out.splitlines())

    return lines


def test_executions_are_listed_newest_first_and_status_names_the_others(run, look):
    first, second = run(python_step("One", "pass")), run(python_step("One", "raise SystemExit(1)"))
    rows = [line.split() for line in look("list")]
    assert [row[:2] for row in rows] == [["EXECUTION", "STATUS"], [second, "Failed"], [first, "Succeeded"]]
    assert [row["execution"] for row in json.loads(look("list", "--last", "1", "--json")[0])] == [second]
    assert f"Others         {second} Failed" not in look("status", first)


def test_status_without_an_execution_names_the_others(run, cli):
    first = run(python_step("One", "pass"))
    run(python_step("One", "print()"))
    assert f"Others         {first} Succeeded" in cli("status", "--pipeline", "p").out


def test_the_log_is_the_failed_steps_unless_another_is_named(run, look, cli):
    first = run(python_step("One", "print('of one')"), python_step("Two", "print('of two'); raise SystemExit('no')"))
    run(python_step("Three", "print('of three')"))
    assert look("logs") == ["of three"]
    assert look("logs", "--of", first) == ["of two", "no"]
    assert look("logs", "One", "--of", first) == ["of one"]
    answer = cli("logs", "Tree", "--pipeline", "p")
    assert (answer.status, "Did you mean 'Three'?" in answer.error) == (2, True)


def test_a_running_log_is_followed_to_the_steps_end(files, look, nothing_is_left):
    files(p_json=definition(python_step("Slow", "import time; print('a', flush=True); time.sleep(1.5); print('b')")))
    words = command_line("run", "--definition", "p.json", "--home", "home")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: any("a" in log.read_text() for log in Path("home/jobs").glob("*/log.txt")))
        assert look("logs", "--follow") == ["a", "b"]
        assert process.wait(timeout=20) == 0


def test_why_a_step_ran_again_is_told_by_argument_input_and_file(run, look):
    storage = Storage(State(Path("home")))
    for name, content in {"old/a": "1", "old/b": "2", "new/a": "1", "new/b": "3", "same/a": "1", "same/b": "2"}.items():
        storage.write(DATA.format(name), content.encode())
    first = run(counting("print(1)", "old"))
    assert look("explain-cache")[1:] == ["Count: ran", "  no earlier execution has succeeded with it"]
    run(counting("print(1)", "same"))
    assert look("explain-cache")[1:] == [f"Count: reused, from execution {first}"]
    run(counting("print(2)", "new"))
    head, *reasons = look("explain-cache")[1:]
    assert head.startswith("Count: ran against execution ")
    assert any(line.startswith("  AppSpecification.ContainerEntrypoint: ") for line in reasons)
    assert any(line.endswith("1 file changed: b") for line in reasons), reasons
    time.sleep(1)  # S3 tells times in whole seconds
    storage.write(DATA.format("new/b"), b"in place")
    run(counting("print(2)", "new"))
    shown = look("explain-cache")
    assert any("1 file written since: b" in line for line in shown), shown
    for name, text in {"old/source.tar.gz": "1", "new/source.tar.gz": "2"}.items():
        storage.write(DATA.format(name), Bundle("a.py", {"a.py": b"", "b.py": text.encode()}).archive())
    run(counting("print(3)", "old/source.tar.gz"))
    run(counting("print(3)", "new/source.tar.gz"))
    assert any(line.endswith("1 file changed: b.py") for line in look("explain-cache"))
    run(python_step("Count", "print(2)"))
    assert "does not ask for caching" in look("explain-cache")[-1]


def test_two_executions_are_compared_by_what_differs(run, look, cli):
    first, second = run(counting("print(1)")), run(counting("print(1)"))
    assert look("compare", first, second)[0].split() == [first, second]
    assert look("compare", first, second)[1].split() == ["status", "Succeeded", "Succeeded"]
    assert [line.split()[-1] for line in look("compare", first, second) if line.startswith("*")] == ["reused"]
    answer = json.loads(cli("compare", first, second, "--json", "--pipeline", "p").out)
    assert [document["execution_arn"].rpartition("/")[2] for document in answer] == [first, second]


def test_there_is_nothing_to_open_without_reports(run, cli):
    run(python_step("One", "pass"))
    answer = cli("open", "--no-open", "--pipeline", "p")
    assert (answer.status, "no report and no endpoint yet" in answer.error) == (1, True)
