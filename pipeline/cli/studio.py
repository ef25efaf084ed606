"""`studio`: the SageMaker API over HTTP and a page, on the home that the command line works on."""

import signal
from contextlib import suppress

from pipeline.cli.call import Call
from pipeline.cli.output import opened, say
from pipeline.errors import UsageError


def studio(call: Call, port: int | None = None, no_open: bool = False) -> int:
    """Serve until Ctrl-C."""
    from pipeline.local.sagemaker.session import SDK_DEFAULTS
    from pipeline.service.local_target import LocalTarget
    from pipeline.studio.server import serve

    if call.target != "local":
        raise UsageError("studio is this machine's; on AWS that is SageMaker Studio itself.")

    def tell(api: str, page: str) -> None:
        print(f"API   export AWS_ENDPOINT_URL={api}")
        print(f"SDK   export SAGEMAKER_ADMIN_CONFIG_OVERRIDE={SDK_DEFAULTS}")
        print(f"Page  {page}{opened(page, no_open=no_open)}", flush=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        serve(call, LocalTarget(call.config, call.home), port=port, tell=tell, say=say)
    return 0
