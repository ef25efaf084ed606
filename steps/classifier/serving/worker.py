"""A worker of the endpoint: a process that reads images out of request bodies and runs the network.

Its arguments are SOCKET MODEL_DIR RUNTIME THREADS MAX_PIXELS; it answers what comes over the socket, and ends with it.
"""

import logging
import os
import select
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from classifier.data import images
from classifier.data.images import ImageError, ImageTooLarge, Pixels
from classifier.data.prepared_images import sample_files
from classifier.job.failures import StepError, run
from classifier.model.predictor import Predictor, disagreement, load_samples
from classifier.model.runtimes import load_runtime
from classifier.serving.content import LENGTHS, MEGABYTE, Head, Refusal, message, read_images, write

MAX_DECODING_MEGABYTES = 144  # of one image
JOB_SECONDS = 60  # SageMaker's limit for one invocation

Decoded = tuple[Head, list[Pixels]]  # a request's head and its images as crops (H, W, 3); a refusal has none


def crop(predictor: Predictor, image: bytes | Pixels) -> Pixels:
    """Prepare one image by the very functions that prepare those for training: (H, W, 3) uint8."""
    if not isinstance(image, bytes):
        return predictor.crop(images.from_pixels(image))
    opened = images.open_image(image, predictor.max_pixels)
    if (megabytes := images.decoding_bytes(opened) / MEGABYTE) > MAX_DECODING_MEGABYTES:
        raise ImageTooLarge(
            f"The image would take {megabytes:,.0f} MB to decode ({opened.width} x {opened.height} px), "
            f"but at most {MAX_DECODING_MEGABYTES} are accepted: send a smaller one."
        )
    return predictor.crop(images.decode_opened(opened, predictor.preprocess))


def decode(predictor: Predictor, head: Head, body: bytes) -> Decoded:
    """Return a request's images, or why it is refused."""
    began, crops, sent = time.perf_counter(), list[Pixels](), list[Any]()
    try:
        sent, several = read_images(head["content_type"], body)
        for image in sent:
            crops.append(crop(predictor, image))
        return {**head, "several": several, "decode_ms": 1000 * (time.perf_counter() - began)}, crops
    except Refusal as refusal:
        status, sentence = refusal.status, str(refusal)
    except ImageError as error:
        place = f"Image {len(crops) + 1} of {len(sent)}: " if len(sent) > 1 else ""
        status, sentence = 413 if isinstance(error, ImageTooLarge) else 400, f"{place}{error}"
    return {"status": status, "error": sentence}, []


def answers(predictor: Predictor, requests: list[Decoded]) -> Iterator[bytes]:
    """Run the network on the images of all requests and yield the messages that answer them."""
    began, size = time.perf_counter(), predictor.runtime.batch
    threads, crops = requests[0][0].get("threads", 1), [crop for _, found in requests for crop in found]
    batches = [np.stack(crops[start : start + size]) for start in range(0, len(crops), size)]
    rows = [row for batch in batches for row in predictor.probabilities(batch, threads)]
    infer_ms = 1000 * (time.perf_counter() - began)
    for head, found in requests:
        if not found:
            yield message(head, b"")
            continue
        own, rows = np.stack(rows[: len(found)]), rows[len(found) :]
        figures = {"status": 200, "decode_ms": head["decode_ms"], "infer_ms": infer_ms}
        figures |= {"best": own.argmax(axis=1).tolist(), "scores": own.max(axis=1).tolist()}
        yield message(figures, write(own, predictor.classes, head))


def load(model_dir: Path, name: str, threads: int, max_pixels: int) -> Predictor:
    """Load the model; raises StepError if it answers its samples otherwise, but for rounding, than in the training."""
    runtime = load_runtime(name, model_dir, threads)
    if difference := disagreement(runtime, load_samples(model_dir), rounding=runtime.rounding):
        raise StepError(f"The runtime {name} is not used: {difference}. Set deploy.runtime to auto or to another.")
    predictor = Predictor(model_dir, threads, runtime=runtime, max_pixels=max_pixels)
    for path in sample_files(model_dir)[:1]:
        try:
            predictor.predict([path.read_bytes()])
        except ImageError as error:
            raise StepError(f"The model does not answer for {path}: {error} Train it again.") from None
    return predictor


def receive(channel: socket.socket) -> tuple[Head, bytes]:
    """Wait for the server's next request; ends the process with the server."""
    if not (lengths := channel.recv(LENGTHS.size, socket.MSG_WAITALL)):
        os._exit(0)  # whatever threads the libraries have
    head, body = (channel.recv(length, socket.MSG_WAITALL) for length in LENGTHS.unpack(lengths))
    return orjson.loads(head), body


def main() -> None:
    warnings.simplefilter("ignore")  # of Pillow's and python-multipart's, on what clients send
    logging.disable()
    descriptor, model_dir, runtime, threads, max_pixels = sys.argv[1:]
    channel = socket.socket(fileno=int(descriptor))
    predictor = load(Path(model_dir), runtime, int(threads), int(max_pixels))
    channel.sendall(message({"ready": True}, b""))
    while True:
        requests = [receive(channel)]
        while len(requests) < predictor.runtime.batch and select.select([channel], [], [], 0)[0]:
            requests.append(receive(channel))
        signal.alarm(JOB_SECONDS)  # whose signal ends the process
        channel.sendall(b"".join(answers(predictor, [decode(predictor, *request) for request in requests])))
        signal.alarm(0)


if __name__ == "__main__":
    sys.exit(run(main))
