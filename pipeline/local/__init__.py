"""The local SageMaker: runs a compiled pipeline definition on this machine and answers the API around it.

    sagemaker/   the answered API: registry, models, endpoints, S3, logs; a boto3 session whose requests end here
    engine/      executions: start, stop, retry, the runner's loop, the step cache
    jobs/        one job of each kind: processing, training, tuning, transform, functions
    checks/      what is refused or ignored of a definition before it runs
    sandbox/     one process of a job: its /opt/ml, its environment, what it may reach, how it ends
    store/       what is kept in the home: state.db, S3 as plain files

Imports go down this list, and to `pipeline.definition`, the language that definitions are written in.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import boto3

PACKAGE_PARENT = Path(__file__).resolve().parents[2]  # what has to be on a child's PYTHONPATH to import this package


def session(home: "str | Path" = ".local") -> "boto3.Session":
    """Return a boto3 session whose SageMaker, S3, Lambda, STS, IAM and Logs requests are answered by a home.

    Any boto3 program and the SageMaker SDK work with it; what is not answered here is refused by name, never sent.
    """
    from pipeline.local.sagemaker.session import keep_sdk_quiet, local_session
    from pipeline.local.store.state import State

    keep_sdk_quiet()
    opened: boto3.Session = local_session(State(Path(home).resolve()))
    return opened
