"""Code bundles: only what a job imports, and the same bytes whenever and wherever they are made."""

import ast
import sys

import pytest

from pipeline import bundle as bundles
from pipeline.bundle import Bundle, deploy_bundle, evaluation_bundle, prepare_bundle, training_bundle

ALL = [prepare_bundle, training_bundle, evaluation_bundle, deploy_bundle]


def imported(source: bytes) -> set[str]:
    """The first parts of the names of all imported modules."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a flat module has no relative imports"
            names.add(str(node.module).partition(".")[0])
    return names


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """A folder that stands for steps/, with entry points that import each other in a circle."""
    monkeypatch.setattr(bundles, "STEPS", tmp_path)
    bundles.bundle.cache_clear()
    sources = {
        "main.py": "import os\nfrom shared import thing\n",
        "shared.py": "def thing():\n    import deep\n    return deep\n",
        "deep.py": "import main\nimport json.decoder\n",
        "other.py": "import shared\n",
        "unused.py": "",
    }
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    yield tmp_path
    bundles.bundle.cache_clear()


def test_a_bundle_holds_what_its_entry_points_import_directly_or_not(steps):
    assert sorted(bundles.bundle("main.py").files) == ["deep.py", "main.py", "shared.py"]
    assert sorted(bundles.bundle("main.py", "other.py").files) == ["deep.py", "main.py", "other.py", "shared.py"]


def test_a_change_to_a_module_changes_only_the_bundles_that_hold_it(steps):
    before = bundles.bundle("main.py").digest, bundles.bundle("unused.py").digest
    (steps / "deep.py").write_text("import main\nimport json\n")
    bundles.bundle.cache_clear()
    after = bundles.bundle("main.py").digest, bundles.bundle("unused.py").digest
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_package_is_held_whole_with_what_its_modules_import(steps):
    (steps / "package/inner").mkdir(parents=True)
    (steps / "package/__init__.py").write_text("")
    (steps / "package/one.py").write_text("import os\n")
    (steps / "package/loaded_by_name.py").write_text("from shared import thing\n")
    (steps / "package/inner/__init__.py").write_text("")
    (steps / "package/notes.txt").write_text("no code")
    (steps / "user.py").write_text("from package.one import anything\n")
    held = bundles.bundle("user.py")
    assert sorted(held.files) == [
        "deep.py",
        "main.py",
        "package/__init__.py",
        "package/inner/__init__.py",
        "package/loaded_by_name.py",
        "package/one.py",
        "shared.py",
        "user.py",
    ]


def test_a_job_that_is_observed_carries_the_observer_and_all_rules():
    held = bundles.bundle("observation.py").files
    rules = {path.relative_to(bundles.STEPS).as_posix() for path in (bundles.STEPS / "rules").glob("*.py")}
    assert {"observer.py", "saved_tensors.py", "tensor_record.py", *rules} <= set(held)


def test_names_and_contents_make_the_digest():
    one = Bundle("a.py", {"a.py": b"1", "b.py": b"2"})
    assert one.digest == Bundle("a.py", {"b.py": b"2", "a.py": b"1"}).digest
    others = [{"a.py": b"2", "b.py": b"1"}, {"a.py": b"12", "b.py": b""}, {"a.py": b"1", "c.py": b"2"}]
    assert one.digest not in {Bundle("a.py", files).digest for files in others}


def test_a_bundle_is_stored_as_plain_files():
    found = Bundle("a.py", {"a.py": b"1", "b.py": b"2"})
    key = f"name/code/a-{found.digest}"
    assert found.key("name") == key
    assert found.objects("name") == {f"{key}/source/a.py": b"1", f"{key}/source/b.py": b"2"}


def test_the_jobs_carry_what_they_run_and_no_more():
    assert {"prepare.py", "images.py"} <= set(prepare_bundle().files)
    assert {"train.py", "serve.py", "worker.py", "runtime_trial.py", "predictor.py"} <= set(training_bundle().files)
    assert {"evaluate.py", "predictor.py"} <= set(evaluation_bundle().files)
    assert not {"train.py", "serve.py", "deploy.py"} & set(prepare_bundle().files)
    assert not {"prepare.py", "deploy.py"} & set(training_bundle().files)
    assert not {"prepare.py", "train.py", "deploy.py"} & set(evaluation_bundle().files)


@pytest.mark.parametrize("make", ALL)
def test_nothing_of_the_pipeline_package_is_imported_by_a_job(make):
    for name, source in make().files.items():
        assert not imported(source) & {"pipeline", "run_pipeline", "steps", "tests"}, name


def test_the_deploy_function_needs_nothing_but_boto3():
    own = {name.removesuffix(".py") for name in deploy_bundle().files}
    for name, source in deploy_bundle().files.items():
        assert imported(source) <= own | set(sys.stdlib_module_names) | {"boto3", "botocore"}, name
