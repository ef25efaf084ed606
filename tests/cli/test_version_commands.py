"""Approvals and rejections on the command line, and what becomes of the endpoint."""

import json
from pathlib import Path

from pipeline.local.store.state import State
from tests.service.plain_versions import ENDPOINT, GROUP, registered


def test_an_approval_deploys_and_the_endpoint_follows_the_newest_approved_version(cli):
    registered(Path("home"), "PendingManualApproval", "PendingManualApproval")
    Path("image.png").write_bytes(b"pixels")
    assert cli("approve", "1") == (0, f"Approved {GROUP}/1\nEndpoint {ENDPOINT} is InService\n", "")
    assert '"model": "model 1"' in cli("invoke", "image.png").out
    assert cli("approve").out == f"Approved {GROUP}/2\nEndpoint {ENDPOINT} is InService\n"
    assert '"model": "model 2"' in cli("invoke", "image.png").out
    assert cli("models").out.splitlines()[1].split()[:2] == ["2", "Approved"]
    assert cli("reject", "2").out == f"Rejected {GROUP}/2\nEndpoint {ENDPOINT} is InService\n"
    assert '"model": "model 1"' in cli("invoke", "image.png").out


def test_the_model_in_service_is_kept_for_comparison_whatever_is_approved_and_rejected(cli):
    registered(Path("home"), "PendingManualApproval", "PendingManualApproval")
    folder = Path("home/s3/local/image-classification/champion")
    for words, version in (("approve 1", 1), ("approve 2", 2), ("reject 2", 1)):
        assert cli(*words.split()).status == 0
        assert json.loads((folder / "champion.json").read_text())["model_package_arn"].endswith(f"/{version}")
        model = Path(f"home/s3/local/models/{version}/model.tar.gz")
        assert (folder / "model.tar.gz").read_bytes() == model.read_bytes()
    assert cli("reject", "1").status == 0
    assert not folder.exists()


def test_models_shows_the_accuracy_and_as_json_all_that_is_known_of_a_version(cli):
    [arn, _] = registered(Path("home"), "Rejected", "Approved")
    state = State(Path("home"))
    metadata = {"accuracy": "0.9627", "accuracy_interval": "0.9327 to 0.9796", "test_images": "268",
                "dataset_images": "360", "classes": "2: cap / hat"}  # fmt: skip
    origin = {"GeneratedBy": "arn:execution/one", "CommitId": "abc"}
    state.change("ModelPackage", arn, lambda known: known.update(
        CustomerMetadataProperties=metadata, MetadataProperties=origin
    ))  # fmt: skip
    head, second, first = cli("models").out.splitlines()
    assert head.split() == ["VERSION", "STATUS", "ACCURACY", "95", "%", "DATA", "IMAGES", "CLASSES", "CREATED"]
    assert first.split()[:8] == ["1", "Rejected", "0.9627", "0.9327-0.9796", "-", "360", "2:", "cap"]
    assert second.split()[:5] == ["2", "Approved", "-", "-", "-"]
    document = json.loads(cli("models", "--json").out)[1]
    assert (document["metadata"], document["commit"], document["execution_arn"]) == (
        metadata,
        "abc",
        "arn:execution/one",
    )


def test_an_approved_version_can_be_approved_again_to_deploy_it(cli):
    registered(Path("home"), "Approved")
    assert cli("endpoints").out == "There is no endpoint.\n"
    assert cli("approve", "1").out == f"Approved {GROUP}/1\nEndpoint {ENDPOINT} is InService\n"


def test_only_a_version_that_waits_is_approved_or_rejected_without_its_number(cli):
    registered(Path("home"), "Approved", "PendingManualApproval")
    assert cli("reject").out == f"Rejected {GROUP}/2\n"
    for command in ("approve", "reject"):
        said = cli(command)
        assert (said.status, said.out) == (2, "") and "name one: 2 (Rejected), 1 (Approved)" in said.error


def test_rejecting_what_was_never_deployed_makes_no_endpoint(cli):
    registered(Path("home"), "PendingManualApproval")
    assert cli("reject") == (0, f"Rejected {GROUP}/1\n", "")
    assert cli("approve", "7") == (
        2,
        "",
        f"Model package group '{GROUP}' has no version '7'; its versions: 1 (Rejected).\n",
    )


def test_a_version_that_cannot_be_served_is_told_in_a_sentence(cli):
    registered(Path("home"), "PendingManualApproval", SAGEMAKER_PROGRAM="none.py")
    said = cli("approve")
    assert (said.status, said.out) == (1, "")
    assert said.error.startswith(
        "The version is Approved now, but function 'image-classification-deploy', which heard of it, failed: "
        "DeployError: "
    )
    assert "The model has no server for this machine: its data holds no code/none.py" in said.error
    assert len(said.error.splitlines()) == 1


def test_a_deployment_whose_server_does_not_come_up_ends_with_1(cli):
    registered(Path("home"), "PendingManualApproval", MODE="dies")
    said = cli("approve")
    assert (said.status, said.out) == (1, f"Approved {GROUP}/1\nEndpoint {ENDPOINT} is Failed\n")
    assert said.error.startswith("The last deployment failed: The server did not pass /ping: ValueError: no such")
