"""Requirements files that a launcher installs before a job's program: see guest/job_pip.py for how."""

from pathlib import Path

from pipeline.local.sandbox.process import Command, JobDirectory

INSTALL = 'python3 -m pip install -q -r "$0" && exec "$@"'


def with_requirements(command: Command, file: str, job: JobDirectory) -> Command:
    """The command, preceded by the installation of `file`, a path of the container, unless all of it is there."""
    if are_met(job.inside(file)):
        return command
    return Command(["/bin/sh", "-c", INSTALL, file, *command.arguments], command.environment, command.folder)


def are_met(file: Path) -> bool:
    """Whether this environment has what a requirements file asks for, if there is one."""
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    return all(is_satisfied(line.split(" #")[0].strip()) for line in lines)


def is_satisfied(line: str) -> bool:
    """Whether this environment has what a line asks for; of options and addresses, pip is to judge."""
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import InvalidRequirement, Requirement

    if not line or line.startswith("#"):
        return True
    try:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate():
            return True
        return requirement.url is None and requirement.specifier.contains(version(requirement.name), prereleases=True)
    except (InvalidRequirement, PackageNotFoundError):
        return False
