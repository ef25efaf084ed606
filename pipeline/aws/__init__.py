"""What surrounds the pipeline in an AWS account: the stack, the schedule, what it costs, and the way back.

`infra` applies the stack (`stack.yaml`), `schedule` switches retraining on and off, `inventory` lists what was made and
`teardown` removes it, `cost` estimates. Each takes a function from a service's name to its boto3 client, as
`session.client` or a target's `client`, so that nothing here opens a session of its own.
"""
