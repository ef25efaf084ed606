"""Who may ask the server: this user's programs the API, a browser that was given the link the page.

The server listens on the loopback address alone, which leaves the machine's other users, pages of other sites in the
user's browser, and names of other sites that are made to lead here (DNS rebinding). So of each request are checked
the name that it was sent to (Host), whose page sent it (Origin, Sec-Fetch-Site), and for the API whose process it is,
for the page the cookie that the link with the token sets. The API's signatures prove nothing, since any credentials do.
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE = ("GET", "HEAD")
TOKEN = "token"
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))  # proc_net_tcp(5); IPv6 sockets reach 127.0.0.1 too
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-cache",
}
NO_TOKEN = "This page needs the token: open the link that `run_pipeline.py studio` has printed."


class Guard:
    """Hands a request to the API or to the page, if whoever sends it may ask."""

    def __init__(self, api: ASGIApp, page: ASGIApp, *, is_api: Callable[[Scope], bool], token: str, port: int) -> None:
        self.api, self.page, self.is_api, self.token, self.port = api, page, is_api, token, port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.page(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_api = self.is_api(scope)
        if sentence := foreign(scope, headers) or (not_ours(scope) if is_api else None):
            await PlainTextResponse(sentence, 403)(scope, receive, send)
        elif is_api:
            await self.api(scope, receive, send)
        else:
            await self.show(scope, receive, with_headers(send))

    async def show(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to the page: set the cookie for one that has the token, and ask for it otherwise."""
        request, cookie = Request(scope), f"studio-{self.port}"  # browsers send the cookies of all ports of a host
        query, answer = dict(request.query_params), self.page
        if request.method == "GET" and same(query.pop(TOKEN, ""), self.token):
            place = scope["path"].lstrip("/") + (f"?{urlencode(query)}" if query else "")
            answer = redirect = RedirectResponse(f"/{place}", 303)
            redirect.set_cookie(cookie, self.token, max_age=365 * 86400, httponly=True, samesite="strict")
        elif not same(request.cookies.get(cookie, ""), self.token):
            answer = PlainTextResponse(NO_TOKEN, 403)
        await answer(scope, receive, send)


def foreign(scope: Scope, headers: Headers) -> str | None:
    """Return why a request is another site's, if it is."""
    host, port = headers.get("host", ""), scope["server"][1]
    name = host.removesuffix(f":{port}")
    if name == host or not (name in ("127.0.0.1", "localhost") or name.endswith(".localhost")):
        return f"The Host of a request must be 127.0.0.1:{port} or localhost:{port}."
    is_other_site = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    if (
        set(headers.getlist("origin")) - {f"http://{host}"}
        or len(headers.getlist("host")) > 1
        or (is_other_site and scope["method"] not in SAFE)
    ):
        return "A page of another site has sent this request."
    return None


def not_ours(scope: Scope) -> str | None:
    """Return why a request to the API is another user's, or a page's, if it is; on Linux the kernel knows its user."""
    if Headers(scope=scope).get("sec-fetch-site", "none") != "none":
        return "A browser's page has sent this request."
    (_, peer), (_, own) = scope["client"] or ("", 0), scope["server"]  # no client: it has reset the connection
    if not TABLES[0].exists():
        return None
    found = owners(peer, own) or owners(peer, own)  # a read may pass over a line while others come and go
    if found and all(is_open and user in (0, os.getuid()) for user, is_open in found):
        return None
    return "The API answers the user alone who has started the server, while the connection is open."


def owners(peer: int, own: int) -> list[tuple[int, bool]]:
    """Return the users of all sockets between two ports, and whether each is open: one that is closed says user 0."""
    lines = [line.split() for table in TABLES if table.exists() for line in table.read_text().splitlines()[1:]]
    ours = [line for line in lines if line[1].endswith(f":{peer:04X}") and line[2].endswith(f":{own:04X}")]
    return [(int(line[7]), line[9] != "0") for line in ours]


def same(given: str, expected: str) -> bool:
    """Compare two tokens in a time that tells nothing."""
    return secrets.compare_digest(given.encode(errors="replace"), expected.encode())


def with_headers(send: Send) -> Send:
    """Return `send` that adds what browsers are to heed, where the answer says nothing else."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, text in HEADERS.items():
                headers.setdefault(name, text)
        await send(message)

    return send_with_headers
