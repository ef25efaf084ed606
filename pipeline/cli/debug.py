"""`debug`: what is wrong with a training, by `python -m watch judge` on its files."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Literal

from pipeline.cli.call import Call
from pipeline.cli.output import print_json
from pipeline.errors import PipelineError, ServiceError, UsageError
from pipeline.paths import STEPS

SECONDS_BETWEEN_DOWNLOADS = 5.0
FOUND, USAGE = 1, 2  # exit statuses of `watch judge`


def debug(
    call: Call,
    source: str,
    profiler: bool = False,
    rules_file: Path | None = None,
    fail_on: str | None = None,
    semantics: Literal["watch", "aws"] | None = None,
    report_folder: Path | None = None,
    to_the_end: bool = False,
) -> int:
    """Judge a run and print diagnosis, rules and report; return 1 if a rule of --fail-on has found something.

    What could not be judged is a UsageError, so that no refusal looks like a finding.
    """
    name = Path(source).resolve().name if Path(source).exists() else source.rstrip("/").rpartition("/")[2]
    options = {"--rules": rules_file, "--fail-on": fail_on, "--semantics": semantics}
    options["--out"] = report_folder or call.home / "reports" / f"debug-{name}"
    switches = {"--profiler": profiler, "--follow": to_the_end, "--json": call.as_json}
    words = [str(text) for name, value in options.items() if value is not None for text in (name, value)]
    words += [name for name, given in switches.items() if given]
    if Path(source).exists():
        return judge(call, source, Path(source), words)
    try:
        return judge_elsewhere(call, source, words, judged_anew=bool(rules_file or semantics or profiler))
    except ServiceError as problem:
        raise UsageError(str(problem)) from problem


def judge_elsewhere(call: Call, source: str, words: list[str], *, judged_anew: bool) -> int:
    """Judge a run of S3, or of a training job; what is on AWS is downloaded, as long as it is judged."""
    from pipeline.service.debug import download, find_run

    with tempfile.TemporaryDirectory(prefix="debug-") as scratch:
        clients, ended = call.open_clients(reads_only=True), threading.Event()
        home = call.home.resolve() if call.target == "local" else None
        run = find_run(clients, home, source, Path(scratch), judged_anew=judged_anew)

        def download_on() -> None:
            while not ended.wait(SECONDS_BETWEEN_DOWNLOADS):
                try:
                    download(clients, run)
                except PipelineError as problem:
                    print(problem, file=sys.stderr)

        if run.prefixes and run.folder == Path(scratch):
            download(clients, run)
            print(run.said, end="\n" if run.said else "", file=call.progress_stream)
            threading.Thread(target=download_on, daemon=True).start()
        try:
            return judge(call, source, run.folder, words)
        finally:
            ended.set()


def judge(call: Call, source: str, folder: Path, words: list[str]) -> int:
    """Run `watch judge` in a process of its own; what it prints is printed as it comes."""
    environment = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": str(STEPS)}
    command = [sys.executable, "-P", "-m", "watch", "judge", str(folder), *words]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout
            printed = [line if call.as_json else print(line, end="", flush=True) for line in process.stdout]
        errors.seek(0)
        problem = errors.read().strip().rpartition("\n")[2]
    if process.returncode == USAGE:
        raise UsageError(problem.replace(str(folder), source))
    if process.returncode not in (0, FOUND) or not printed:
        raise UsageError(f"{source} was not judged: {problem or f'exit status {process.returncode}'}")
    if call.as_json:
        print_json({**json.loads("".join(filter(None, printed))), "folder": source})
    return process.returncode
