"""Asks a server of its own thousands of odd things: `python benchmarks/fuzz_api.py --seconds 300 --seed 1`.

Requests of botocore's models, most with something wrong in them, and mere bytes. The status is 1 if an answer has a
status of 500 or more or does not come, if the server ends or writes a traceback, or if a file lies outside the home.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from functools import partial
from pathlib import Path
from random import Random
from socket import SHUT_WR, create_connection
from typing import Any

import botocore.session
from botocore.config import Config

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipeline.local.sagemaker.api import operations  # noqa: E402 - found by the line above

RAISED = re.compile(r"(?m)^  File .*\n(?:    .*\n)*[\w.]+(?:Error|Exception|Exit).*")  # where, and what
NAMES = ["one", "two"]
ROLE, PIPELINE = "arn:aws:iam::000000000000:role/any", "arn:aws:sagemaker:us-east-1:000000000000:pipeline/one"
TEXTS = [*NAMES, ROLE, PIPELINE, "s3://bkt/k", "s3://local/none/", "1", "text/csv", "rate(1 day)", "UTC", "a" * 32]
DEFINITION = {"Version": "2020-12-01", "Steps": [{"Name": "F", "Type": "Fail", "Arguments": {"ErrorMessage": "no"}}]}
ODD = json.loads(Path(__file__).with_name("fuzz_api.json").read_text())
KNOWN = {**ODD["members"], "PipelineDefinition": [json.dumps(DEFINITION), "{}", "[", "x"]}  # by the name of a member
GIVEN = {"{AnyRole}": ROLE, "{PipelineArn}": PIPELINE, "{Definition}": json.dumps(DEFINITION), "{Token}": "a" * 32}
SEEDS = [seed for seed in json.loads((ROOT / "tests/studio/answers.json").read_text()) if ":" not in seed[1]]
SEEN = re.compile(rb"arn:aws:sagemaker:[^\"<]+|(?<=<UploadId>)\w+|(?<=Token\": \")[^\"]+")  # to be asked for again
BODIES = [
    b"{", b"[" * 50_000, b'{"a":' * 50_000, b"null", b"\xff\xfe\x00", b"<a>" * 50_000, b"5\r\nhello\r\n0\r\n\r\n",
    b"zz\r\n", b"<!DOCTYPE a [<!ENTITY b '%s'>]><a>&b;</a>", b"Action=GetRole", b"\0" * 99, b'{"a": 1e999}',
]  # fmt: skip


class Maker:
    """Makes requests of the services' models."""

    def __init__(self, chance: Random, url: str) -> None:
        self.chance, self.host, self.caught, self.count = chance, url.removeprefix("http://"), [], 0
        self.texts, core = deque([*TEXTS], maxlen=60), botocore.session.Session()
        core.set_credentials("any", "thing")
        core.register("before-send", self.catch)
        settings = Config(parameter_validation=False, retries={"max_attempts": 0})
        make = partial(core.create_client, region_name="us-east-1", endpoint_url=url, config=settings)
        self.clients = {service: make(service) for service in operations()}
        self.choices = [(service, name) for service, names in operations().items() for name in names]

    def catch(self, request: Any, **rest: Any) -> None:
        """Keep a request and have its client fail."""
        self.caught.append(request)
        raise RuntimeError

    def value(self, shape: Any, name: str, depth: int = 0) -> Any:
        """A value of a shape, or now and then one that is none."""
        choose, kind, least = self.chance.choice, shape.type_name, shape.metadata.get("min", 0)
        if depth and self.chance.random() < 0.02:
            return choose([*ODD["values"], "x" * 70_000, "9" * 5000])
        if name in KNOWN:
            return choose(KNOWN[name])
        if kind == "structure":
            likely = 0.3 / (depth + 1)
            wanted = [n for n in shape.members if n in shape.required_members or self.chance.random() < likely]
            return {member: self.value(shape.members[member], member, depth + 1) for member in wanted}
        if kind in ("list", "map"):
            inner, most = shape.member if kind == "list" else shape.value, max(least, 2 if depth < 6 else 0)
            items = [self.value(inner, name, depth + 1) for _ in range(self.chance.randint(least, most))]
            return items if kind == "list" else {choose(NAMES): item for item in items}
        if kind == "string":
            pattern = re.sub(r"\\p\{\w+\}|\\z", "", shape.metadata.get("pattern", ".*"))
            texts = [text for text in shape.enum or self.texts if len(text) >= least and re.fullmatch(pattern, text)]
            return choose([text for text in texts if text in NAMES] * 9 + texts or NAMES)
        others = {"boolean": [True, False], "timestamp": [0, 1.7e9], "blob": [b"", b"content", b"UEsDBA=="]}
        return choose(others.get(kind, [max(1, least), 2, 7, 100]))

    def changed(self, value: Any, rate: float) -> Any:
        """A value that is filled in, with now and then something else in it."""
        is_gap = isinstance(value, str) and value[:1] == "{"
        if is_gap or self.chance.random() < rate:
            return GIVEN.get(str(value)) or self.chance.choice([*self.texts, *(() if is_gap else ODD["values"])])
        if isinstance(value, dict):
            return {key: self.changed(item, rate) for key, item in value.items()}
        return [self.changed(item, rate) for item in value] if isinstance(value, list) else value

    def request(self) -> tuple[bytes, bool]:
        """A request, and whether it is whole, so that an answer has to come."""
        while not self.caught:
            self.count += 1
            try:
                if (is_first := self.count <= len(SEEDS)) or self.chance.random() < 0.4:
                    service, name, seed = SEEDS[self.count - 1] if is_first else self.chance.choice(SEEDS)
                    members = self.changed(seed, 0 if is_first else 0.05)
                else:
                    service, name = self.chance.choice(self.choices)
                    shape = self.clients[service].meta.service_model.operation_model(name).input_shape
                    members = self.value(shape, "") if shape else {}
                getattr(self.clients[service], botocore.xform_name(name))(**members)
            except Exception:  # noqa: BLE001 - the one above, or what a client says to values that it cannot send
                continue
        sent = self.caught.pop()
        body = sent.body.read() if hasattr(sent.body, "read") else sent.body or b""
        texts = {key.lower(): v.decode("latin-1") if isinstance(v, bytes) else v for key, v in sent.headers.items()}
        headers = {"host": self.host, **{key: value for key, value in texts.items() if key not in ODD["framing"]}}
        content = bytearray(body.encode() if isinstance(body, str) else body)
        return self.spoiled(sent.method, sent.url.partition(self.host)[2] or "/", headers, content)

    def spoiled(self, method: str, path: str, headers: dict[str, str], content: bytearray) -> tuple[bytes, bool]:
        """The bytes of a request with something wrong, or nothing."""
        is_whole, choose, dice = (
            True,
            self.chance.choice,
            self.chance.randrange(120 if self.count > len(SEEDS) else 1) or 50,
        )
        if dice < 10 and content:
            content[self.chance.randrange(len(content))] = self.chance.randrange(256)
        elif dice < 15:
            content = bytearray(choose(BODIES))
        elif dice < 20:
            path = choose([path, ""]) + choose(ODD["paths"])
        elif dice < 25:
            path += ("&" if "?" in path else "?") + choose(ODD["queries"])
        elif dice < 30:
            method = choose(ODD["methods"])
        headers["content-length"] = str(len(content))
        if 30 <= dice < 40:
            name = choose(ODD["headers"] + ODD["framing"])
            headers[name], is_whole = choose(ODD["header values"]), name not in ODD["framing"]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *(": ".join(pair) for pair in headers.items()), "", ""])
        whole = head.encode("latin-1") + content
        cut = choose([whole[: self.chance.randrange(len(whole))], self.chance.randbytes(200)])
        return (cut, False) if dice == 99 else (whole, is_whole)


