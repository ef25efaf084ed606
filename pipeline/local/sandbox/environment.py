"""The environment of what runs in a job's place: what a container would have, and an answer to each AWS request.

A job's AWS clients find a region and worthless keys, so that botocore can build a request, which the guest's
`sitecustomize.py` then hands to the runner. Whatever passes that by (`python -I`, the SDK of another language) is told
to connect to a port of this machine where nobody listens.
"""

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.local.store.answers import Api, HttpRequest, Reply, RequestError

REGION = "us-east-1"
GUEST = Path(__file__).with_name("guest")
INSTALL = 'python3 -m pip install -q -r "$0" && exec "$@"'  # of a requirements file, before a program
JOB_VARIABLE = "LOCAL_JOB_FOLDER"  # tells the processes of a job from those of others, also of other homes
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
ALLOCATOR = {  # as in the images: glibc keeps freed memory, and PyTorch's next batch takes it without mapping it anew
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "MALLOC_ARENA_MAX": "1",
}
NO_PIP = "(none: in a job, `python -I -m pip` would change the user's environment; leave out -I)"
SOCKET_NAME = ".api.sock"  # in the job's tree
CHUNK_BYTES = 2**20
HEAD_LIMIT_BYTES, BODY_LIMIT_BYTES = 2**20, 5 * 2**30  # of a request; the second is S3's
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
        **ALLOCATOR,
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
    """Return whether this environment has what a requirements file asks for; of options and addresses, pip judges."""
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import InvalidRequirement, Requirement

    for line in file.read_text(errors="replace").splitlines() if file.is_file() else []:
        text = line.partition(" #")[0].strip()
        if not text or text.startswith("#"):
            continue
        try:
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate():
                continue
            if wanted.url or not wanted.specifier.contains(version(wanted.name), prereleases=True):
                return False
        except (InvalidRequirement, PackageNotFoundError):
            return False
    return True


@contextlib.asynccontextmanager
async def answered_requests(api: Api, folder: Path, packages: Path) -> AsyncIterator[None]:
    """Meanwhile, answer requests that come to the socket in a job's tree, and keep what its pip has installed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection carries one request and its reply, each a line of JSON and a body."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = json.loads(await reader.readline())
            if (body_bytes := head.pop("body_bytes")) > BODY_LIMIT_BYTES:
                return
            request = HttpRequest(**head, body=await reader.readexactly(body_bytes))
            head, reply = await asyncio.to_thread(reply_to, api, request, folder.parent / "home", packages)
            writer.write(json.dumps(head).encode() + b"\n")
            with reply.stream as body:
                while chunk := body.read(CHUNK_BYTES):
                    writer.write(chunk)
                    await writer.drain()
            await writer.drain()

    handle = os.open(folder, os.O_RDONLY)  # whose path may be longer than an address can be
    short = Path(f"/proc/self/fd/{handle}")
    path = (short if short.exists() else folder) / SOCKET_NAME
    try:
        async with await asyncio.start_unix_server(answer, path, limit=HEAD_LIMIT_BYTES):
            yield
    finally:
        os.close(handle)
        (folder / SOCKET_NAME).unlink(missing_ok=True)


def reply_to(api: Api, request: HttpRequest, home: Path, packages: Path) -> tuple[dict[str, Any], Reply]:
    """Return status and headers, or the code and message of a refusal; and the reply, whose body follows."""
    try:
        is_pip = request.service == "pip"
        reply = Reply(keep(home / ".installed", request.url, packages), {}, b"") if is_pip else api.answer(request)
    except RequestError as problem:
        return {"code": problem.code, "message": str(problem)}, Reply(problem.status, {}, b"")
    return {"status": reply.status, "headers": reply.headers}, reply


def keep(folder: Path, key: str, packages: Path) -> int:
    """Move what a job has installed to where others find it and no job can change it, unless the same is there.

    The job chooses the key and may have made links: nothing but a directory of its own is moved.
    """
    installed = folder / key
    is_own = re.fullmatch("[0-9a-f]{64}", key) and not folder.is_symlink() and not installed.is_symlink()
    if not is_own or not installed.is_dir() or (packages / key).exists():
        return 404
    installed.rename(packages / key)
    return 200
