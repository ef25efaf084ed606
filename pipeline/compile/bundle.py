"""The source code of a job as a content-addressed bundle: the same bytes, the same URI.

A bundle holds entry points of `steps/` and the modules of `classifier` that they import, no more, so that a change to
one step leaves the cache of the others alone. The debugger's rules are loaded by name: a bundle holds all or none.
With a module go the templates and style sheets that it names.
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
    """Files of one job, by name; the first entry point names the bundle."""

    entry_points: tuple[str, ...]
    files: dict[str, bytes]

    @property
    def entry_point(self) -> str:
        """The script that starts the job."""
        return self.entry_points[0]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over names and contents."""
        total = hashlib.sha256()
        for name in sorted(self.files):
            total.update(f"{name}\0{len(self.files[name])}\0".encode() + self.files[name])
        return total.hexdigest()[:16]

    def key(self, pipeline_name: str) -> str:
        """The S3 key below which the bundle is stored, as plain files in `source/`."""
        return f"{pipeline_name}/code/{self.entry_point.removesuffix('.py')}-{self.digest}"

    def objects(self, pipeline_name: str) -> dict[str, bytes]:
        """S3 key -> content of everything that has to be uploaded."""
        return {f"{self.key(pipeline_name)}/source/{name}": content for name, content in self.files.items()}


@functools.cache
def bundle(*entry_points: str) -> Bundle:
    """Return the bundle of the entry points and all that they import."""
    files: dict[str, bytes] = {}
    waiting = list(entry_points)
    while waiting:
        name = waiting.pop()
        if name not in files:
            files[name] = (STEPS / name).read_bytes()
            waiting.extend(named_files(name, files[name].decode()))
            if name.endswith(".py"):
                waiting.extend(imported_files(files[name]))
    return Bundle(entry_points, files)


def stored_bundle(entry_points: list[str], names: list[str]) -> Bundle:
    """Return a bundle whose files are known by their names: nothing is parsed."""
    return Bundle(tuple(entry_points), {name: (STEPS / name).read_bytes() for name in names})


def deploy_bundle() -> Bundle:
    """Return the code of the deploy Lambda function."""
    return bundle("deploy.py")


def inputs_bundle() -> Bundle:
    """Return the code of the Lambda function that an execution begins with."""
    return bundle("describe_inputs.py")


def imported_files(source: bytes) -> list[str]:
    """Return the files of `steps/` that a module imports, wherever it does, or starts as processes."""
    return sorted(file for name in imported_names(source) for file in module_files(PurePosixPath(*name.split("."))))


@functools.cache  # bundles share most modules
def imported_names(source: bytes) -> set[str]:
    """Return the modules that a module may import or start, and some names that are none."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "module_command":
            names.update(str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))
    return names


def module_files(module: PurePosixPath) -> set[str]:
    """Return a module's file and its packages' `__init__.py`; nothing if it is no module of `steps/`."""
    found = {f"{package}/__init__.py" for package in (module, *module.parents)} | {f"{module}.py"}
    if LOADED_BY_NAME in (module, *module.parents):
        found |= {path.relative_to(STEPS).as_posix() for path in (STEPS / LOADED_BY_NAME).glob("*.py")}
    return {file for file in found if (STEPS / file).is_file()}


def named_files(name: str, text: str) -> list[str]:
    """Return the templates and style sheets that a file names, from `classifier/` or from beside itself."""
    places = (STEPS / PACKAGE, (STEPS / name).parent)
    found = {place / file for file in PAGE.findall(text) for place in places}
    return sorted(path.relative_to(STEPS).as_posix() for path in found if path.is_file())
