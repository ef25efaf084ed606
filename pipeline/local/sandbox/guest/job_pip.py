"""pip as a job has it: `python job_pip.py WORDS...`, which sitecustomize.py starts in place of any other.

This environment stands for the job's image, and jobs leave it as it is. pip itself says what it lacks (`install
--dry-run --report`) and installs exactly that into a folder of the job's, which the runner then keeps for others under
the requirements' content; in the job's own folder, which comes first on its path, each file of it gets a link. So what
is satisfied or has been installed before needs no network. Only what is in the job's own folder can be uninstalled.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import Distribution
from pathlib import Path

REAL = "LOCAL_REAL_PIP"  # set: sitecustomize.py lets pip be
ELSEWHERE = ("-t", "--target", "--prefix", "--root", "--dry-run", "--download-only", "-h", "--help")
WHERE_FROM = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--trusted-host", "--proxy", "--cert")
FLAGS = ("--no-index", "--pre", "--no-build-isolation", "-q", "--quiet", "--no-cache-dir")
STORE, OWN = Path(os.environ["LOCAL_PACKAGES_STORE"]), Path(os.environ["LOCAL_PACKAGES"])
INSTALLED = OWN.with_name(".installed")


def main(words: list[str]) -> int:
    """Do what pip is asked for; its exit code."""
    command = next((word for word in words if not word.startswith("-")), "")
    if command == "uninstall":
        return uninstall(words[words.index(command) + 1 :])
    if command == "install" and not any(word.split("=")[0] in ELSEWHERE for word in words):
        return install([word for word in words if word not in (command, "--user")])
    return pip(*words)


def pip(*words: str) -> int:
    """Run pip itself; its exit code."""
    own = {name: value for name, value in os.environ.items() if name != "PIP_PYTHON"}
    return subprocess.call([sys.executable, "-m", "pip", *words], env={**own, REAL: "1"})


def install(words: list[str]) -> int:
    """Make what is required part of the job's own folder."""
    digest = hashlib.sha256(f"{sys.version} {Path(sysconfig.get_path('purelib')).stat().st_mtime_ns}".encode())
    digest.update(" ".join(sorted(path.name for path in OWN.glob("*.dist-info"))).encode())
    add_content(words, Path.cwd(), digest)
    key = digest.hexdigest()
    lock = os.open(STORE, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # one job installs, the others wait; the lock of a killed one is free
    folder = next((place / key for place in (STORE, INSTALLED) if (place / key).is_dir()), INSTALLED / key)
    if folder.is_dir():
        print(f"Requirements already satisfied by what an earlier job installed: {folder}")
    elif code := fill(folder, words):
        return code
    elif was_kept(key):
        folder = STORE / key
    os.close(lock)
    for distribution in Distribution.discover(path=[str(folder)]):
        remove(distribution.metadata["Name"])
    shutil.copytree(folder, OWN, dirs_exist_ok=True, copy_function=link)
    return 0


def was_kept(key: str) -> bool:
    """Ask the runner to keep what is installed for other jobs."""
    from local_guest import ask  # type: ignore[import-not-found]

    head = {"service": "pip", "operation": "Keep", "method": "POST", "url": key, "headers": {}}
    try:
        return bool(ask(head, b"")[0].get("status") == 200)
    except OSError:  # nobody answers this job
        return False


def add_content(words: list[str], folder: Path, digest: "hashlib._Hash", depth: int = 0) -> None:
    """Add the words and what lies where they point to, with what a requirements file names in turn."""
    for word in words:
        digest.update(f"{word}\0".encode())
        path = folder / re.sub(r"^(-[rcef]|--[a-z-]+=|file://)", "", word)
        is_path = os.sep in word or word.startswith(".") or path.is_file()
        for file in sorted(path.rglob("*")) if path.is_dir() and is_path else [path]:
            if file.is_file():
                digest.update(file.read_bytes())
        if path.is_file() and path.suffix != ".whl" and depth < 5:
            add_content(path.read_text(errors="replace").split(), path.parent, digest, depth + 1)


def fill(folder: Path, words: list[str]) -> int:
    """Install what this environment lacks into a folder, which is there completely or not at all; pip's exit code."""
    INSTALLED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=INSTALLED) as name:
        report, content = Path(name, "report.json"), Path(name, "content")
        content.mkdir()
        if code := pip("install", "--dry-run", "--report", str(report), *words):
            return code
        missing = [source(item["download_info"]) for item in json.loads(report.read_text())["install"]]
        if missing and (code := pip("install", "--no-deps", "--target", str(content), *options(words), *missing)):
            return code
        content.rename(folder)
    return 0


def source(info: dict[str, dict[str, str]]) -> str:
    """What pip found, as an argument for pip."""
    url = str(info["url"])
    vcs = info.get("vcs_info")
    return f"{vcs['vcs']}+{url}@{vcs['commit_id']}" if vcs else url


def options(words: list[str]) -> list[str]:
    """Those that say where packages come from."""
    found = []
    for number, word in enumerate(words):
        if word in WHERE_FROM:
            found += words[number : number + 2]
        elif word in FLAGS or word.split("=")[0] in WHERE_FROM:
            found.append(word)
    return found


def uninstall(words: list[str]) -> int:
    """Remove what is in the job's own folder; say of the rest that it stays."""
    for name in [word for word in words if not word.startswith("-")]:
        if remove(name):
            print(f"Successfully uninstalled {name}")
        elif any(Distribution.discover(name=name)):
            print(f"Skipping {name}: it belongs to this environment, which a job does not change.")
        else:
            print(f"WARNING: Skipping {name} as it is not installed.")
    return 0


def remove(name: str) -> bool:
    """Remove a package from the job's own folder; whether it was there."""
    found = list(Distribution.discover(name=name, path=[str(OWN)]))
    for distribution in found:
        for file in distribution.files or []:
            Path(str(distribution.locate_file(file))).unlink(missing_ok=True)
        shutil.rmtree(str(distribution._path), ignore_errors=True)  # type: ignore[attr-defined]
    return bool(found)


def link(kept: str, own: str) -> None:
    """A link in place of a file."""
    Path(own).unlink(missing_ok=True)
    Path(own).symlink_to(kept)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
