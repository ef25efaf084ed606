"""What the program says of itself: help, version, completion; and what it looks like on a terminal."""

import json
import os
import pty
import re
import shlex
import subprocess
import sys
import time

import pytest

import run_pipeline
from pipeline.cli import call
from pipeline.cli.app import load
from pipeline.cli.commands import COMMANDS, OPTIONS
from tests.local.samples import ROOT, command_line, definition, python_step, run_cli

HEAVY = {"boto3", "botocore", "numpy", "sagemaker", "torch", "yaml", "pydantic_core"}


def test_help_loads_nothing_that_takes_long():
    words = [sys.executable, "-X", "importtime", ROOT / "run_pipeline.py", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_within_80_columns_and_examples_that_parse(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run_pipeline.py"])
    assert run_pipeline.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert COMMANDS[name].does in " ".join(text.split())
    for example in COMMANDS[name].examples:
        assert f"  run_pipeline.py {name} {example}".rstrip() in text
        assert load(name, None).make_context(name, shlex.split(example))


def test_every_option_is_used(capsys):
    used = {parameter.name for name in COMMANDS for parameter in load(name, None).params}
    assert OPTIONS.keys() - used == set()


def test_version_and_completion(capsys):
    assert run_pipeline.main(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)
    words = {"COMP_WORDS": "image-pipeline sta", "COMP_CWORD": "1", "_IMAGE_PIPELINE_COMPLETE": "complete_bash"}
    program = "import sys; sys.argv = ['image-pipeline']; from pipeline.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | words, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert sorted(done.stdout.split()) == ["start", "status"]


def test_another_working_directory_uses_the_projects_own_files(tmp_path):
    assert (call.USUAL_CONFIG, call.USUAL_HOME) == (ROOT / "pipeline.yaml", ROOT / ".local")
    done = run_cli("models", "--home", tmp_path / "home", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "No version is registered in 'image-classification' yet.\n")
    assert list(tmp_path.iterdir()) == []


def on_a_terminal(*words: object, **environment: str) -> str:
    """Run a command on a terminal; return all that it wrote there."""
    main, other = pty.openpty()
    settings = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    settings |= {"TERM": "xterm", "COLUMNS": "80", **environment}
    process = subprocess.Popen(command_line(*words), stdin=other, stdout=other, stderr=other, env=settings)
    os.close(other)
    written, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            piece = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        written += piece
    os.close(main)
    assert process.wait(timeout=10) == 0
    return written.decode()


def test_a_terminal_shows_what_is_left_and_colours_unless_told_otherwise(tmp_path, nothing_is_left):
    home = ("--home", tmp_path / "home", "--pipeline", "p")
    path = tmp_path / "p.json"
    path.write_text(definition_text("print('working', flush=True); time.sleep(1.2)"))
    words = ("run", "--definition", path, "--name", "p", "--home", tmp_path / "home")
    assert "left" not in on_a_terminal(*words)
    again = on_a_terminal(*words)
    assert re.search(r"about \d s left", again)
    assert "\x1b[" in on_a_terminal("status", *home)
    plain = on_a_terminal("status", *home, NO_COLOR="1")
    assert "\x1b[" not in plain
    assert "Succeeded" in plain


def definition_text(code: str) -> str:
    return json.dumps(definition(python_step("One", f"import time; {code}")))