def status_of(port: int, content: bytes, *, is_whole: bool) -> tuple[str, bytes]:
    """The status of the answer, or what there was instead of one, and the beginning of the answer."""
    answer = b""
    try:
        with create_connection(("127.0.0.1", port), 30) as talk:
            talk.sendall(content)
            if not is_whole:
                talk.shutdown(SHUT_WR)
            while b"\r\n\r\n" not in answer and (piece := talk.recv(65536)):
                answer += piece
    except OSError as problem:
        answer = answer or repr(problem).encode()
    missing = f"none: {answer!r}" if is_whole else "as bytes"
    return answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else missing, answer


def ask(port: int, seconds: float, chance: Random) -> list[str]:
    """Ask for so long, print how often each status came, and return what went wrong."""
    maker, end = Maker(chance, f"http://127.0.0.1:{port}"), time.monotonic() + seconds
    counts, failures = Counter[str](), []
    while time.monotonic() < end and len(failures) < 30:
        content, is_whole = maker.request()
        status, answer = status_of(port, content, is_whole=is_whole)
        maker.texts += [text.decode() for text in SEEN.findall(answer)[:5] if status == "200"]
        counts[status] += 1
        if status.startswith(("5", "none")):
            failures.append(f"{status}: {content[:200]!r} ... {content[-600:]!r}")
    print(f"{counts.total()} requests:", ", ".join(f"{status} {counts[status]}" for status in sorted(counts)))
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-api-"))
    home, log, program = folder / "outer/home", folder / "log", [sys.executable, str(ROOT / "run_pipeline.py")]
    with log.open("w") as stream:
        server = subprocess.Popen([*program, "studio", "--no-open", "--home", home], stdout=stream, stderr=stream)
    try:
        while not (found := re.search(r"http://127.0.0.1:(\d+)", log.read_text())) and server.poll() is None:
            time.sleep(0.05)
        failures = ask(int(found[1]), options.seconds, Random(options.seed)) if found else ["The server did not start."]
        server.terminate()
        failures += [f"The server ended with {server.wait(30)}."] * (server.wait(30) != 0)
        failures += sorted(set(RAISED.findall(log.read_text())) or ["A traceback."] * ("Traceback" in log.read_text()))
        failures += [f"{path} lies outside the home." for path in home.parent.iterdir() if path != home]
    finally:
        server.kill()
        subprocess.run([*program, "teardown", "--yes", "--home", home], capture_output=True, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
