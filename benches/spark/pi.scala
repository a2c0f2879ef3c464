// Pi with Spark's Scala RDD, a generator per thread: spark-shell --master local[2] -i pi.scala
import java.util.concurrent.ThreadLocalRandom

val samples = sys.env("SAMPLES").toLong
val began = System.nanoTime
val inside = sc.range(0L, samples, 1L, 8).map { _ =>
  val random = ThreadLocalRandom.current
  val x = random.nextDouble * 2 - 1
  val y = random.nextDouble * 2 - 1
  if (x * x + y * y <= 1) 1L else 0L
}.reduce(_ + _)
println(s"RESULT {\"seconds\": ${(System.nanoTime - began) / 1e9}, \"answer\": \"${4.0 * inside / samples}\"}")
System.exit(0)
