"""What becomes of a model of other classes than the endpoint's, by the commands."""

import json
from pathlib import Path

from pipeline.local.store.state import State
from tests.service.plain_versions import ENDPOINT, GROUP, registered

HATS, DIGITS = "2: cap / hat", "10: 0 / 1 / 2"


def test_a_version_of_other_classes_replaces_none_unless_that_is_permitted(cli):
    arns, state = registered(Path("home"), *["PendingManualApproval"] * 2), State(Path("home"))
    for arn, classes in zip(arns, (HATS, DIGITS), strict=True):
        metadata = {"classes": classes, "classes_sha256": classes}
        state.change("ModelPackage", arn, lambda known, given=metadata: known.update(CustomerMetadataProperties=given))
    assert cli("approve", "1").status == 0
    refused = cli("approve", "2")
    assert (refused.status, refused.out) == (1, "")
    assert f"{GROUP} version 2 knows other classes ({DIGITS}) than {GROUP} version 1 ({HATS})" in refused.error
    assert "approve 2 --replace-classes" in refused.error
    said = cli("approve", "2", "--replace-classes")
    assert said.out == f"Approved {GROUP}/2\nEndpoint {ENDPOINT} is InService\n"
    versions = {row["version"]: row for row in json.loads(cli("models", "--json").out)}
    assert versions[2]["classes"] == DIGITS and versions[2]["metadata"]["replace_classes"] == "true"


def test_a_retry_permits_only_what_was_registered(cli):
    Path("p.json").write_text('{"Version": "2020-12-01", "Steps": [{"Name": "No", "Type": "Fail", "Arguments": {}}]}')
    assert cli("run", "--definition", "p.json", "--name", "p").status == 1
    said = cli("retry", "--pipeline", "p", "--replace-classes")
    assert said.status == 2 and "this execution has none: use it with run" in said.error
