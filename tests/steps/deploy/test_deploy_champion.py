"""The champion: the copy of the model that the endpoint is asked to serve, whatever the events and their order."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from classifier.deployment.services import DeployError

URI = "s3://artifacts/digits/champion"
KEY = "digits/champion"


@pytest.fixture(autouse=True)
def champion_uri(set_environment: Callable[..., None]) -> None:
    set_environment(champion_uri=URI)


def serving(account: Any, versions: int) -> list[str]:
    """Versions approved and deployed one after the other; their ARNs."""
    arns = []
    for _ in range(versions):
        arns.append(account.register_model())
        account.state_change(arns[-1])
        account.endpoint_change()
    return arns


def kept(version: int) -> dict[str, int]:
    return {"version": version, "model": version}


NONE = {"version": None, "model": None}


def test_deployed_version_is_kept_with_what_it_is(account: Any) -> None:
    arn = account.register_model()
    account.step(arn)
    assert account.champion() == kept(1)
    description = json.loads(account.objects(KEY)[f"{KEY}/champion.json"])
    assert (description["model_package_arn"], description["model_data_url"]) == (
        arn,
        "s3://artifacts/digits/jobs/1/model.tar.gz",
    )


def test_nothing_is_kept_without_a_place_for_it(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAMPION_URI")
    arn = account.register_model()
    account.forget()
    account.step(arn)
    assert account.changes == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    assert account.champion() == NONE


def test_place_may_come_with_the_event_and_end_with_a_slash(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAMPION_URI")
    account.step(account.register_model(), champion_uri=f"{URI}/")
    assert account.champion() == kept(1)


def test_each_version_replaces_the_one_before(account: Any) -> None:
    serving(account, 2)
    assert account.champion() == kept(2)


def test_repeated_event_copies_nothing(account: Any) -> None:
    arn = account.register_model()
    account.state_change(arn)
    account.forget()
    account.state_change(arn)
    account.endpoint_change()
    assert account.changes == []


def test_version_that_waits_is_not_kept(account: Any) -> None:
    serving(account, 1)
    account.state_change(account.register_model("PendingManualApproval"))
    assert account.champion() == kept(1)


def test_late_event_of_an_older_version_does_not_bring_it_back(account: Any) -> None:
    older, _ = serving(account, 2)
    account.state_change(older)
    assert account.champion() == kept(2)


def test_rejection_brings_back_the_newest_still_approved(account: Any) -> None:
    arns = serving(account, 3)
    account.judge(arns[2], "Rejected")
    account.state_change(arns[2])
    assert account.champion() == kept(2)


def test_rejecting_the_only_version_leaves_none_and_the_endpoint_s_event_does_not_bring_it_back(account: Any) -> None:
    [arn] = serving(account, 1)
    account.judge(arn, "Rejected")
    account.state_change(arn)
    assert account.champion() == NONE
    account.endpoint_change()
    assert account.champion() == NONE


def test_rejected_version_is_not_compared_with_while_the_endpoint_takes_no_update(account: Any) -> None:
    arns = serving(account, 2)
    account.judge(arns[1], "Rejected")
    account.endpoint.endpoint_status = "RollingBack"
    account.state_change(arns[1])
    assert account.champion() == kept(1)


def test_rejection_counts_without_an_endpoint_too(account: Any) -> None:
    arns = serving(account, 2)
    del account.backend.endpoints["digits-endpoint"]
    account.judge(arns[1], "Rejected")
    account.state_change(arns[1])
    assert account.champion() == kept(1)


def test_version_that_was_rolled_back_is_not_the_champion(account: Any) -> None:
    serving(account, 1)
    served = account.endpoint.endpoint_config_name
    account.state_change(account.register_model())
    account.endpoint.endpoint_config_name, account.endpoint.failure_reason = served, "An alarm went off."
    account.endpoint_change()
    assert account.champion() == kept(1)


@pytest.mark.parametrize("order", [(0, 1, 2, 1), (2, 1, 0, 0), (1, 2, 2, 0), (2, 0, 1, 2)])
def test_any_order_of_events_keeps_the_newest_approved_version(account: Any, order: tuple[int, ...]) -> None:
    arns = [account.register_model() for _ in range(3)]
    account.judge(arns[2], "Rejected")
    for number in order:
        account.state_change(arns[number])
    assert account.champion() == kept(2)


def test_archive_that_another_call_put_there_meanwhile_is_noticed_and_replaced(account: Any) -> None:
    serving(account, 2)
    account.s3.put_object(Bucket="artifacts", Key=f"{KEY}/model.tar.gz", Body=b"1")
    account.endpoint_change()
    assert account.champion() == kept(2)


def test_description_that_is_no_json_is_written_anew(account: Any) -> None:
    serving(account, 1)
    account.s3.put_object(Bucket="artifacts", Key=f"{KEY}/champion.json", Body=b"[")
    account.endpoint_change()
    assert account.champion() == kept(1)


SENTENCE = (
    "Endpoint digits-endpoint is being created with digits version 1. "
    "s3://artifacts/digits/champion, which the next training is compared with, is not up to date: "
    "digits version 1 was not kept (AWS refused CopyObject: No; allow the function's role this action). "
    "The next event of the registry or the endpoint tries again."
)


def test_step_says_that_the_model_was_not_kept_and_deploys_all_the_same(account: Any) -> None:
    with account.refusing("CopyObject", "No", "AccessDenied"):
        outcome = account.step(account.register_model())
    assert (outcome["endpoint_status"], outcome["message"]) == ("Creating", SENTENCE)
    assert account.served_version() == 1
    account.endpoint_change()
    assert account.champion() == kept(1)


def test_event_fails_after_deploying_so_that_lambda_tries_again_and_an_alarm_goes_off(account: Any) -> None:
    arn = account.register_model()
    with account.refusing("CopyObject", "No", "AccessDenied"), pytest.raises(DeployError) as error:
        account.state_change(arn)
    assert str(error.value) == SENTENCE
    assert account.served_version() == 1
    account.state_change(arn)
    assert account.champion() == kept(1)


def test_version_without_an_archive_on_s3_is_deployed_and_said_not_to_be_kept(account: Any) -> None:
    arn = account.register(url="https://elsewhere/model.tar.gz")
    assert "digits version 1 was not kept (digits version 1 has no model archive on S3)" in account.step(arn)["message"]
    assert account.served_version() == 1


def test_removal_that_fails_is_tried_again(account: Any) -> None:
    [arn] = serving(account, 1)
    account.judge(arn, "Rejected")
    with account.refusing("DeleteObject", "No", "AccessDenied"), pytest.raises(DeployError) as error:
        account.state_change(arn)
    assert "is not up to date: what is there was not removed (AWS refused DeleteObject: No;" in str(error.value)
    account.state_change(arn)
    assert account.champion() == NONE
