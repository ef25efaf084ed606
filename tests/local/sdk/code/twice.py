import os

import boto3


def handler(event, context):
    boto3.client("s3").put_object(Bucket="made", Key="by/lambda", Body=str(event).encode())
    return {"twice": 2 * event["n"], "who": os.environ["WHO"], "big": event["n"] > 3}
