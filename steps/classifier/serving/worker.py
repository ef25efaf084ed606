"""A worker of the endpoint: a process that reads images out of request bodies and runs the network.

The server starts it as `python -m classifier.serving.worker SOCKET LOCK RUNTIME THREADS`. Over the socket go requests
and answers, each a line of JSON and as many bytes as that says. A worker that dies, on whatever input, takes nothing
but its own requests with it; when the server ends, its socket closes, and the worker ends too.
"""

import fcntl
import gc
import logging
import os
import queue
import resource
import socket
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from classifier.data import images
from classifier.data.images import ImageError, ImageTooLarge, Pixels
from classifier.data.prepared_images import sample_files
from classifier.job.failures import StepError, run
from classifier.model.predictor import Predictor
from classifier.model.runtimes import Runtime, load_runtime
from classifier.model.samples import Samples, disagreement
from classifier.serving.content import Head, Refusal, read_images, write
from classifier.serving.settings import MEGABYTE, Settings, read_settings

FREE_DECODING_BYTES = 48 * MEGABYTE  # a photograph of 12 megapixels; a costlier image waits for other costly ones
MAX_DECODING_BYTES = 144 * MEGABYTE
MEMORY_BYTES = 200 * MEGABYTE  # that a worker may take beyond what it has when it is ready, and four bodies
AHEAD = 4  # requests that a worker on a processor has at a time: the next is there when one is done
DECODERS = 16  # threads that decode for a GPU
TOO_MUCH = "The request needs more memory than one may have: send a smaller image."

Rows = npt.NDArray[np.float32]


class Worker:
    """Answers requests; costly images are decoded under a lock, a file's, one at a time in all workers."""

    def __init__(self, predictor: Predictor, lock: int) -> None:
        self.predictor, self._lock = predictor, lock

    def answer(self, head: Head, body: bytes) -> bytes:
        """The message that answers one; a refusal is an answer, too."""
        try:
            found, answer = self._prediction(head, body)
        except Refusal as refusal:
            found, answer = {"status": refusal.status, "error": str(refusal)}, b""
        except ImageError as error:
            found, answer = {"status": 413 if isinstance(error, ImageTooLarge) else 400, "error": str(error)}, b""
        except MemoryError:
            found, answer = {"status": 413, "error": TOO_MUCH}, b""
        return orjson.dumps({"id": head["id"], "bytes": len(answer), **found}) + b"\n" + answer

    def _prediction(self, head: Head, body: bytes) -> tuple[Head, bytes]:
        started = time.perf_counter()
        sent, several = read_images(head["content_type"], body)
        crops = np.stack([self._named_crop(sent, number) for number in range(len(sent))])
        decoded = time.perf_counter()
        size = self.predictor.runtime.batch
        batches = (crops[start : start + size] for start in range(0, len(crops), size))
        rows = np.concatenate([self.predictor.probabilities(batch, head["threads"]) for batch in batches])
        times = {"decode_ms": 1000 * (decoded - started), "infer_ms": 1000 * (time.perf_counter() - decoded)}
        found = {"status": 200, **times, "best": rows.argmax(axis=1).tolist(), "scores": rows.max(axis=1).tolist()}
        return found, write(rows, self.predictor.classes, head["accept"], several=several)

    def _named_crop(self, sent: list[Any], index: int) -> Pixels:
        """One image as the network's crop; in a list, a refusal names it."""
        try:
            return self.crop(sent[index])
        except ImageError as error:
            if len(sent) == 1:
                raise
            raise type(error)(f"Image {index + 1} of {len(sent)}: {error}") from None

    def crop(self, image: bytes | Pixels) -> Pixels:
        """One image, prepared by the very functions that prepare those for training: (H, W, 3) uint8."""
        if not isinstance(image, bytes):
            return self.predictor.crop(images.from_pixels(image))
        opened = images.open_image(image, self.predictor.max_pixels)
        cost = images.decoding_bytes(opened)
        if cost > MAX_DECODING_BYTES:
            raise ImageTooLarge(
                f"The image would take {cost / MEGABYTE:,.0f} MB to decode ({opened.width} x {opened.height} px), "
                f"but at most {MAX_DECODING_BYTES // MEGABYTE} are accepted: send a smaller one."
            )
        if cost > FREE_DECODING_BYTES:
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            return self.predictor.crop(images.decode_opened(opened, self.predictor.preprocess))
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)


class Batched:
    """A GPU's runtime: while it runs a batch, requests gather for the next; one that finds it idle runs at once."""

    def __init__(self, runtime: Runtime) -> None:
        self.batch, self.rounding, self._runtime = runtime.batch, runtime.rounding, runtime
        self._waiting: queue.SimpleQueue[tuple[Rows, Future[Rows]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def run(self, crops: Rows, threads: int) -> Rows:
        """Wait for the batch that holds these images, (N, 3, H, W) float32; N is at most `batch`."""
        future: Future[Rows] = Future()
        self._waiting.put((crops, future))
        return future.result()

    def _work(self) -> None:
        batch = [self._waiting.get()]
        while True:
            held = None
            while held is None and not self._waiting.empty():
                batch.append(self._waiting.get())
                held = batch.pop() if sum(len(crops) for crops, _ in batch) > self.batch else None
            try:
                rows = self._runtime.run(np.concatenate([crops for crops, _ in batch]), threads=1)
                ends = np.cumsum([len(crops) for crops, _ in batch])
                for (_, future), found in zip(batch, np.split(rows, ends[:-1]), strict=True):
                    future.set_result(found)
            except RuntimeError as error:  # of the device; each request fails, and the worker with it
                for _, future in batch:
                    future.set_exception(error)
            batch = [held or self._waiting.get()]


def load(settings: Settings, name: str, threads: int) -> Predictor:
    """The model; refused if it does not answer to the stored sample images as it did when it was trained.

    A runtime of less precision that was asked for may differ by its rounding; `auto` takes none that does.
    """
    runtime = load_runtime(name, settings.model_dir, threads)
    if difference := disagreement(runtime, Samples.load(settings.model_dir), rounding=runtime.rounding):
        raise StepError(f"The runtime {name} is not used: {difference}. Set deploy.runtime to auto or to another.")
    several = Batched(runtime) if runtime.batch > 1 else runtime
    return Predictor(settings.model_dir, threads, runtime=several, max_pixels=settings.max_pixels)


def prove(worker: Worker, model_dir: Path) -> None:
    """Answer a request for one of the model's own images before the first client's."""
    for path in sample_files(model_dir)[:1]:
        head = {"id": 0, "threads": 1, "content_type": "application/x-image", "accept": "*/*"}
        answer = orjson.loads(worker.answer(head, path.read_bytes()).partition(b"\n")[0])
        if answer["status"] != 200:
            raise StepError(f"The model does not answer for {path}: {answer['error']} Train it again.")


def limit_memory(more_bytes: int) -> None:
    """Let no input take more than that; what goes beyond fails with a MemoryError. Linux alone can."""
    if (status := Path("/proc/self/status")).exists():
        has_kilobytes = int(status.read_text().partition("VmData:")[2].split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = has_kilobytes * 1024 + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def serve(channel: socket.socket, worker: Worker, batch: int) -> None:
    """Answer one by one, until the server ends; for a GPU, threads decode, and what waits for it is one batch."""
    sending, pool = threading.Lock(), ThreadPoolExecutor(DECODERS) if batch > 1 else None

    def answer(head: Head, body: bytes) -> None:
        message = worker.answer(head, body)
        with sending:
            channel.sendall(message)

    with channel.makefile("rb", buffering=256 * 1024) as messages:
        for line in messages:
            head = orjson.loads(line)
            body = messages.read(head["bytes"])
            if pool:
                pool.submit(answer, head, body).add_done_callback(end_on_failure)
            else:
                answer(head, body)
    os._exit(0)  # whatever threads the libraries have


def end_on_failure(future: Future[None]) -> None:
    """A thread's fault is the process's, as it is without threads: the server replaces it."""
    if error := future.exception():
        traceback.print_exception(error)
        os._exit(1)


def main() -> None:
    warnings.simplefilter("ignore")  # of Pillow's and python-multipart's, on what clients send
    logging.disable()
    settings, channel = read_settings(os.environ), socket.socket(fileno=int(sys.argv[1]))
    worker = Worker(load(settings, sys.argv[3], int(sys.argv[4])), int(sys.argv[2]))
    prove(worker, settings.model_dir)
    batch = worker.predictor.runtime.batch
    if batch == 1:
        limit_memory(MEMORY_BYTES + 4 * settings.max_body_bytes)  # CUDA's own allocations come later
    gc.freeze()  # what has been loaded is not looked through again for garbage
    ready = {"ready": True, "bytes": 0, "batch": batch, "capacity": AHEAD if batch == 1 else 2 * batch}
    channel.sendall(orjson.dumps(ready) + b"\n")
    serve(channel, worker, batch)


if __name__ == "__main__":
    sys.exit(run(main))
