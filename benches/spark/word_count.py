"""Word count with Spark's Python RDD."""
import json
import os
import re
import time

from pyspark.sql import SparkSession

sc = SparkSession.builder.getOrCreate().sparkContext
space = re.compile("[ \t\n\f\r]+")

began = time.monotonic()
words = sc.textFile(os.environ["FOLDER"]).flatMap(space.split).filter(bool)
counts = words.map(lambda word: (word, 1)).reduceByKey(lambda a, b: a + b)
top = counts.top(10, key=lambda pair: (pair[1], pair[0]))
seconds = time.monotonic() - began
print("RESULT", json.dumps({"seconds": seconds, "answer": " ".join(str(count) for _, count in top)}))
