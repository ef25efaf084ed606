"""README's section on AWS, followed line by line from an empty account, and back to one."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from account_server import served_account, small_photos

ROOT = Path(__file__).parents[2]
COPIED = ("run_pipeline.py", "pipeline", "steps", "containers")
SKIPPED = {
    "images build": "needs docker, podman or buildah; tests/images builds them",
    "images push": "needs what `images build` made, and a registry",
}
ANSWERS = {"infra": "yes\n", "teardown": "yes\n"}


def section(title: str) -> str:
    """A section of README."""
    text = (ROOT / "README.md").read_text()
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def commands() -> list[list[str]]:
    """The words of the section's commands, without their remarks."""
    lines = [line for line in section("AWS").splitlines() if line.startswith("    python ")]
    return [shlex.split(line, comments=True) for line in lines]


def test_the_commands_of_the_aws_section_work_in_their_order(tmp_path):
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    small_photos(tmp_path / "photos")
    shipped = (ROOT / "pipeline.yaml").read_text()
    assert shipped.count("  source: sample ") == 1
    (tmp_path / "pipeline.yaml").write_text(shipped.replace("  source: sample ", "  source: photos "))
    left = set(SKIPPED)
    with served_account() as account:
        for words in commands():
            assert words[:2] == ["python", "run_pipeline.py"]
            if (name := " ".join(words[2:4])) in SKIPPED:
                left.discard(name)
                continue
            done = subprocess.run(
                [sys.executable, *words[1:]],
                capture_output=True, text=True, input=ANSWERS.get(words[2], ""), cwd=tmp_path,
                env=account.environment, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        assert left == set()
        assert account.client("cloudformation").describe_stacks()["Stacks"] == []
        assert account.client("s3").list_buckets()["Buckets"] == []
        assert account.client("sagemaker").list_pipelines()["PipelineSummaries"] == []
        assert account.client("sagemaker").list_model_package_groups()["ModelPackageGroupSummaryList"] == []


def test_the_section_goes_from_an_empty_account_back_to_one():
    assert [words[2] for words in commands()] == [
        "cost", "infra", "images", "images", "run", "status", "models", "schedule", "cost", "teardown",
    ]  # fmt: skip
