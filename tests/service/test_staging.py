"""Staging: named by content, uploaded once, compiled once; several processes at the same time included."""

import importlib.metadata
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.compile.compiler import Compiled
from pipeline.compile.placement import local_placement
from pipeline.errors import DataSourceError, DefinitionError
from pipeline.paths import STEPS
from pipeline.service import sources, staging
from pipeline.service.local_target import LocalTarget
from pipeline.service.staging import choose_data, compile_project, open_project, remember, upload

HERE = local_placement("deploy")
NOTHING = Compiled("{}", (), {})


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of what could be images."""
    folder = tmp_path / "My photos (2024)"
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/.hidden", ".cache/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def opened(tmp_path, images):
    """A function from the text of a pipeline.yaml to its project; the data source is the folder."""

    def open_text(text: str = "") -> staging.Project:
        path = tmp_path / "pipeline.yaml"
        path.write_text(f"data: {{source: '{images.name}'}}\n{text}")
        return open_project(path)

    return open_text


def target_of(project: staging.Project, home: Path) -> LocalTarget:
    return LocalTarget(project.config, home)


def stored(home: Path) -> list[str]:
    """Every file of the home's S3, unfinished ones too."""
    return sorted(path.relative_to(home / "s3/local").as_posix() for path in (home / "s3").rglob("*") if path.is_file())


def test_code_weights_and_data_are_stored_once_under_names_made_of_their_content(opened, tmp_path):
    project = opened()
    target = target_of(project, tmp_path / "home")
    compiled = compile_project(project, HERE)
    assert upload(project, target, compiled) > 3
    names = stored(tmp_path / "home")
    assert upload(project, target_of(project, tmp_path / "home"), compiled) == 0
    assert stored(tmp_path / "home") == names
    data = project.data_uri(HERE).removeprefix("s3://local/")
    assert data.startswith("image-classification/data/My-photos-2024-")
    assert [name for name in names if name.startswith(data)] == [
        f"{data}/cat/1.jpg",
        f"{data}/cat/2.jpg",
        f"{data}/dog/1.jpg",
    ]
    weights = project.weights_uri(HERE).removeprefix("s3://local/")
    assert f"{weights}/weights.json" in names
    code = [name.removeprefix("image-classification/code/") for name in names if "/code/" in name]
    jobs = {re.fullmatch(r"(\w+)-[0-9a-f]{16}/source\.tar\.gz", name)[1] for name in code}
    assert (jobs, len(code)) == ({"prepare", "trial", "train", "evaluate"}, 4)
    assert "image-classification/embedding-cache/tf_efficientnet_lite2/README" in names
    assert "image-classification/split-history/README" in names


def test_every_uri_of_the_definition_is_stored(opened, tmp_path):
    project = opened()
    target = target_of(project, tmp_path / "home")
    compiled = compile_project(project, target.placement)
    upload(project, target, compiled)
    uris = {text for text in json.dumps(json.loads(compiled.definition)).split('"') if text.startswith("s3://")}
    missing = [uri for uri in uris if not target.holds(uri)]
    assert sorted(uri.removeprefix("s3://local/image-classification/") for uri in missing) == [
        "champion",  # which the deploy function will write
        "evaluations",  # below which outputs will go
        "executions",
        "jobs/TrainWithDebugger",
        "jobs/TuneHyperparameters",
    ]


def test_a_changed_folder_is_another_data_set(opened, images):
    before = opened().data_uri(HERE)
    assert opened().data_uri(HERE) == before
    (images / "dog/.hidden").write_text("nobody sees it")
    assert opened().data_uri(HERE) == before
    (images / "dog/2.jpg").write_text("new")
    assert opened().data_uri(HERE) != before


