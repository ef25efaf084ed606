"""Files that others read while they are written: replaced whole, or growing by whole lines, whatever the disk does."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from classifier.job.system import whole_file
from tests.steps.prepared_data import STEPS


def test_lines_are_appended_to_what_is_there_and_of_a_block_that_does_not_fit_the_whole_ones_stay(tmp_path: Path):
    script = f"""
import resource
from pathlib import Path
from watch.files import LineFile
path = Path({str(tmp_path / "a" / "b" / "lines")!r})
LineFile(path).close()
path.write_text("zero\\n")
file = LineFile(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (15, resource.RLIM_INFINITY))  # the file may not grow beyond it
file.append("one\\n")
for block in ("two\\nthree\\n", "four\\n"):
    try:
        file.append(block)
    except OSError as error:
        print(error.strerror, file.path.read_text().split(), file.size_bytes)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.append("five\\n")
print(file.path.read_text().split())
"""
    process = subprocess.run([sys.executable, "-c", script], cwd=STEPS, capture_output=True, text=True, check=True)
    assert process.stdout.splitlines() == [
        "File too large ['zero', 'one', 'two'] 13",
        "File too large ['zero', 'one', 'two'] 13",
        "['zero', 'one', 'two', 'five']",
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_nobody_sees_a_file_before_it_is_whole(tmp_path: Path, fails: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError, match="halfway") if fails else nullcontext(), whole_file(path) as file:
        file.write("new ö")
        file.flush()
        assert path.read_text() == "old"
        if fails:
            raise ValueError("halfway")
    assert (list(tmp_path.iterdir()), path.read_text()) == ([path], "old" if fails else "new ö")
