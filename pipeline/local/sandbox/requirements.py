"""Requirements files of jobs. This environment stands for any image, and a job must not change it: what it lacks is
installed into the job's own tree, and only that.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipeline.local.sandbox.process import Command, JobDirectory

PACKAGES = "/opt/ml/packages"
INSTALL = 'file="$1"; shift; python3 -m pip install --disable-pip-version-check -q -t "$0" -r "$file" && exec "$@"'


def with_requirements(command: Command, file: str, job: JobDirectory) -> Command:
    """The command, preceded by the installation of what `file`, a path of the container, asks for in vain."""
    path = job.inside(file)
    lines = list(logical_lines(path.read_text(errors="replace"))) if path.is_file() else []
    missing = [line for line in lines if not is_option(line) and not is_satisfied(line)]
    if not missing:
        return command
    shorter = f".missing-{path.name}"  # beside the file, since what it says of files is relative to it
    path.with_name(shorter).write_text("\n".join([*filter(is_option, lines), *missing, ""]))
    found = command.environment.get("PYTHONPATH")
    environment = {**command.environment, "PYTHONPATH": f"{PACKAGES}:{found}" if found else PACKAGES}
    words = ["/bin/sh", "-c", INSTALL, PACKAGES, str(PurePosixPath(file).with_name(shorter)), *command.arguments]
    return Command(words, environment, command.folder)


def logical_lines(text: str) -> Iterator[str]:
    """The lines of a requirements file, without comments and blank ones."""
    for line in text.replace("\\\n", " ").splitlines():
        content = line.split(" #")[0].strip()
        if content and not content.startswith("#"):
            yield content


def is_option(line: str) -> bool:
    """Whether a line only says where packages come from; `-r other.txt` and `-e .` are requirements."""
    return line.startswith("-") and not line.startswith(("-r", "--requirement", "-e", "--editable"))


def is_satisfied(line: str) -> bool:
    """Whether this environment has what a line asks for; whatever is no name with versions, it has not."""
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate():
            return True
        return requirement.url is None and requirement.specifier.contains(version(requirement.name), prereleases=True)
    except (InvalidRequirement, PackageNotFoundError):
        return False
