"""`audit`: labels that look wrong, outliers and near-duplicates among the images that an execution prepared.

steps/audit.py looks for them, a process of its own as job code is, in PrepareData's outputs: on this machine where they
lie, of an execution on AWS in copies.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.cli.execution_commands import found_execution
from pipeline.cli.invocation import Arguments, command
from pipeline.cli.report_command import REPORTS, open_in_browser
from pipeline.errors import ServiceError
from pipeline.paths import STEPS
from pipeline.service import control
from pipeline.service.aws_target import split_uri
from pipeline.service.batch_transform import objects
from pipeline.service.local_target import shown
from pipeline.service.predictor import in_threads
from pipeline.service.status import output_of
from pipeline.service.targets import Target

SCRIPT = STEPS / "audit.py"
OUTPUTS = ("train", "validation", "test", "embeddings", "manifest")  # of PrepareData
HTML_NAME, JSON_NAME, CSV_NAME = "audit.html", "audit.json", "corrections.csv"


def audit(arguments: Arguments) -> int:
    """Write the page and the file to correct; say where they are and what applies the corrections.

    Raises:
        ServiceError: PrepareData of the execution has not succeeded, or its outputs are gone or cannot be read.
    """
    target, arn = found_execution(arguments)
    name = arn.rpartition("/")[2]
    folder = Path(arguments.out or Path(arguments.home) / REPORTS / f"audit-{name}").resolve()
    with prepared(target, arn) as prepared_dir:
        write_report(prepared_dir, folder)
    document: dict[str, Any] = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
    page, corrections = folder / HTML_NAME, folder / CSV_NAME
    if arguments.json:
        print(json.dumps({"execution_arn": arn, **document, "report": str(page), "corrections": str(corrections)}))
        return 0
    opened = arguments.open and open_in_browser(page)
    print(f"{document['images']:,} images: {document['wrong']:,} labels look wrong")
    print(f"Page         {shown(page)}{'  (opened)' if opened else ''}")
    print(f"Corrections  {shown(corrections)}")
    kept = Path(arguments.config).resolve().with_name(CSV_NAME)  # `teardown` removes what is below the home
    print("\nNext")
    print(f"  {shlex.join(['cp', shown(corrections), shown(kept)])}")
    print("      and correct its column label: the right class, or - to leave an image out")
    print(
        f"  corrections: {CSV_NAME}\n      in the section data of {shown(kept.with_name(Path(arguments.config).name))}"
    )
    print(f"  {command(arguments, 'run')}\n      with the corrected labels")
    return 0


@contextmanager
def prepared(target: Target, execution_arn: str) -> Iterator[Path]:
    """A folder with PrepareData's outputs by name.

    Raises:
        ServiceError: the execution has none, or they are gone.
    """
    steps, name = control.steps(target, execution_arn), execution_arn.rpartition("/")[2]
    uris = {output: output_of(target, steps, output) for output in OUTPUTS}
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        for output, uri in uris.items():
            if uri is None:
                raise ServiceError(f"Execution {name} has not prepared any images yet, so there is nothing to audit.")
            names = [found for found in objects(target, f"{uri}/") if "/" not in found]
            if not names:
                raise ServiceError(f"What execution {name} has prepared, {uri}, is gone; run the pipeline again.")
            folder = Path(scratch) / output
            if target.name == "local":
                folder.symlink_to(Path(target.where(uri)).resolve())
            else:
                download(target, uri, names, folder)
        yield Path(scratch)


def download(target: Target, uri: str, names: list[str], folder: Path) -> None:
    """Copy objects below a prefix into a new folder."""
    folder.mkdir()
    (bucket, prefix), client = split_uri(uri), target.client("s3")
    with control.service_errors(f"read {uri}"):
        for _ in in_threads(lambda name: client.download_file(bucket, f"{prefix}/{name}", str(folder / name)), names):
            pass


def write_report(prepared_dir: Path, folder: Path) -> None:
    """steps/audit.py, by this interpreter.

    Raises:
        ServiceError: it failed, with the last line of what it said.
    """
    words = [sys.executable, "-P", str(SCRIPT), f"--prepared-dir={prepared_dir}", f"--report-dir={folder}"]
    environment = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": str(STEPS)}  # more would mostly wait in turns
    done = subprocess.run(words, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise ServiceError(f"Nothing was audited: {said}")
