"""The source code of a job as a content-addressed archive: the same bytes, the same URI.

A bundle holds a script of `steps/` and the modules of `classifier` and `watch` that it imports, no more, so that a
change to one step leaves the cache of the others alone. The debugger's rules are loaded by name: a bundle holds all or
none. With a module go the templates, style sheets and scripts that it names.
"""

import functools
import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.paths import STEPS

DEPLOY, DESCRIBE_INPUTS = "deploy.py", "describe_inputs.py"  # the Lambda functions
SERVER = "serve.py"  # of the inference image
ARCHIVE = "source.tar.gz"
PROCESSING = "/opt/ml/processing"
CODE = f"{PROCESSING}/input/code"  # as root, which containers of jobs run as, a job may write there
FILE_TIME = 315532800  # of every file in an archive, seconds since 1970: the year 1980, where .zip files begin
PAGE = re.compile(r'"([\w/]+\.(?:html|css|js))"')
LOADED_BY_NAME = "watch/rules"
# Not parsed, which takes ten times as long: at worst, what looks like an import in a text brings a file along.
IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+)?import[ \t]+(\([^)]*\)|[^\n]*)", re.MULTILINE)
STARTED = re.compile(r'\bmodule_command\("([\w.]+)"')


@dataclass(frozen=True)
class Bundle:
    """Files of one job, by name, with the script that starts it."""

    entry_point: str
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over names and contents."""
        return digest(self.files)

    def key(self, pipeline_name: str) -> str:
        """The S3 key below which the bundle's archive is stored."""
        return f"{pipeline_name}/code/{self.entry_point.removesuffix('.py')}-{self.digest}"

    def archive(self) -> bytes:
        """Return all files as a .tar.gz whose bytes depend on nothing else."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, content in sorted(self.files.items()):
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(content), FILE_TIME
                tar.addfile(member, io.BytesIO(content))
        return gzip.compress(buffer.getvalue(), mtime=0)


def digest(files: Mapping[str, bytes]) -> str:
    """Return 16 hexadecimal digits over names and contents."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return total.hexdigest()[:16]


@functools.cache
def bundle(entry_point: str) -> Bundle:
    """Return the bundle of a script of `steps/` and all that it imports."""
    files: dict[str, bytes] = {}
    waiting = [entry_point]
    while waiting:
        name = waiting.pop()
        if name not in files:
            files[name] = (STEPS / name).read_bytes()
            text = files[name].decode()
            waiting += [*named_files(name, text), *(imported_files(text) if name.endswith(".py") else ())]
    return Bundle(entry_point, files)


def stored_bundle(entry_point: str, names: list[str]) -> Bundle:
    """Return a bundle whose files are known by their names: nothing is read for imports."""
    return Bundle(entry_point, {name: (STEPS / name).read_bytes() for name in names})


def processing_command(entry_point: str) -> list[str]:
    """Return what unpacks the input `code` where it lies, as the SDK's FrameworkProcessor does, and runs the script.

    The shell hands it the job's arguments. An item may have 256 characters (AWS API, AppSpecification).
    """
    command = f'tar -xzf {CODE}/{ARCHIVE} -C {CODE} && exec python3 {CODE}/{entry_point} "$@"'
    return ["/bin/sh", "-c", command, entry_point]


def imported_files(source: str) -> list[str]:
    """Return the files of `steps/` that a module imports, wherever it does, or starts as processes."""
    modules = set(STARTED.findall(source))
    for package, imported in IMPORT.findall(source):
        names = re.findall(r"[\w.]+", imported)
        modules |= {package, *(f"{package}.{name}" for name in names)} if package else set(names)
    return sorted(file for module in modules for file in module_files(module))


@functools.cache  # bundles share most modules
def module_files(module: str) -> frozenset[str]:
    """Return a module's file and its packages' `__init__.py`; nothing if it is no module of `steps/`."""
    parts = module.split(".")
    packages = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    found = {*(f"{package}/__init__.py" for package in packages), f"{packages[-1]}.py"}
    if LOADED_BY_NAME in packages:
        found |= {path.relative_to(STEPS).as_posix() for path in (STEPS / LOADED_BY_NAME).glob("*.py")}
    return frozenset(file for file in found if (STEPS / file).is_file())


def named_files(name: str, text: str) -> list[str]:
    """Return the templates, style sheets and scripts that a file names, from `steps/` or from beside itself."""
    places = (STEPS, (STEPS / name).parent)
    found = {place / file for file in PAGE.findall(text) for place in places}
    return sorted(path.relative_to(STEPS).as_posix() for path in found if path.is_file())
