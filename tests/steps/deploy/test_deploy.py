"""What the deploy handler does with the pipeline step's call, and with events of the registry and of the endpoint."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

import deploy
from deploy import DeployError
from tests.steps.deploy.conftest import SETTINGS

FLOWS, SENTENCES = (json.loads(Path(__file__).with_name(f"{name}.json").read_text()) for name in ("flows", "sentences"))


@pytest.mark.parametrize(("script", "status", "message", "served", "champion"), FLOWS)
def test_endpoint_and_champion_follow_the_newest_approved_version(account, script, status, message, served, champion):
    answer = account.play(script)
    assert (answer["endpoint_status"], account.served(), account.champion()) == (status, served, champion)
    assert message in answer["message"].replace("Endpoint digits-endpoint", "E").replace("digits version ", "v")
    account.requests.clear()
    for _ in range(2):
        account.play(re.sub("[~APR]", "", script.split()[-1]))
    assert set(account.changes) <= {"DeleteObject"}, "the same event again changes nothing"


def test_the_step_names_the_version_and_the_endpoint_and_the_environment_all_else(account, capsys):
    arn = account.register()
    account.requests.clear()
    answer = deploy.handler({"model_package_arn": arn, "endpoint_name": "staging", "instance_type": "ml.p5.big"}, None)
    message = "Endpoint staging is being created with digits version 1."
    assert answer.items() >= {"endpoint_name": "staging", "endpoint_status": "Creating", "message": message}.items()
    assert (answer["model_package_arn"], capsys.readouterr().out) == (arn, f"{message}\n")
    assert account.changes[:4] == ["CopyObject", "CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    assert account.request("CreateEndpointConfig")["ProductionVariants"][0]["InstanceType"] == "ml.m5.large"
    model, copy = account.request("CreateModel"), "s3://artifacts/digits/models/digits-1-6b86b273/model.tar.gz"
    assert model["PrimaryContainer"] == {"Image": "image", "ModelDataUrl": copy, "Environment": {"A": "1"}}
    assert model["Tags"] == [{"Key": "deploy:version", "Value": arn}]
    description = json.loads(account.objects()["champion.json"])
    assert description == {
        "model_package_arn": arn, "model_data_url": "s3://artifacts/digits/jobs/1/model.tar.gz",
        "etag": '"c4ca4238a0b923820dcc509a6f75849b"',  # of "1"
    }  # fmt: skip


# archives


def test_an_archive_that_was_changed_after_the_evaluation_is_not_served_and_nothing_changes(account):
    account.play("1A e ~2A")
    before = account.state()
    account.put("jobs/2/model.tar.gz", "planted")
    for call in ("2", "s2"):
        with pytest.raises(DeployError, match=r"digits version 2 is not served: s3://artifacts/digits/jobs/2/model.tar."
                           r"gz was changed after it was evaluated.*`run_pipeline.py reject 2`"):  # fmt: skip
            account.play(call)
    assert "was changed after it was evaluated" in account.play("e")["message"]
    assert account.state() == before
    account.put("jobs/2/model.tar.gz", "2")
    account.play("2")
    assert (account.served(), account.champion()) == (2, 2)


def test_a_copy_that_was_changed_is_refused_and_made_anew_by_the_next_call(account):
    account.play("~1A")
    account.put("models/digits-1-6b86b273/model.tar.gz", "planted")
    with pytest.raises(DeployError, match="was changed after it was evaluated"):
        account.play("1")
    assert (account.served(), account.play("1")["endpoint_status"], account.served()) == (None, "Creating", 1)


def test_an_older_version_comes_back_though_its_training_s_files_are_gone(account):
    account.play("1A 2A")
    account.s3.delete_object(Bucket="artifacts", Key="digits/jobs/1/model.tar.gz")
    account.play("2R")
    assert (account.served(), account.champion()) == (1, 1)


def test_a_version_without_checksum_is_served_and_said_to_be_vouched_for_by_nobody(account):
    answer = account.step(account.register(archive_sha256=None))
    assert answer["message"].endswith("Nothing vouches for its archive, registered without archive_sha256.")
    assert (account.served(), account.champion()) == (1, 1)


@pytest.mark.parametrize("url", ["https://elsewhere/model.tar.gz", ""])
def test_a_version_without_an_archive_on_s3_is_refused(account, url):
    arn = account.register()
    account.backend.model_packages[arn].inference_specification["Containers"][0]["ModelDataUrl"] = url
    with pytest.raises(DeployError, match="digits version 1 cannot be served: it needs one container, with a ModelDat"):
        account.step(arn)


# which version


def test_a_version_of_another_account_is_looked_for_in_that_account_s_group(account, monkeypatch):
    account.set(EXECUTION_ROLE_ARN="arn:aws:iam::210987654321:role/hosting")
    groups = []
    monkeypatch.setattr(
        type(account.backend), "list_model_packages",
        lambda _, model_package_group_name, **query: (groups.append(model_package_group_name) or [], None),
    )  # fmt: skip
    account.play("1A")
    assert groups == ["arn:aws:sagemaker:us-east-1:123456789012:model-package-group/digits"]
    assert account.served() == 1


HATS, DIGITS = "2: cap / hat", f"10: {' / '.join('abcdefghij' * 3)}"


def test_a_model_of_other_classes_replaces_none_unless_that_is_permitted(account):
    def step(classes, **metadata):
        return account.step(account.register(classes=classes, classes_sha256=classes, **metadata))

    step(HATS)
    sentence = (
        r"digits version 2 knows other classes \(10: a / .* \.\.\.\) than digits version 1 \(2: cap / hat\).*"
        "`run_pipeline.py approve 2 --replace-classes`"
    )
    with pytest.raises(DeployError, match=sentence):
        step(DIGITS)
    with pytest.raises(DeployError, match=sentence):
        account.play("2")
    assert account.served() == account.champion() == 1
    left = account.play("e")
    assert left["endpoint_status"] == "InService" and re.match(sentence, left["message"])
    step(HATS)
    account.step(account.register())  # nobody knows which
    step(DIGITS)
    step(HATS, replace_classes="true")
    assert account.served() == account.champion() == 6


def test_version_number_used_again_with_other_content_is_a_new_model(account):
    account.play("1A")
    account.backend.model_packages[account.arns[0]].inference_specification["Containers"][0]["Image"] = "another"
    assert account.play("1")["endpoint_status"] == "Updating"
    assert account.versions() == ["1", "1"]


def test_list_that_lags_does_not_bring_back_an_older_version(account, monkeypatch):
    account.play("~1A ~2A")
    older = account.backend.model_packages[account.arns[0]]
    monkeypatch.setattr(type(account.backend), "list_model_packages", lambda *_, **query: ([older], None))
    account.play("2")
    assert account.served() == 2


@pytest.mark.parametrize("status", ["Pending", "InProgress", "Failed"])
def test_unfinished_model_package_is_refused_and_takes_over_from_none(account, status):
    account.play("1A ~2A")
    account.backend.model_packages[account.arns[1]].model_package_status = status
    with pytest.raises(DeployError, match=f"digits version 2 has status {status} and cannot be deployed: `run_pipelin"):
        account.play("2")
    account.play("3A 3R")
    assert account.served() == 1


# what is wrong


@pytest.mark.parametrize(("event", "sentence"), SENTENCES["mistakes"])
def test_mistake_is_one_sentence(account, event, sentence):
    account.set(**{name: value for name, value in event.items() if name in SETTINGS})
    if event == {"INSTANCE_TYPE": ""}:
        account.patch.delenv("INSTANCE_TYPE")
    event = {"model_package_arn": "x"} if event.keys() & SETTINGS.keys() else event
    with pytest.raises(DeployError) as error:
        deploy.handler(event, None)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(("code", "message", "remedy"), SENTENCES["refusals"])
def test_refusal_is_one_sentence_and_the_next_call_deploys(account, code, message, remedy):
    account.play("~1A")
    with account.refusing("CreateModel", message, code), pytest.raises(DeployError) as error:
        account.play("s1")
    assert str(error.value) == f"An error occurred ({code}) when calling the CreateModel operation: No; {remedy}."
    assert account.play("s1")["endpoint_status"] == "Creating"


# the champion


def test_no_champion_is_kept_without_a_place_for_it(account):
    account.set(CHAMPION_URI="")
    account.play("1A 1R")
    assert (account.served(), account.champion()) == (1, None)


@pytest.mark.parametrize(("name", "content"), [("model.tar.gz", "1"), ("champion.json", "[")])
def test_champion_that_another_call_put_there_is_noticed_and_replaced(account, name, content):
    account.play("1A 2A")
    account.put(f"champion/{name}", content)
    account.play("e")
    assert account.champion() == 2


def test_a_baseline_that_a_version_lacks_is_left_out_and_that_of_another_goes(account):
    account.play("1A ~2A")
    account.s3.delete_object(Bucket="artifacts", Key="digits/jobs/2/baseline.json")
    account.play("2")
    assert account.objects().keys() == {"champion.json", "model.tar.gz"}


@pytest.mark.parametrize("operation", ["PutObject", "DeleteObject"])
def test_champion_that_cannot_be_changed_is_said_with_what_was_done_and_mended_later(account, operation):
    account.play("1A ~2A")
    with account.refusing(operation, "No", "AccessDenied"), pytest.raises(DeployError) as error:
        account.play("2")
    assert re.fullmatch(
        "Endpoint digits-endpoint is being updated to digits version 2. But s3://artifacts/digits/champion, which the "
        f"next training is compared with, is old: .*AccessDenied.*{operation}.*; allow the function's role .*",
        str(error.value),
    )
    account.play("e")
    assert (account.served(), account.champion()) == (2, 2)


def test_the_code_needs_boto3_and_the_standard_library_only_and_never_waits():
    source = Path(deploy.__file__).read_text()
    nodes = list(ast.walk(ast.parse(source)))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in modules} - sys.stdlib_module_names == {"boto3", "botocore"}
    assert not [word for word in ("sleep", "get_waiter", "import time") if word in source]
