"""How long does another engine take for the queries of TPC-H?

Arguments: the engine (duckdb, spark, sail, sail-cluster), the folder of tables, the folder of queries, the folder for
answers, how often each query is asked. Every engine gets two threads, and is measured without what it needs to start.
Reports `RESULT {"q1": [seconds, ...], ...}` and leaves the answers as Arrow files.
"""

import json
import os
import sys
import time
from pathlib import Path

import pyarrow as pa


def duckdb_engine(tables):
    import duckdb

    connection = duckdb.connect(config={"threads": 2})
    for table in tables:
        connection.execute(f"CREATE VIEW {table.name} AS SELECT * FROM read_parquet('{table}/*.parquet')")
    return lambda query: connection.execute(query).to_arrow_table()


def spark_engine(session, tables):
    for table in tables:
        session.read.parquet(str(table)).createOrReplaceTempView(table.name)
    return lambda query: session.sql(query).toArrow()


def spark(tables):
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "8g")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    return spark_engine(session, tables)


def sail(tables, mode):
    os.environ["SAIL_MODE"] = mode
    os.environ["SAIL_EXECUTION__DEFAULT_PARALLELISM"] = "2"
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    server = SparkConnectServer()
    server.start(background=True)
    _, port = server.listening_address
    ask = spark_engine(SparkSession.builder.remote(f"sc://localhost:{port}").getOrCreate(), tables)
    # The server ends with its last reference.
    return lambda query, _server=server: ask(query)


ENGINES = {
    "duckdb": duckdb_engine,
    "spark": spark,
    "sail": lambda tables: sail(tables, "local"),
    "sail-cluster": lambda tables: sail(tables, "local-cluster"),
}


def main():
    engine, tables, queries, answers, rounds = sys.argv[1:]
    ask = ENGINES[engine](sorted(Path(tables).iterdir()))
    texts = {path.stem: path.read_text() for path in sorted(Path(queries).iterdir())}
    seconds = {name: [] for name in texts}
    for _ in range(int(rounds)):
        for name, text in texts.items():
            began = time.perf_counter()
            answer = ask(text)
            seconds[name].append(time.perf_counter() - began)
            with pa.OSFile(f"{answers}/{name}.arrow", "wb") as file, pa.ipc.new_file(file, answer.schema) as writer:
                writer.write_table(answer)
    print("RESULT " + json.dumps(seconds), flush=True)
    # Servers and sessions of some engines do not end by themselves.
    os._exit(0)


main()
