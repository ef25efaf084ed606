"""What holds for every test."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: processes under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
