"""What AWS takes as a name, an ARN, a size or a duration: readers that several sections of pipeline.yaml share."""

import re

from pipeline.config.setting import Read, number, text, whole_number

DAY = 24 * 3600
PROCESSING_SECONDS = whole_number(at_least=1, at_most=9 * DAY)  # ProcessingMaxRuntimeInSeconds
TRAINING_SECONDS = whole_number(at_least=1, at_most=28 * DAY)
VOLUME_SIZE_GB = whole_number(at_least=1, at_most=16384)
INSTANCE_COUNT = whole_number(at_least=1, at_most=100)
SEED = whole_number(at_least=0, at_most=2**31 - 1)
SHARE = number(above=0, below=1)
MONEY = number(at_least=0)
INSTANCE_TYPE = text(r"ml\.[a-z0-9-]+\.[a-z0-9]+", "an instance type such as ml.m5.xlarge")
S3_URI = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?"
NO_URI = r"(?!\w\w+:/).+"
BUCKET = text(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "the name of an S3 bucket, without s3://")
ROLE_ARN = text(
    r"arn:aws[a-z-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+",
    "a role's ARN such as arn:aws:iam::123456789012:role/name",
    longest=2048,
)
POLICY_ARN = text(
    r"arn:aws[a-z-]*:iam::(\d{12}|aws):policy/[a-zA-Z_0-9+=,.@\-_/]+",
    "a policy's ARN such as arn:aws:iam::123456789012:policy/name",
    longest=2048,
)
KMS_KEY_ARN = text(
    r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[a-zA-Z0-9-]+",
    "a key's ARN such as arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    longest=2048,
)
LOCAL_STORAGE = re.compile(r"ml\.([a-z]+\d+[a-z]*d|g[5-9]|p[5-9]|trn|dl)")  # types whose own disks refuse a KMS key
IMAGE = text(r"[^\s/]+/\S+", "an image URI such as 123456789012.dkr.ecr.us-east-1.amazonaws.com/name:tag", longest=255)


def aws_name(longest: int) -> Read[str]:
    """A name as SageMaker takes it for pipelines, endpoints and groups."""
    accepted = "letters, digits and dashes, with a letter or digit at both ends"
    return text(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", accepted, longest=longest)
