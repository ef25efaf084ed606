"""What becomes of memory that a network has used."""

import platform
import subprocess
import sys

import pytest

from tests.steps.prepared_data import STEPS

COUNT_FAULTS = """
import resource, sys, torch
from threading import Thread
sys.path.insert(0, sys.argv[1])
from classifier.job.allocator import keep_freed_memory
def work():
    for step in range(6):
        if step == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for megabytes in (256, 16, 40):
            torch.zeros(megabytes // 4, 1024, 1024).add_(1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
if sys.argv[2] == "keep":
    assert keep_freed_memory()
if sys.argv[3] == "thread":
    thread = Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_freed_memory_is_used_again_without_asking_the_system(where: str) -> None:
    faults = {}
    for how in ("keep", "usual"):
        words = [sys.executable, "-c", COUNT_FAULTS, str(STEPS), how, where]
        faults[how] = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert faults["keep"] < faults["usual"] / 10
