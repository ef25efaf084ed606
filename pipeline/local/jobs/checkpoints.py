"""A training job's checkpoints: restored before it starts, and copied to S3 while it runs, not at its end only.

As "Use checkpoints in Amazon SageMaker" in the guide has it: so a job that is lost, with its runner or alone, leaves
what it had reached to the one that is started in its place.
"""

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.sandbox.process import JobDirectory
from pipeline.local.store.storage import Storage, copy, files_below

DEFAULT_LOCAL_PATH = "/opt/ml/checkpoints"
INTERVAL_SECONDS = 1.0


class CheckpointError(PipelineError):
    """CheckpointConfig cannot be honoured here."""


class Checkpoints:
    """The directory that CheckpointConfig names, and its place in S3."""

    def __init__(self, config: Mapping[str, Any], job: JobDirectory, storage: Storage) -> None:
        """Read the configuration.

        Raises:
            CheckpointError: its LocalPath is not below /opt/ml.
        """
        local_path = config.get("LocalPath") or DEFAULT_LOCAL_PATH
        try:
            self.folder = job.inside(local_path)
        except ValueError:
            raise CheckpointError(
                f"CheckpointConfig.LocalPath {local_path!r} is not below /opt/ml, which is all that a job has here."
            ) from None
        self.uri = str(config["S3Uri"])
        self.storage = storage
        self.stored: dict[Path, tuple[int, int]] = {}  # file -> size and time of change of what S3 has
        self.lock = threading.Lock()  # the last upload comes after one that is still going on

    def restore(self) -> None:
        """Copy what an earlier job left; a job may write to these files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, file in self.storage.objects(self.uri):
            copy(file, self.folder / name)
        self.stored = {file: stamp(file) for file in files_below(self.folder)}

    def upload(self) -> None:
        """Copy what has changed; a file that is being written is copied again later."""
        with self.lock:
            for file in files_below(self.folder) if self.folder.is_dir() else ():
                changed = stamp(file)
                if self.stored.get(file) != changed:
                    name = file.relative_to(self.folder).as_posix()
                    self.storage.write(f"{self.uri.rstrip('/')}/{name}", file.read_bytes())
                    self.stored[file] = changed

    async def keep_uploading(self) -> None:
        """Until the task is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                await asyncio.to_thread(self.upload)
            except FileNotFoundError:  # the script removes old checkpoints in between
                continue


def stamp(file: Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns
