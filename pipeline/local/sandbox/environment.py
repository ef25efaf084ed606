"""The environment of what runs in a job's place: what a container would have, and nothing else of the user's shell.

A job's AWS clients find a region and worthless keys, so that botocore can build a request, which the guest's
`sitecustomize.py` then hands to the runner. Whatever passes that by (`python -I`, the SDK of another language) is told
to connect to a port of this machine where nobody listens.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

REGION = "us-east-1"
GUEST = Path(__file__).with_name("guest")
INSTALL = 'python3 -m pip install -q -r "$0" && exec "$@"'  # of a requirements file, before a program
JOB_VARIABLE = "LOCAL_JOB_NAME"
SOCKET_VARIABLE = "LOCAL_API_SOCKET"  # where the guest finds who answers
INHERITED = (  # names; one that ends with _ is a prefix
    *("LANG", "LANGUAGE", "LC_", "TZ"),  # how texts and times are written
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_"),  # how many threads libraries start
    *("CUDA_", "NVIDIA_", "NCCL_", "LD_LIBRARY_PATH"),  # which devices there are, and their drivers
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"),  # whom downloads trust
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"),  # see `passes`
    *("PIP_FIND_LINKS", "PIP_NO_INDEX"),
)
AWS = {
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_MAX_ATTEMPTS": "1",
    "AWS_RETRY_MODE": "legacy",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
NO_PIP = "(none: in a job, `python -I -m pip` would change the user's environment; leave out -I)"
PIP_FILES = ("~/.config/pip/pip.conf", "~/.pip/pip.conf")


def guest_environment(own: Mapping[str, str], home: Path, store: Path | None = None) -> dict[str, str]:
    """The variables of a job, a function or a server, whose HOME is a directory of its own.

    What it is told itself (`own`) comes last, except that its PYTHONPATH begins with the guest's. With a `store`, pip
    keeps packages there, and `.packages` in HOME has links to them.
    """
    folders, programs, packages = [str(GUEST)], str(Path(sys.executable).parent), {}
    if store:
        folders.append(f"{home}/.packages")
        programs = f"{home}/.packages/bin{os.pathsep}{programs}"
        packages = {"LOCAL_PACKAGES": f"{home}/.packages", "LOCAL_PACKAGES_STORE": str(store)}
        packages["PIP_PYTHON"] = NO_PIP  # which pip itself refuses, wherever it was started without sitecustomize
    return {
        **{name: value for name, value in os.environ.items() if passes(name, value)},
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(home),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # as in the images: a stale copy could be run
        **pip_settings(),
        **AWS,
        **packages,
        **own,
        "PYTHONPATH": os.pathsep.join([*folders, *filter(None, [own.get("PYTHONPATH")])]),
    }


def passes(name: str, value: str) -> bool:
    """Whether a variable of the user's is the job's too; an address with a user's name and password is not."""
    known = name in INHERITED or name.upper() in INHERITED
    by_prefix = any(prefix.endswith("_") and name.startswith(prefix) for prefix in INHERITED)
    return (known or by_prefix) and not ("://" in value and "@" in value)


def pip_settings() -> dict[str, str]:
    """Where pip's own settings are, as its HOME is another: a private index is named there, not in the environment."""
    given = [os.environ.get("PIP_CONFIG_FILE", ""), *PIP_FILES]
    found = next((path for path in map(os.path.expanduser, filter(None, given)) if os.access(path, os.R_OK)), None)
    return {"PIP_DISABLE_PIP_VERSION_CHECK": "1", **({"PIP_CONFIG_FILE": found} if found else {})}


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
