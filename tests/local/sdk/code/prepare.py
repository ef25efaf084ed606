import argparse

import pandas
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
table = pandas.read_csv("/opt/ml/processing/raw/abalone.csv")
table["sex"] = (table["sex"] == "M").astype(float)
table[["length", "weight"]] = StandardScaler().fit_transform(table[["length", "weight"]])
columns = table[["rings", "sex", "length", "weight"]]
train, test = train_test_split(columns, test_size=0.25, random_state=parser.parse_args().seed)
train.to_csv("/opt/ml/processing/train/train.csv", header=False, index=False)
test.to_csv("/opt/ml/processing/test/test.csv", header=False, index=False)
