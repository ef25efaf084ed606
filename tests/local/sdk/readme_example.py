from pathlib import Path

from sagemaker.core.processing import ScriptProcessor
from sagemaker.core.shapes import ProcessingOutput, ProcessingS3Output
from sagemaker.core.workflow.pipeline_context import PipelineSession
from sagemaker.mlops.workflow.pipeline import Pipeline
from sagemaker.mlops.workflow.steps import ProcessingStep

from pipeline.local import session

Path("count.py").write_text("open('/opt/ml/processing/out/sum.txt', 'w').write(str(sum(range(10))))\n")
aws = session(".local")  # answers SageMaker, S3, Lambda, STS, IAM and Logs from files; nothing is sent
sdk, role = PipelineSession(boto_session=aws), "arn:aws:iam::000000000000:role/any"
image = "000000000000.dkr.ecr.us-east-1.amazonaws.com/python:3"  # ignored: jobs run in this environment
machine = {"instance_count": 1, "instance_type": "ml.m5.large"}
processor = ScriptProcessor(role=role, image_uri=image, command=["python3"], sagemaker_session=sdk, **machine)
place = ProcessingS3Output(s3_uri="s3://bucket/out", local_path="/opt/ml/processing/out", s3_upload_mode="EndOfJob")
arguments = processor.run(code="count.py", outputs=[ProcessingOutput(output_name="out", s3_output=place)])
pipeline = Pipeline(name="counting", steps=[ProcessingStep(name="Count", step_args=arguments)], sagemaker_session=sdk)

pipeline.upsert(role_arn=role)
execution = pipeline.start()
execution.wait(delay=1)
print([step["StepStatus"] for step in execution.list_steps()])
print(aws.client("s3").get_object(Bucket="bucket", Key="out/sum.txt")["Body"].read().decode())
