"""The AWS account around the pipeline: its stack, images, schedule, cost, and how everything is removed again.

Functions take `client`, a function from a service's name to a boto3 client (`session.client` or a target's `client`).
"""
