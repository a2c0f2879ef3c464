// Word count with Spark's Scala RDD: spark-shell --master local[2] -i word_count.scala
val began = System.nanoTime
val counts = sc.textFile(sys.env("FOLDER")).flatMap(_.split("[ \t\n\f\r]+")).filter(_.nonEmpty).map((_, 1L)).reduceByKey(_ + _)
val top = counts.top(10)(Ordering.by { case (word: String, count: Long) => (count, word) })
val seconds = (System.nanoTime - began) / 1e9
val answer = top.map(_._2).mkString(" ")
println(s"RESULT {\"seconds\": $seconds, \"answer\": \"$answer\"}")
System.exit(0)
