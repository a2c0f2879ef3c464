// 100,000 empty tasks with Spark: spark-shell --master local[2] -i tasks.scala
val tasks = sys.env("TASKS").toInt
sc.parallelize(1 to 1000, 1000).foreachPartition(_ => ())
val began = System.nanoTime
sc.range(0L, tasks.toLong, 1L, tasks).foreachPartition(_ => ())
println(s"RESULT {\"seconds\": ${(System.nanoTime - began) / 1e9}, \"answer\": \"$tasks\"}")
System.exit(0)
