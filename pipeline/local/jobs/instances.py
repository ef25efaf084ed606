"""The hosts of a job: as many processes as it has instances, each with an /opt/ml of its own.

The first host's tree and log are the job's; those of the second lie in `algo-2` within the job's directory. Where
/opt/ml can be mounted, hosts find each other by name, each at an address of its own on this machine's loopback.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from pipeline.local.jobs.runtime import Runtime
from pipeline.local.sandbox.process import Exit, JobDirectory, JobProcess

NETWORK_INTERFACE = "lo"
PORTS_LOCK = "\0sagemaker-local-hosts"  # an abstract socket: as wide as the ports are, and gone with its process
SECONDS_BETWEEN_TRIES = 0.2


def host_names(count: int) -> list[str]:
    """What SageMaker calls the hosts of a job."""
    return [f"algo-{number}" for number in range(1, count + 1)]


def host_directories(job_name: str, count: int, runtime: Runtime, *, isolated: bool = False) -> list[JobDirectory]:
    """A directory for each host, all with the same hosts file.

    A single host can be without network (EnableNetworkIsolation); several could not find each other then.
    """
    names = host_names(count)
    jobs = [runtime.job(job_name if name == names[0] else f"{job_name}/{name}") for name in names]
    for job in jobs:
        job.answered, job.network = not isolated, not isolated or count > 1
    if runtime.mount:
        own = [f"127.0.0.1 localhost {socket.gethostname()}"]
        own += [f"127.0.{number // 250 + 1}.{number % 250 + 1} {name}" for number, name in enumerate(names)]
        machine = Path("/etc/hosts")
        hosts = jobs[0].folder / "hosts"
        hosts.write_text("\n".join([*own, machine.read_text() if machine.is_file() else ""]))
        for job in jobs if machine.is_file() else ():
            job.hosts = hosts
    return jobs


async def run_hosts(
    processes: Sequence[JobProcess], limit_seconds: float, on_line: Callable[[str], None]
) -> tuple[JobDirectory, Exit]:
    """Run all at once; the one that ended last, or the first to fail, upon which the others are ended."""
    running = {asyncio.create_task(process.run(limit_seconds, on_line)): process.job for process in processes}
    try:
        while True:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                job, ended = running.pop(task), task.result()
                if not running or not succeeded(ended):
                    return job, ended
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def succeeded(ended: Exit) -> bool:
    """Whether a process ended by itself, and well."""
    return ended.code == 0 and ended.cause == "exited"


@contextlib.asynccontextmanager
async def use_of_ports(host_count: int) -> AsyncIterator[None]:
    """Wait until no other job of several hosts runs on this machine: their scripts meet at the same port."""
    with socket.socket(socket.AF_UNIX) as lock:
        while host_count > 1:
            try:
                lock.bind(PORTS_LOCK)
                break
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE:
                    raise
                await asyncio.sleep(SECONDS_BETWEEN_TRIES)
        yield
