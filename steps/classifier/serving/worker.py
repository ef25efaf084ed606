"""A worker of the endpoint: a process of its own that reads images out of request bodies and runs the network.

`serve.py` starts one for each core. Requests and answers travel over a socket, see frames.py. A worker that dies, on
whatever input, takes nothing but its own requests with it; when the server ends, its socket closes and it ends too.
"""

import fcntl
import gc
import io
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from classifier.data import sample_files
from classifier.data.images import (
    ImageError,
    ImageTooLarge,
    Pixels,
    decode_opened,
    decoding_bytes,
    from_pixels,
    open_image,
)
from classifier.job.failures import StepError, run
from classifier.model.predictor import Predictor
from classifier.model.runtimes import load_runtime
from classifier.model.samples import Samples, disagreement
from classifier.serving.accept import JSON, accepted_format
from classifier.serving.answers import write
from classifier.serving.batching import Batched
from classifier.serving.board import Board
from classifier.serving.borrowed import Borrowed
from classifier.serving.frames import Head, packed
from classifier.serving.inbox import Inbox, requests
from classifier.serving.payload import Part, read_payload
from classifier.serving.refusals import Refusal
from classifier.serving.worker_settings import WorkerSettings

MEGABYTE = 1024 * 1024
FREE_DECODING_BYTES = 48 * MEGABYTE  # a photograph of 12 megapixels; a costlier image waits for other costly ones
MAX_DECODING_BYTES = 144 * MEGABYTE
MEMORY_BYTES = 224 * MEGABYTE  # that a worker may take beyond what it has when it is ready
DECODERS = 16  # threads that decode for a GPU


class Worker:
    """Answers requests.

    Args:
        predictor: The model.
        lock: File descriptor that costly images are decoded under, one at a time in all workers.
    """

    def __init__(self, predictor: Predictor, lock: int) -> None:
        self.predictor = predictor
        self._lock = lock
        self._thread_lock = threading.Lock()
        self.before_costly: Callable[[], None] = lambda: None  # is told of an image that will take long

    def answer(self, head: Head, body: bytes) -> tuple[Head, bytes]:
        """The answer's head and body; a refusal is one, too."""
        try:
            return self._prediction(head, body)
        except Refusal as refusal:
            status, sentence = refusal.status, refusal.sentence
        except ImageTooLarge as error:
            status, sentence = 413, str(error)
        except ImageError as error:
            status, sentence = 400, str(error)
        except MemoryError:
            status, sentence = 413, "The request needs more memory than one may have: send a smaller image."
        return {"id": head["id"], "status": status}, json.dumps({"error": sentence}, ensure_ascii=False).encode()

    def _prediction(self, head: Head, body: bytes) -> tuple[Head, bytes]:
        started = time.perf_counter()
        payload = read_payload(head["content_type"], body)
        crops = np.stack([self._named_crop(payload.parts, number) for number in range(len(payload.parts))])
        decoded = time.perf_counter()
        size = self.predictor.runtime.batch
        batches = [
            self.predictor.probabilities(crops[start : start + size], head["threads"])
            for start in range(0, len(crops), size)
        ]
        rows = batches[0] if len(batches) == 1 else np.concatenate(batches)
        inferred = time.perf_counter()
        return {
            "id": head["id"],
            "status": 200,
            "decode_ms": 1000 * (decoded - started),
            "infer_ms": 1000 * (inferred - decoded),
            "best": rows.argmax(axis=1).tolist(),
            "scores": rows.max(axis=1).tolist(),
        }, write(rows, self.predictor.classes, accepted_format(head["accept"]), several=payload.several)

    def _named_crop(self, parts: list[Part], index: int) -> Pixels:
        """One image as the network's crop; in a list, a refusal names it."""
        try:
            return self.crop(parts[index])
        except ImageError as error:
            if len(parts) == 1:
                raise
            raise type(error)(f"Image {index + 1} of {len(parts)}: {error}") from None

    def crop(self, part: Part) -> Pixels:
        """One image, prepared by the very functions that prepare those for training: (H, W, 3) uint8."""
        if not isinstance(part, bytes):
            return self.predictor.crop(from_pixels(part))
        image = open_image(part, self.predictor.max_pixels)
        cost = decoding_bytes(image)
        if cost > MAX_DECODING_BYTES:
            raise ImageTooLarge(
                f"The image would take {cost / MEGABYTE:,.0f} MB to decode ({image.width} x {image.height} px), "
                f"but at most {MAX_DECODING_BYTES // MEGABYTE} are accepted: send a smaller one."
            )
        with self._alone(cost > FREE_DECODING_BYTES):
            return self.predictor.crop(decode_opened(image, self.predictor.preprocess))

    @contextmanager
    def _alone(self, costly: bool) -> Iterator[None]:
        """Wait until no other worker decodes a costly image; the lock ends with the process, if need be."""
        if not costly:
            yield
            return
        self.before_costly()
        with self._thread_lock:  # a file's lock is the process's
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._lock, fcntl.LOCK_UN)


def main() -> None:
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, signal.SIG_IGN)  # the server ends its workers when they have answered
    warnings.simplefilter("ignore")  # of Pillow's, on what clients send
    settings = WorkerSettings.from_argument(sys.argv[1])
    channel = socket.socket(fileno=settings.channel)
    worker = Worker(load(settings), settings.lock)
    prove(worker, Path(settings.model_dir))
    batch = worker.predictor.runtime.batch
    capacity = 1 if batch == 1 else 2 * batch
    if capacity == 1:
        limit_memory()  # CUDA's own allocations come later
    channel.sendall(packed({"ready": True, "capacity": capacity}, 0))
    gc.freeze()  # what has been loaded is not looked through again for garbage
    serve_one_by_one(channel, worker, Board(settings.board)) if capacity == 1 else serve_together(channel, worker)


def load(settings: WorkerSettings) -> Predictor:
    """The model; refused if it does not answer to the stored sample images as it did when it was trained.

    A runtime of less precision that was asked for may differ by its rounding; `auto` takes none that does.
    """
    model_dir = Path(settings.model_dir)
    runtime = load_runtime(settings.runtime, model_dir, settings.threads)
    predictor = Predictor(
        model_dir,
        settings.threads,
        runtime=runtime if runtime.batch == 1 else Batched(runtime),
        max_pixels=int(settings.max_image_megapixels * 1_000_000),
    )
    if difference := disagreement(runtime, Samples.load(model_dir), rounding=runtime.rounding):
        raise StepError(
            f"The runtime {settings.runtime} is not used: {difference}. Set deploy.runtime to auto or to another."
        )
    return predictor


def prove(worker: Worker, model_dir: Path) -> None:
    """Answer one real request before the first client's."""
    photos = sample_files.paths(model_dir)
    content = photos[0].read_bytes() if photos else grey_image(worker.predictor.preprocess.resize_to)
    head = {"id": 0, "threads": 1, "content_type": "application/x-image", "accept": JSON}
    answer, body = worker.answer(head, content)
    if answer["status"] != 200:
        raise StepError(f"The model does not answer for an image: {body.decode()}. Train it again.")


def grey_image(side: int) -> bytes:
    """A file for a model that carries none."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), "grey").save(file, "PNG")
    return file.getvalue()


def limit_memory() -> None:
    """Let no input take more than MEMORY_BYTES; what goes beyond fails with a MemoryError. Linux alone can."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return
    data_kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = data_kilobytes * 1024 + MEMORY_BYTES
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def serve_one_by_one(channel: socket.socket, worker: Worker, board: Board) -> None:
    """Requests of the server's, and in turn with them those of the connections that it lends."""
    inbox, borrowed = Inbox(channel), Borrowed(worker, channel, board)
    request = None
    while inbox.receive(wait=request is None and not borrowed):
        for lent in inbox.lent:
            borrowed.add(lent)
        inbox.lent.clear()
        if inbox.wanted_back:
            borrowed.give_back_all()
            inbox.wanted_back = False
        if request := inbox.next_request():
            head, body = worker.answer(*request)
            channel.sendall(packed(head, len(body)) + body)
        if borrowed:
            borrowed.serve_next(wait=request is None)


def serve_together(channel: socket.socket, worker: Worker) -> None:
    """For a GPU: threads decode, and what is waiting when the device becomes free is one batch."""
    sending = threading.Lock()

    def serve(request: tuple[Head, bytes]) -> None:
        head, body = worker.answer(*request)
        with sending:
            channel.sendall(packed(head, len(body)) + body)

    with ThreadPoolExecutor(DECODERS) as pool:
        for request in requests(channel):
            pool.submit(serve, request).add_done_callback(end_on_failure)


def end_on_failure(future: Future[None]) -> None:
    """A thread's fault is the process's, as it is with a single thread: the server replaces it."""
    if error := future.exception():
        traceback.print_exception(error)
        os._exit(1)


if __name__ == "__main__":
    sys.exit(run(main))
