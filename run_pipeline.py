#!/usr/bin/env python3
"""The command line, from where the project lies: `python run_pipeline.py COMMAND`; `image-pipeline` once installed."""

import sys

from pipeline.cli.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
