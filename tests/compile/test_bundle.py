"""Code bundles: only what a job imports, and the same bytes whenever and wherever they are made."""

import ast
import io
import sys
import tarfile
from pathlib import Path

import pytest

from pipeline.compile import bundle as bundles
from pipeline.compile.bundle import DEPLOY, SERVER, Bundle, bundle

JOBS = ["prepare.py", "trial.py", "train.py", "evaluate.py", "drift.py", "serve.py", "deploy.py"]


def imported(source: bytes) -> set[str]:
    """The first parts of the names of all imported modules."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(str(node.module).partition(".")[0])
    return names


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def forget() -> None:
    bundles.bundle.cache_clear()
    bundles.module_files.cache_clear()


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """A folder that stands for steps/, with entry points that import each other in a circle."""
    monkeypatch.setattr(bundles, "STEPS", tmp_path)
    forget()
    sources = {
        "main.py": "import os\nfrom root.one import shared\n",
        "other.py": "import root.one.shared\n",
        "root/__init__.py": "",
        "root/one/__init__.py": "",
        "root/one/shared.py": "def thing():\n    from root.two.deep import deep\n    return deep\n",
        "root/one/unused.py": "",
        "root/two/__init__.py": "",
        "root/two/deep.py": "import main\nimport json.decoder\n",
    }
    write(tmp_path, sources)
    yield tmp_path
    forget()


SHARED = ["root/__init__.py", "root/one/__init__.py", "root/one/shared.py", "root/two/__init__.py", "root/two/deep.py"]


def test_a_bundle_holds_what_its_entry_points_import_directly_or_not(steps):
    assert sorted(bundles.bundle("main.py").files) == ["main.py", *SHARED]
    assert sorted(bundles.bundle("other.py").files) == ["main.py", "other.py", *SHARED]


def test_templates_and_style_sheets_go_with_the_modules_that_name_them(steps):
    pages = {
        "root/one/shared.py": 'NAME = "page.html"\n',
        "root/one/page.html": '{% include "base/style.css" %}',
        "root/one/other.html": "",
        "base/style.css": "",
    }
    write(steps, pages)
    held = {"other.py", "root/__init__.py", "root/one/__init__.py", "root/one/shared.py"}
    assert set(bundles.bundle("other.py").files) == held | {"root/one/page.html", "base/style.css"}


def test_a_change_to_a_module_changes_only_the_bundles_that_hold_it(steps):
    before = bundles.bundle("main.py").digest, bundles.bundle("root/one/unused.py").digest
    (steps / "root/two/deep.py").write_text("import main\nimport json\n")
    forget()
    after = bundles.bundle("main.py").digest, bundles.bundle("root/one/unused.py").digest
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_job_that_is_observed_carries_the_observer_and_all_rules():
    held = bundles.bundle("watch/collect/observation.py").files
    watch = bundles.STEPS / "watch"
    rules = {path.relative_to(bundles.STEPS).as_posix() for path in (watch / "rules").glob("*.py")}
    assert {"watch/collect/observer.py", "watch/read/tensors.py", *rules} <= set(held)


def test_names_and_contents_make_the_digest():
    one = Bundle("a.py", {"a.py": b"1", "b.py": b"2"})
    assert one.digest == Bundle("a.py", {"b.py": b"2", "a.py": b"1"}).digest
    others = [{"a.py": b"2", "b.py": b"1"}, {"a.py": b"12", "b.py": b""}, {"a.py": b"1", "c.py": b"2"}]
    assert one.digest not in {Bundle("a.py", files).digest for files in others}


def test_a_bundle_is_one_archive_with_the_same_bytes_whenever_it_is_made():
    files = {"a.py": b"1", "classifier/b.py": b"2" * 300}
    one, other = (Bundle("a.py", dict(items)).archive() for items in (files.items(), reversed(files.items())))
    assert one == other
    with tarfile.open(fileobj=io.BytesIO(one), mode="r:gz") as archive:  # as the sagemaker-training toolkit opens it
        assert {member.name: archive.extractfile(member).read() for member in archive} == files


def rooms(found):
    """Entry points and packages that a bundle holds."""
    parts = [name.split("/") for name in found.files]
    return {part[0] if len(part) == 1 else "/".join(part[:-1]).removeprefix("classifier/") for part in parts} - {
        "classifier"
    }


def test_the_jobs_carry_what_they_run_and_no_more():
    assert rooms(bundle("prepare.py")) == {"prepare.py", "job", "data", "model", "preparation"}
    assert {"train.py", "watch/rules", "finetuning"} <= rooms(bundle("train.py"))
    assert {"serve.py", "serving", "model"} <= rooms(bundle(SERVER))
    assert {"evaluate.py", "evaluation", "model"} <= rooms(bundle("evaluate.py"))
    assert rooms(bundle(DEPLOY)) == {"deploy.py"}
    assert not {"prepare.py", "serve.py", "serving", "deploy.py"} & rooms(bundle("train.py"))
    assert not {"train.py", "watch/rules", "finetuning", "evaluation"} & rooms(bundle(SERVER))
    assert not {"prepare.py", "train.py", "deploy.py", "serving", "watch/rules"} & rooms(bundle("evaluate.py"))
    assert not {"train.py", "serving", "watch/rules", "evaluation", "watch/report"} & rooms(bundle("trial.py"))
    pages = {name for name in bundle("evaluate.py").files if not name.endswith(".py")}
    assert {"classifier/evaluation/report.html", "watch/report/style.css"} <= pages
    assert "classifier/drift/report.html" not in pages
    assert "classifier/serving/page.html" in bundle(SERVER).files


def test_a_job_carries_the_modules_that_it_starts_as_processes():
    started = {"classifier/model/predictor.py", "watch/collect/observer.py", "watch/report/report.py"}
    assert started <= bundle("train.py").files.keys()
    assert {"classifier/serving/worker.py", "classifier/model/predictor.py"} <= bundle(SERVER).files.keys()


@pytest.mark.parametrize("entry_point", JOBS)
def test_nothing_of_the_pipeline_package_is_imported_by_a_job(entry_point):
    for name, source in [each for each in bundle(entry_point).files.items() if each[0].endswith(".py")]:
        assert not imported(source) & {"pipeline", "run_pipeline", "steps", "tests"}, name


def test_the_deploy_function_needs_nothing_but_boto3():
    for name, source in bundle(DEPLOY).files.items():
        assert imported(source) <= set(sys.stdlib_module_names) | {"classifier", "boto3", "botocore"}, name
