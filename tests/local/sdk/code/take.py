import tarfile

with tarfile.open("/opt/ml/processing/model/model.tar.gz") as archive:
    archive.extract("x.txt", "/opt/ml/processing/taken")