def test_data_of_the_command_line_goes_beside_those_of_the_file(opened, tmp_path):
    project, other = opened(), tmp_path / "other"
    (other / "a").mkdir(parents=True)
    (other / "a/1.png").write_text("1")
    target = target_of(project, tmp_path / "home")
    chosen, _ = choose_data(target, project, sources.resolve(str(other)))
    upload(chosen, target, NOTHING)
    assert target.holds(chosen.data_uri(HERE))
    assert not target.holds(project.data_uri(HERE))
    elsewhere, _ = choose_data(target, project, sources.resolve("s3://bucket/prefix"))
    assert elsewhere.data_uri(HERE) == "s3://bucket/prefix"
    assert upload(elsewhere, target, NOTHING) == 0


def test_the_digits_are_written_once(opened, tmp_path, monkeypatch):
    target = target_of(opened(), tmp_path / "home")
    project, _ = choose_data(target, opened(), sources.Source("digits"))
    written = []
    monkeypatch.setattr(sources, "write_digits", lambda folder: written.append(folder) or _one_image(folder))
    assert upload(project, target, NOTHING) > upload(project, target, NOTHING) == 0
    assert len(written) == 1
    assert project.data_uri(HERE) == "s3://local/image-classification/data/sample-v1"


def _one_image(folder: Path) -> None:
    (folder / "0").mkdir(parents=True)
    (folder / "0/1.png").write_text("image")


def run_with(target, project, data: Path | str | None = None) -> tuple[str, str]:
    """What a run does about data: the URI that it uses, and what it says."""
    chosen, line = choose_data(target, project, sources.resolve(str(data)) if data else None)
    upload(chosen, target, NOTHING)
    remember(target, chosen)
    return chosen.data_uri(HERE), line


def test_a_pipeline_keeps_its_data_until_it_is_told_otherwise(opened, tmp_path):
    target, photos = target_of(opened(), tmp_path / "home"), tmp_path / "photos"
    (photos / "a").mkdir(parents=True)
    (photos / "a/1.png").write_text("1")
    configured, line = run_with(target, opened())
    assert "data.source" in line
    first, _ = run_with(target, opened(), photos)
    again, line = run_with(target, opened())
    assert first == again != configured and str(photos) in line and "as in the last run" in line
    (photos / "a/2.png").write_text("2")
    more, _ = run_with(target, opened())
    assert more != first and target.holds(f"{more}/a/2.png")
    photos.rename(tmp_path / "moved")
    gone, line = run_with(target, opened())
    assert gone == more and "gone" in line
    assert run_with(target, opened()) == (gone, line)
    (tmp_path / "other.yaml").write_text(f"data: {{source: {tmp_path / 'moved'}}}")
    changed, line = run_with(target, open_project(tmp_path / "other.yaml"))
    assert target.holds(f"{changed}/a/2.png") and "data.source" in line
    assert run_with(target, opened())[0] == configured
    run_with(target, opened(), "s3://bucket/prefix")
    assert run_with(target, opened())[0] == "s3://bucket/prefix"
    assert run_with(target, opened(), "digits") == run_with(target, opened(), "digits")


def test_data_that_are_gone_for_good_are_named(opened, tmp_path):
    target, photos = target_of(opened(), tmp_path / "home"), tmp_path / "photos.d"
    (photos / "a").mkdir(parents=True)
    (photos / "a/1.png").write_text("1")
    uri, _ = run_with(target, opened(), photos)
    shutil.rmtree(photos)
    shutil.rmtree(target.storage.path(uri))
    with pytest.raises(DataSourceError, match=r"photos\.d, are gone"):
        choose_data(target, opened(), None)


def test_files_that_cannot_be_read_are_left_out_and_listed(opened, tmp_path, images):
    (images / "cat/3.jpg").symlink_to("nowhere")
    (images / "cat/4.jpg").symlink_to("4.jpg")
    uri, line = run_with(target_of(opened(), tmp_path / "home"), opened())
    assert "left out: cat/3.jpg is a link that leads nowhere" in line and "and 1 more" in line
    listed = json.loads((tmp_path / "home/s3" / uri.removeprefix("s3://") / ".unreadable.json").read_text())
    assert list(listed) == ["cat/3.jpg", "cat/4.jpg"]


