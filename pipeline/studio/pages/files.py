"""Files of the home that pages show or link to: objects of S3, and reports. Nothing else of the machine.

Jobs have written them, so a browser treats each as of no site (CSP `sandbox`): what is in it can show itself, and ask
nobody anything.
"""

import mimetypes
import os
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from pipeline.studio.site import missing, render, studio

SANDBOX = (
    "sandbox allow-scripts allow-popups; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: 'self'; font-src data:; frame-ancestors 'self'"
)
SHOWN = ("text/html", "text/plain", "application/json", "image/")
SHOWN_NAMES = 1000  # of a folder
FOLDERS = {"objects": "s3", "reports": "reports"}  # of the home


def show_file(request: Request) -> Response:
    """Return a file below one of FOLDERS, or what a folder holds; no link and nothing that a link leads to."""
    kind, path = request.url.path.split("/")[1], request.path_params["path"]
    top = studio(request).target.home / FOLDERS[kind]
    file = top.joinpath(*(part for part in path.split("/") if part))
    if ".." in path.split("/") or not is_inside(file, top):
        raise missing(f"file {path!r}")
    if file.is_dir():
        with os.scandir(file) as entries:  # which ask the disk nothing of each file
            names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in entries)
        visible = [name for name in names if not name.startswith(".") and name.isprintable()]
        place = f"/{kind}/{path.strip('/')}"
        return render(request, "folder.html", place=place, names=visible[:SHOWN_NAMES], count=len(visible))
    media_type = mimetypes.guess_type(file.name)[0] or "text/plain"
    is_shown = media_type.startswith(SHOWN) and "svg" not in media_type
    return FileResponse(
        file,
        media_type=media_type if is_shown else "application/octet-stream",
        headers={"content-security-policy": SANDBOX, "cache-control": "no-cache"},
        filename=None if is_shown else file.name,
    )


def is_inside(file: Path, top: Path) -> bool:
    """Return whether there is a file or folder that lies where it seems to, below a folder."""
    try:
        return (file.is_file() or file.is_dir()) and file.resolve() == top.resolve() / file.relative_to(top)
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, links in a circle
        return False


ROUTES = [Route(f"/{kind}/{{path:path}}", show_file) for kind in FOLDERS]
