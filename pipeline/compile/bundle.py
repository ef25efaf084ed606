"""The source code of a job as a content-addressed bundle: the same bytes, the same URI.

A bundle holds an entry point of `steps/` and the modules of `classifier` that it imports, no more, so that a change
to one step leaves the cache of the others alone. The debugger's rules are loaded by name: it holds all of them or none.
With a module go the templates and style sheets that it names.
It is stored as plain files, which every kind of job is given as an input.
"""

import ast
import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.paths import STEPS

PACKAGE = "classifier"
PAGE = re.compile(r'"([\w/]+\.(?:html|css))"')
LOADED_BY_NAME = PurePosixPath("classifier/watch/rules")


@dataclass(frozen=True)
class Bundle:
    """Files of one job, by name."""

    entry_point: str
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over names and contents."""
        total = hashlib.sha256()
        for name in sorted(self.files):
            total.update(f"{name}\0{len(self.files[name])}\0".encode() + self.files[name])
        return total.hexdigest()[:16]

    def key(self, pipeline_name: str) -> str:
        """The S3 key below which the bundle is stored."""
        return f"{pipeline_name}/code/{self.entry_point.removesuffix('.py')}-{self.digest}"

    def objects(self, pipeline_name: str) -> dict[str, bytes]:
        """S3 key -> content of everything that has to be uploaded."""
        return {f"{self.key(pipeline_name)}/source/{name}": content for name, content in self.files.items()}


@functools.cache
def bundle(*entry_points: str) -> Bundle:
    """The bundle of the entry points' modules; the first names the bundle."""
    files: dict[str, bytes] = {}
    waiting = list(entry_points)
    while waiting:
        name = waiting.pop()
        if name not in files:
            files[name] = (STEPS / name).read_bytes()
            waiting.extend(named_files(name, files[name].decode()))
            if name.endswith(".py"):
                waiting.extend(imported_files(files[name]))
    return Bundle(entry_points[0], files)


def imported_files(source: bytes) -> list[str]:
    """File names of the modules of `steps/` that a module imports, wherever it does, or starts as processes."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "module_command":
            names.update(str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))
    return sorted(file for name in names for file in _files(PurePosixPath(*name.split("."))))


def named_files(name: str, text: str) -> list[str]:
    """Templates, style sheets and pages that a module or a template names, from `classifier/` or from beside itself."""
    places = (STEPS / PACKAGE, (STEPS / name).parent)
    found = {place / file for file in PAGE.findall(text) for place in places}
    return sorted(path.relative_to(STEPS).as_posix() for path in found if path.is_file())


def _files(module: PurePosixPath) -> set[str]:
    """The module's file and its packages' `__init__.py`, relative to `steps/`; none if it is no module there."""
    found = {f"{package}/__init__.py" for package in (module, *module.parents)} | {f"{module}.py"}
    if LOADED_BY_NAME in (module, *module.parents):
        found |= {path.relative_to(STEPS).as_posix() for path in (STEPS / LOADED_BY_NAME).glob("*.py")}
    return {file for file in found if (STEPS / file).is_file()}


def prepare_bundle() -> Bundle:
    """Code of PrepareData."""
    return bundle("prepare.py")


def trial_bundle() -> Bundle:
    """Code of TuneHyperparameters."""
    return bundle("trial.py")


def training_bundle() -> Bundle:
    """Code of TrainWithDebugger; the server travels inside the model it will serve."""
    return bundle("train.py", "serve.py")


def evaluation_bundle() -> Bundle:
    """Code of EvaluateModel."""
    return bundle("evaluate.py")


def deploy_bundle() -> Bundle:
    """Code of the deploy Lambda function."""
    return bundle("deploy.py")
