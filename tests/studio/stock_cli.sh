# The AWS CLI on a local SageMaker; definition.json and AWS_ENDPOINT_URL are given. Any line that fails ends the script.
set -euo pipefail
refused() { if said=$("${@:2}" 2>&1); then echo "not refused: $*"; exit 1; else grep -q "$1" <<<"$said"; fi; }

pipeline=$(aws sagemaker create-pipeline --pipeline-name cli --role-arn arn:aws:iam::000000000000:role/any \
  --client-request-token "$(printf 'a%.0s' {1..32})" --pipeline-definition file://definition.json \
  --query PipelineArn --output text)
execution=$(aws sagemaker start-pipeline-execution --pipeline-name "$pipeline" --query PipelineExecutionArn --output text)

aws sts get-caller-identity --query Account --output text | grep -x 000000000000

aws s3 mb s3://bkt
mkdir -p in/sub
head -c 9000000 /dev/urandom > in/large   # in parts, up and down
echo "it is" > "in/sub/ü a+b.txt"
aws s3 sync in s3://bkt/data --only-show-errors
aws s3 ls --recursive s3://bkt/data/ | tee listed
grep -q "9000000 data/large" listed && grep -q "data/sub/ü a+b.txt" listed
aws s3 mv s3://bkt/data/large s3://bkt/moved --only-show-errors
aws s3 cp s3://bkt/moved out/large --only-show-errors
cmp in/large out/large
aws s3 cp - s3://bkt/stream --only-show-errors < in/large
cmp in/large "$AWS_HOME/s3/bkt/stream"
aws s3 rm --recursive s3://bkt/ --only-show-errors
refused "(404)" aws s3 cp s3://bkt/data/large out

until job=$(aws sagemaker list-pipeline-execution-steps --pipeline-execution-arn "$execution" --output text \
  --query 'PipelineExecutionSteps[0].Metadata.ProcessingJob.Arn') && [ "$job" != None ]; do sleep 0.2; done
# it has ended, since a waiter of the CLI looks once a minute
aws sagemaker wait processing-job-completed-or-stopped --processing-job-name "${job##*/}"
aws logs filter-log-events --log-group-name /aws/sagemaker/ProcessingJobs --log-stream-name-prefix "${job##*/}" \
  --filter-pattern hello --query 'events[].message' --output text | grep -x "hello from the job"
aws sagemaker list-pipelines --page-size 1 --query 'PipelineSummaries[].PipelineName' --output text | grep -w cli
refused "sagemaker:ListApps; docs/api.md" aws sagemaker list-apps

zip -q function.zip main.py 2>/dev/null || python -m zipfile -c function.zip main.py
aws lambda create-function --function-name fn --runtime python3.11 --handler main.run --timeout 30 \
  --role arn:aws:iam::000000000000:role/any --zip-file fileb://function.zip --query State --output text | grep -x Active
aws lambda invoke --function-name fn --payload '{"who": "you"}' answer.json --query StatusCode --output text | grep -x 200
grep -x '"hello you"' answer.json
