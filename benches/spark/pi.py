"""Pi with Spark's Python RDD."""
import json
import os
import random
import time

from pyspark.sql import SparkSession

sc = SparkSession.builder.getOrCreate().sparkContext
samples = int(os.environ["SAMPLES"])


def hit(_):
    x, y = random.random() * 2 - 1, random.random() * 2 - 1
    return 1 if x * x + y * y <= 1 else 0


began = time.monotonic()
inside = sc.range(0, samples, 1, 8).map(hit).reduce(lambda a, b: a + b)
print("RESULT", json.dumps({"seconds": time.monotonic() - began, "answer": str(4.0 * inside / samples)}))