def test_a_copy_that_is_interrupted_leaves_nothing_and_a_file_that_vanishes_is_named(
    opened, tmp_path, images, monkeypatch
):
    target = target_of(opened(), tmp_path / "home")
    for problem, raised in (
        (KeyboardInterrupt(), KeyboardInterrupt),
        (FileNotFoundError(2, "", "a.jpg"), DataSourceError),
    ):

        def fail(source: Path, destination: Path, problem: BaseException = problem) -> None:
            destination.parent.mkdir(parents=True, exist_ok=True)
            raise problem

        monkeypatch.setattr("pipeline.service.local_target.copy", fail)
        with pytest.raises(raised):
            target.put_tree("s3://local/data/photos", images)
        assert not list((tmp_path / "home/s3/local").rglob("*photos*"))


def test_uploads_at_the_same_time_store_each_thing_once_and_whole(opened, tmp_path, images):
    for number in range(300):
        (images / f"dog/{number}.jpg").write_text(str(number))
    project, home = opened(), tmp_path / "home"
    counts: list[bool] = []
    targets = [target_of(project, home) for _ in range(4)]
    barrier = threading.Barrier(4)

    def run(target: LocalTarget) -> None:
        barrier.wait()
        counts.append(target.put_tree("s3://local/data", images))

    threads = [threading.Thread(target=run, args=[target]) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == [False, False, False, True]
    assert len(stored(home)) == 302
    (images / "dog/0.jpg").write_text("changed")
    assert (home / "s3/local/data/dog/0.jpg").read_text() == "0"


def test_a_definition_is_compiled_again_only_when_configuration_or_code_change(opened, tmp_path, images):
    kept = tmp_path / "kept"
    first = compile_project(opened(), HERE, kept)
    [file] = kept.iterdir()
    assert compile_project(opened(), HERE, kept) == first
    (images / "dog/new.jpg").write_text("new")
    [parameter] = [each for each in json.loads(compile_project(opened(), HERE, kept).definition)["Parameters"]
                   if each["Name"] == "InputDataUri"]  # fmt: skip
    assert parameter["DefaultValue"] == opened().data_uri(HERE) not in first.definition
    assert list(kept.iterdir()) == [file]
    file.write_text(first.to_json().replace("2020-12-01", "told from a new one by this"))
    assert "told from a new one" in compile_project(opened(), HERE, kept).definition
    changed = compile_project(opened("evaluation: {accuracy_threshold: 0.5}\n"), HERE, kept)
    assert changed.bundles == first.bundles
    assert changed.definition != first.definition
    assert len(list(kept.iterdir())) == 2


def test_a_compiled_definition_that_is_not_sound_is_not_kept(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.definition.check.check", lambda definition: ["Step 'A' is odd.", "Step 'B' too."])
    with pytest.raises(DefinitionError) as caught:
        compile_project(opened(), HERE, tmp_path / "kept")
    assert caught.value.problems == ["Step 'A' is odd.", "Step 'B' too."]
    assert not (tmp_path / "kept").exists()


def test_what_the_target_sets_up_is_written_once_and_whole(opened, tmp_path):
    project = opened("deploy: {local_idle_minutes: 2}\nregistry: {model_package_group: Photos}\n")
    target = target_of(project, tmp_path / "home")
    target.set_up(project.config)
    function: dict[str, Any] = target.state.get("Function", "image-classification-deploy") or {}
    script = Path(function["Folder"], "deploy.py")
    stamp = script.stat().st_mtime_ns
    target.set_up(project.config)
    assert script.stat().st_mtime_ns == stamp
    assert script.read_bytes() == (STEPS / "deploy.py").read_bytes()
    assert function["Environment"]["ENDPOINT_NAME"] == "image-classification"
    assert target.state.get("Settings", "endpoints") == {"idle_seconds": 120}
    assert target.state.get("Rule", "photos") == {"FunctionName": "image-classification-deploy"}


@pytest.mark.parametrize("library", ["numpy", "pillow", "timm", "torch"])
def test_a_steps_image_is_another_one_with_another_library(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1" if name == library else version(name))
    assert local_placement("deploy").training_image != HERE.training_image
