"""`run_pipeline.py studio`: the SageMaker API over HTTP, and a page, on the home that the command line works on."""
