-- The tables of state.db, version 2. A home of version 1 has the first four alone, definitions within its executions,
-- and no versions of pipelines; this script brings it up to date. It is run as one transaction.

CREATE TABLE IF NOT EXISTS resources (
    kind TEXT, name TEXT, document TEXT NOT NULL, created REAL NOT NULL, PRIMARY KEY (kind, name));
CREATE TABLE IF NOT EXISTS executions (
    arn TEXT PRIMARY KEY, pipeline TEXT NOT NULL, status TEXT NOT NULL, created REAL NOT NULL, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS steps (
    execution TEXT, name TEXT, document TEXT NOT NULL, PRIMARY KEY (execution, name));
CREATE TABLE IF NOT EXISTS digests (
    path TEXT PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL);

INSERT INTO resources SELECT 'Definition', arn, json_extract(document, '$.Definition'), created FROM executions;
UPDATE executions SET document = json_set(json_remove(document, '$.Definition'), '$.DefinitionDigest', arn);
INSERT INTO resources SELECT 'PipelineVersion', name || '/1', json_object(
    'PipelineArn', json_extract(document, '$.PipelineArn'), 'PipelineName', name, 'PipelineVersionId', 1,
    'PipelineDefinition', json_extract(document, '$.PipelineDefinition'),
    'CreationTime', json_extract(document, '$.CreationTime'),
    'LastModifiedTime', json_extract(document, '$.LastModifiedTime')), created FROM resources WHERE kind = 'Pipeline';
UPDATE resources SET document = json_set(document, '$.PipelineVersionId', 1, '$.LastRunTime', (
    SELECT max(created) FROM executions WHERE pipeline = name)) WHERE kind = 'Pipeline';

-- What lists and searches are filtered and ordered by, a row for each record. `parent` is the tuning job of a training
-- job, the group of a model package, the pipeline of a version or an execution; `facts` are what training jobs are
-- searched by and what would take long to read from whole documents.

CREATE TABLE catalog (
    id INTEGER PRIMARY KEY, kind TEXT, name TEXT, time REAL, title TEXT, parent TEXT, modified REAL, status TEXT,
    facts TEXT, UNIQUE (kind, name));
CREATE INDEX catalog_time ON catalog (kind, time, title, status, parent);
CREATE INDEX catalog_modified ON catalog (kind, modified, title, status, parent, time);
CREATE INDEX catalog_title ON catalog (kind, title);
CREATE INDEX catalog_status ON catalog (kind, status);
CREATE INDEX catalog_parent ON catalog (kind, parent, time);

CREATE VIEW catalogued AS
SELECT 'resources' AS origin, rowid AS row, kind, name,
    coalesce(json_extract(document, '$.CreationTime'), created) AS time,
    coalesce(json_extract(document, '$.' || kind || 'Name'), name) AS title,
    coalesce(json_extract(document, '$.TuningJobArn'), lower(json_extract(document, '$.ModelPackageGroupName')),
        json_extract(document, '$.PipelineName')) AS parent,
    coalesce(json_extract(document, '$.LastModifiedTime'), json_extract(document, '$.CreationTime'), created) AS modified,
    json_extract(document, '$.' || kind || 'Status') AS status,
    CASE kind WHEN 'TrainingJob' THEN json_object(
        'HyperParameters', json_extract(document, '$.HyperParameters'),
        'FinalMetricDataList', json_extract(document, '$.FinalMetricDataList')) END AS facts
FROM resources WHERE kind IN (
    'Pipeline', 'PipelineVersion', 'ProcessingJob', 'TrainingJob', 'HyperParameterTuningJob', 'TransformJob',
    'Model', 'ModelPackage', 'ModelPackageGroup', 'EndpointConfig', 'Endpoint')
UNION ALL
SELECT 'executions', rowid, 'PipelineExecution', arn, created,
    coalesce(json_extract(document, '$.PipelineExecutionDisplayName'), ''), pipeline,
    coalesce(json_extract(document, '$.LastModifiedTime'), created), status, NULL
FROM executions;

INSERT INTO catalog (kind, name, time, title, parent, modified, status, facts)
SELECT kind, name, time, title, parent, modified, status, facts FROM catalogued ORDER BY time, row;

CREATE TRIGGER resource_added AFTER INSERT ON resources BEGIN
    INSERT INTO catalog (kind, name, time, title, parent, modified, status, facts)
    SELECT kind, name, time, title, parent, modified, status, facts FROM catalogued
    WHERE origin = 'resources' AND row = new.rowid;
    INSERT OR IGNORE INTO resources  -- the tags of a job of a pipeline
    SELECT 'Tags', json_extract(new.document, '$.' || new.kind || 'Arn'),
        json_group_object(json_extract(value, '$.Key'), json_extract(value, '$.Value')), new.created
    FROM json_each(new.document, '$.Tags') WHERE new.kind LIKE '%Job' GROUP BY new.kind;
END;
CREATE TRIGGER resource_changed AFTER UPDATE ON resources BEGIN
    UPDATE catalog SET (modified, status, facts) = (
        SELECT modified, status, facts FROM catalogued WHERE origin = 'resources' AND row = new.rowid)
    WHERE kind = old.kind AND name = old.name;
END;
CREATE TRIGGER resource_gone AFTER DELETE ON resources BEGIN
    DELETE FROM catalog WHERE kind = old.kind AND name = old.name;
    DELETE FROM resources WHERE kind = 'Tags' AND name = json_extract(old.document, '$.' || old.kind || 'Arn');
END;
CREATE TRIGGER execution_added AFTER INSERT ON executions BEGIN
    INSERT INTO catalog (kind, name, time, title, parent, modified, status)
    SELECT kind, name, time, title, parent, modified, status FROM catalogued
    WHERE origin = 'executions' AND row = new.rowid;
END;
CREATE TRIGGER execution_changed AFTER UPDATE ON executions BEGIN
    UPDATE catalog SET (modified, status) = (
        SELECT modified, status FROM catalogued WHERE origin = 'executions' AND row = new.rowid)
    WHERE kind = 'PipelineExecution' AND name = old.arn;
END;

PRAGMA user_version = 2;
