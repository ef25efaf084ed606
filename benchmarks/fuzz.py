"""The endpoint's request path under random and mutated input.

    python benchmarks/fuzz.py                              5 minutes
    python benchmarks/fuzz.py --seconds 60 --seed 7
    python benchmarks/fuzz.py --seed 7 --case 1234         that request once more, and its answer

Random bytes as every content type, mutated images of every format, mutated documents, forms and arrays, and mutated
HTTP. Seed and number decide a request. No answer may be a 5xx and no worker may end; what gets such an answer is kept
in a file and named. Few clients at a time leave the queue short, so that a 503 would be a fault as well.
"""

import argparse
import asyncio
import base64
import io
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "steps"), str(Path(__file__).parent)]

from raw_client import Reply, ask, request  # noqa: E402 - found by the line above
from servers import Running, ours  # noqa: E402

from classifier.serving.content import ACCEPTED  # noqa: E402

CLIENTS = 8
PATIENCE_SECONDS = 1.0  # a mutated length may promise more than comes; then nobody answers for half a minute
SIDE = 48
MODES = ("RGB", "L", "P", "RGBA", "CMYK", "I;16", "1", "LA", "YCbCr")
FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif", "BMP": "image/bmp"}
FORMATS |= {"TIFF": "image/tiff"}
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
HEADERS = ("Content-Type", "Content-Length", "Transfer-Encoding", "Accept", "Expect", "Connection", "Host", "Upgrade")
VALUES = (
    "",
    "0",
    "-1",
    "99999999999999999999",
    "chunked",
    "gzip, chunked",
    "100-continue",
    "close",
    "h2c",
    "\x00",
    "é",
)
VALUES += ("application/json;verbose=1", "text/csv;q=nan", "*/*;q=1e999", 'multipart/form-data; boundary="', "a" * 9000)
TARGETS = ("/invocations", "/ping", "/metrics", "/execution-parameters", "/", "*", "http://x/invocations", "/%00", "/é")
METHODS = ("POST", "GET", "PUT", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PRI", "post", "M-SEARCH")


def main() -> None:
    """Builds a model, serves it, and prints what happened."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        from serving_model import build_model

        model_dir = Path(directory) / "model"
        model_dir.mkdir()
        build_model(arguments.backbone, model_dir)
        log = Path(directory) / "log"
        with ours(model_dir, log=log, INFERENCE_RUNTIME=arguments.runtime) as server:
            time.sleep(3)  # for all workers
            if arguments.case is not None:
                name, data = case(arguments.seed, arguments.case)
                reply = asyncio.run(ask(server.port, data, patience_seconds=PATIENCE_SECONDS))
                print(f"{name}: {data[:300]!r}\n{reply.status} {reply.body[:2000]!r}")
                return
            print(f"seed {arguments.seed}", flush=True)
            passed = fuzz(server, arguments)
        if not passed:
            print("\n".join(line for line in log.read_text().splitlines() if not line.startswith("{")))
    sys.exit(0 if passed and server.process.returncode == 0 else 1)


def fuzz(server: Running, arguments: argparse.Namespace) -> bool:
    """Send for so long; whether the server behaved."""
    answers: Counter[tuple[str, int]] = Counter()
    bad: list[str] = []
    numbers = iter(range(sys.maxsize))
    end = time.monotonic() + arguments.seconds

    async def client() -> None:
        while time.monotonic() < end:
            number = next(numbers)
            name, data = case(arguments.seed, number)
            reply = await ask(server.port, data, patience_seconds=PATIENCE_SECONDS)
            answers[name, reply.status] += 1
            if reply.status >= 500:
                bad.append(kept(name, number, data, reply, arguments.seed))

    async def clients() -> None:
        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    asyncio.run(clients())
    for (name, status), count in sorted(answers.items()):
        print(f"  {name:24} {status or 'none':>5} {count:8}")
    restarts = float(server.page("/metrics").partition("\nclassifier_worker_restarts_total ")[2].split()[0])
    alive = server.process.poll() is None
    print(*bad, sep="\n")
    print(f"{'PASS' if not bad else 'FAIL'}  {answers.total()} requests, {len(bad)} answered 5xx")
    print(f"{'PASS' if not restarts and alive else 'FAIL'}  {restarts:g} workers ended")
    return not bad and not restarts and alive


def kept(name: str, number: int, data: bytes, reply: Reply, seed: int) -> str:
    """Leave the request in a file; a line about it."""
    path = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{number}.bin"
    path.write_bytes(data)
    return f"  {name} --seed {seed} --case {number}: {reply.status} {reply.body[:200]!r}, see {path}"


# requests


def case(seed: int, number: int) -> tuple[str, bytes]:
    """The name of a kind and a request of it."""
    chance = Random(f"{seed}:{number}")
    name = chance.choice(list(KINDS))
    return name, KINDS[name](chance)


def random_bytes(chance: Random) -> bytes:
    content = chance.randbytes(chance.choice((0, 1, 16, 1000, 100_000)))
    return request(content, chance.choice(ACCEPTED) + chance.choice(("", "; boundary=b", "; charset=utf-8")))


def mutated_image(chance: Random) -> bytes:
    format_name, content = image(chance)
    return request(mutated(chance, content), chance.choice((FORMATS[format_name], "application/x-image")))


def mutated_array(chance: Random) -> bytes:
    shape = chance.choice(((8, 8), (8, 8, 3), (2, 8, 8, 3), (8, 8, 4), (0, 8), (8, 8, 1), (1,) * 9))
    buffer = io.BytesIO()
    kind = chance.choice((np.uint8, np.float32, bool, np.int64))
    np.save(buffer, np.zeros(shape, kind, order=chance.choice("CF")))
    return request(mutated(chance, buffer.getvalue()), "application/x-npy")


def mutated_document(chance: Random) -> bytes:
    file = base64.b64encode(mutated(chance, image(chance)[1])).decode()
    item = chance.choice((file, {"b64": file}, {"image": file}, None, 1, [file], {"data": [file]}, f"data:x,{file}"))
    document = chance.choice((item, [item] * 3, {"images": [item]}, {"instances": item}, {"image": item}, {}))
    text = json.dumps(document).encode()
    return request(mutated(chance, text) if chance.random() < 0.7 else text, "application/json")


def mutated_form(chance: Random) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n'
    form = (head + image(chance)[1] + b"\r\n") * chance.randrange(3) + b"--b--\r\n"
    return request(
        mutated(chance, form), chance.choice(("multipart/form-data; boundary=b", 'multipart/form-data; boundary="b"'))
    )


def mutated_head(chance: Random) -> bytes:
    head, blank, content = request(image(chance)[1]).partition(b"\r\n\r\n")
    return mutated(chance, head) + blank + content


def odd_head(chance: Random) -> bytes:
    content = image(chance)[1]
    headers = [f"{chance.choice(HEADERS)}: {chance.choice(VALUES)}" for _ in range(chance.randrange(5))]
    headers += chance.sample([f"Content-Length: {len(content)}", "Content-Type: image/jpeg"], chance.randrange(3))
    line = (
        f"{chance.choice(METHODS)} {chance.choice(TARGETS)} {chance.choice(('HTTP/1.1', 'HTTP/1.0', 'HTTP/2.0', ''))}"
    )
    return "\r\n".join([line, *headers, "", ""]).encode("latin-1") + content


def odd_chunks(chance: Random) -> bytes:
    head = b"POST /invocations HTTP/1.1\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    content, pieces = image(chance)[1], []
    while content:
        size = min(len(content), chance.randrange(1, 500))
        pieces.append(
            f"{size:x}{chance.choice(('', '', '', ';a=b', ' ', 'f'))}\r\n".encode() + content[:size] + b"\r\n"
        )
        content = content[size:]
    return head + b"".join(pieces) + chance.choice((b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"", b"-1\r\n\r\n"))


def pipelined(chance: Random) -> bytes:
    return b"".join(KINDS[chance.choice(list(KINDS))](chance) for _ in range(2))


KINDS: dict[str, Callable[[Random], bytes]] = {
    "random bytes": random_bytes,
    "mutated image": mutated_image,
    "mutated array": mutated_array,
    "mutated document": mutated_document,
    "mutated form": mutated_form,
    "mutated head": mutated_head,
    "odd head": odd_head,
    "odd chunks": odd_chunks,
    "several at once": pipelined,
}


def image(chance: Random) -> tuple[str, bytes]:
    """A small picture in any format and mode that has it, with options that take other paths of the decoders."""
    format_name = chance.choice(list(FORMATS))
    size = chance.randrange(1, SIDE), chance.randrange(1, SIDE)
    noise = Image.frombytes("RGB", size, chance.randbytes(3 * size[0] * size[1]))
    mode = chance.choice(MODES)
    picture = Image.new(mode, size, 7) if mode == "I;16" else noise.convert(mode)
    options = {"progressive": True} if format_name == "JPEG" and chance.random() < 0.3 else {}
    if format_name in ("GIF", "PNG", "WEBP", "TIFF") and chance.random() < 0.2:
        options = {"save_all": True, "append_images": [noise.convert("RGB")]}
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format_name, **options)
    except (OSError, ValueError, KeyError):  # the format lacks the mode
        buffer = io.BytesIO()
        noise.save(buffer, format_name)
    return format_name, buffer.getvalue()


def mutated(chance: Random, content: bytes) -> bytes:
    """A few of its bytes changed, taken away, repeated or put in."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place = chance.randrange(len(data) + 1)
        if chance.random() < 0.5:
            place = min(place, chance.randrange(64))  # headers decide most
        MUTATIONS[chance.randrange(len(MUTATIONS))](chance, data, place)
    return bytes(data)


def flip(chance: Random, data: bytearray, place: int) -> None:
    data[place : place + 1] = bytes([chance.randrange(256)])


def cut(chance: Random, data: bytearray, place: int) -> None:
    del data[place : place + chance.choice((1, 4, 100, len(data)))]


def repeat(chance: Random, data: bytearray, place: int) -> None:
    data[place:place] = data[place : place + chance.choice((1, 4, 100, 1000))] * chance.choice((1, 2, 50))


def insert(chance: Random, data: bytearray, place: int) -> None:
    data[place:place] = chance.randbytes(chance.choice((1, 4, 100)))


def number(chance: Random, data: bytearray, place: int) -> None:
    size = chance.choice((1, 2, 4))
    value = chance.choice(NUMBERS) & (256**size - 1)
    data[place : place + size] = value.to_bytes(size, chance.choice(("big", "little")))


MUTATIONS = (flip, flip, cut, repeat, insert, number, number)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only the request of this number")
    parser.add_argument("--backbone", default="resnet18", help="any timm network; a quick one lets more through")
    parser.add_argument("--runtime", default="onnxruntime", help="as deploy.runtime in pipeline.yaml")
    return parser.parse_args()


if __name__ == "__main__":
    main()
