//! Are files read as they are meant: the broken and the whole, below folders with values and without, by patterns, in several
//! places? And are those that cannot be read named?

use std::fs;
use std::path::Path;

use crate::harness::{Outcome, Program};

const VONK: &str = env!("CARGO_BIN_EXE_command");

/// One process with plain plans, one with stages, and several processes.
const MASTERS: [(&str, &[&str]); 3] = [
    ("local[2]", &[]),
    ("local[2]", &["sql.force_stages=true", "sql.partitions=3"]),
    ("local-cluster[2,1]", &["sql.partitions=3"]),
];

fn ask(master: &str, conf: &[&str], folder: &Path, statements: &str) -> Outcome {
    let statements = statements.replace("FOLDER", folder.to_str().unwrap());
    let flags: Vec<&str> = conf.iter().flat_map(|pair| ["--conf", pair]).collect();
    let rest = ["--format", "csv", "-e", &statements];
    Program::of(VONK, &[&["sql", "--master", master][..], &flags, &rest].concat()).run()
}

/// What statements print, wherever they run.
fn everywhere(folder: &Path, statements: &str, wanted: &str) {
    for (master, conf) in MASTERS {
        let outcome = ask(master, conf, folder, statements).succeeded();
        assert_eq!(outcome.stdout, wanted, "{master} {conf:?}\n{statements}\n{}", outcome.stderr);
    }
}

/// What statements complain of, wherever they run.
fn wrong_everywhere(folder: &Path, statements: &str, says: &[&str]) {
    for (master, conf) in MASTERS {
        let outcome = ask(master, conf, folder, statements).failed(1, says);
        for noise in ["Arrow error", "External error", "Execution error", "Parquet error", "caused by\n"] {
            assert!(!outcome.stderr.contains(noise), "{master} {conf:?}:\n{}", outcome.stderr);
        }
    }
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let file = folder.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
}

#[test]
fn broken_rows_of_csv_files_are_told_left_out_or_mended() {
    let home = tempfile::tempdir().unwrap();
    // Large enough for every task to have a range of its own.
    let rows: String =
        (0..200_000).map(|n| if n % 50_000 == 27_777 { format!("{n},x\n") } else { format!("{n},{n}\n") }).collect();
    write(home.path(), &[("numbers.csv", &format!("a,b\n{rows}"))]);
    let table = |options: &str| {
        format!(
            "CREATE EXTERNAL TABLE t (a BIGINT, b BIGINT) STORED AS CSV LOCATION 'FOLDER/numbers.csv'
                 OPTIONS ('has_header' 'true'{options});"
        )
    };
    let query = "SELECT count(*) AS rows, sum(a) AS a, sum(b) AS b FROM t";
    let whole: u64 = (0..200_000).sum();
    let broken: u64 = [27_777, 77_777, 127_777, 177_777].iter().sum();
    let sum = whole - broken;
    let dropped = format!("{}{query}", table(", 'mode' 'drop'"));
    everywhere(home.path(), &dropped, &format!("rows,a,b\n199996,{sum},{sum}\n"));
    let mended = format!("{}{query}", table(", 'mode' 'permissive'"));
    everywhere(home.path(), &mended, &format!("rows,a,b\n200000,{whole},{sum}\n"));
    let told = format!("{}{query}", table(""));
    wrong_everywhere(
        home.path(),
        &told,
        &["numbers.csv`, line ", "column `b` is `x`, which is no Int64", "`drop` or `permissive`"],
    );

    for (master, conf) in &MASTERS[1..] {
        let analyze = format!("{}EXPLAIN ANALYZE {query}", table(", 'mode' 'drop'"));
        let outcome = ask(master, conf, home.path(), &analyze).succeeded();
        assert!(outcome.stdout.contains("left out 4 broken rows"), "{master}: {}", outcome.stdout);
        assert!(outcome.stderr.contains("4 broken rows left out"), "{master}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("broken rows of a CSV file were left out"), "{master}: {}", outcome.stderr);
    }
}

#[test]
fn compressed_files_are_decompressed_in_executors_too() {
    use std::io::Write;
    let home = tempfile::tempdir().unwrap();
    for (name, content) in [("a.csv.gz", "n\n1\n2\n"), ("b.json.gz", "{\"n\":3}\n{\"n\":4}\n")] {
        let mut file =
            flate2::write::GzEncoder::new(fs::File::create(home.path().join(name)).unwrap(), Default::default());
        file.write_all(content.as_bytes()).unwrap();
        file.finish().unwrap();
    }
    let statements = "CREATE EXTERNAL TABLE a STORED AS CSV LOCATION 'FOLDER/a.csv.gz';
        CREATE EXTERNAL TABLE b STORED AS JSON LOCATION 'FOLDER/b.json.gz';
        SELECT sum(n) AS n FROM (SELECT n FROM a UNION ALL SELECT n FROM b)";
    everywhere(home.path(), statements, "n\n10\n");
}

#[test]
fn folders_without_a_value_are_null_and_values_have_types() {
    let home = tempfile::tempdir().unwrap();
    let made = "COPY (SELECT column1 AS n, column2 AS p, column3 AS day FROM (VALUES
            (1, 1, DATE '2026-11-21'), (2, 20, NULL), (3, NULL, DATE '2026-01-02'), (4, 1, NULL)))
        TO 'FOLDER/t/' STORED AS PARQUET PARTITIONED BY (p, day)";
    ask("local[2]", &[], home.path(), made).succeeded();
    let table = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'FOLDER/t/'; ";
    for (query, wanted) in [
        ("SELECT n, p, day FROM t ORDER BY n", "n,p,day\n1,1,2026-11-21\n2,20,\n3,,2026-01-02\n4,1,\n"),
        ("SELECT n FROM t WHERE p IS NULL", "n\n3\n"),
        ("SELECT n FROM t WHERE p = 1 ORDER BY n", "n\n1\n4\n"),
        ("SELECT n FROM t WHERE p <> 1 OR n = 3 ORDER BY n", "n\n2\n3\n"),
        ("SELECT n FROM t WHERE p <> 1", "n\n2\n"),
        ("SELECT n FROM t WHERE NOT (p = 20) ORDER BY n", "n\n1\n4\n"),
        ("SELECT n FROM t WHERE day > DATE '2026-06-01'", "n\n1\n"),
        (
            "SELECT count(*) AS rows, count(p) AS p, count(day) AS day, min(p) AS least FROM t",
            "rows,p,day,least\n4,3,2,1\n",
        ),
        ("SELECT p, count(*) AS n FROM t GROUP BY p ORDER BY p NULLS LAST", "p,n\n1,2\n20,1\n,1\n"),
    ] {
        everywhere(home.path(), &format!("{table}{query}"), wanted);
    }
    let more =
        format!("{table}INSERT INTO t VALUES (5, NULL, DATE '2026-01-02'); SELECT sum(n) AS n FROM t WHERE p IS NULL");
    let outcome = ask("local[2]", &[], home.path(), &more).succeeded();
    assert!(outcome.stdout.ends_with("n\n8\n"), "{}", outcome.stdout);
}

#[test]
fn patterns_and_several_places_are_one_table() {
    let home = tempfile::tempdir().unwrap();
    write(
        home.path(),
        &[
            ("t/year=2024/month=1/part-0.csv", "n\n1\n"),
            ("t/year=2024/month=2/part-0.csv", "n\n2\n"),
            ("t/year=2024/month=2/other.csv", "n\n4\n"),
            ("t/year=2025/month=1/part-0.csv", "n\n8\n"),
            ("t/year=2025/month=1/_hidden.csv", "n\n16\n"),
            ("t/year=2025/month=1/notes.txt", "no table"),
        ],
    );
    for (places, query, wanted) in [
        ("'FOLDER/t/year=2024/*/'", "SELECT sum(n) AS n, sum(month) AS m FROM t", "n,m\n7,5\n"),
        ("'FOLDER/t/*/*/part-*'", "SELECT sum(n) AS n, min(year) AS y FROM t", "n,y\n11,2024\n"),
        (
            "'FOLDER/t/year={2024,2025}/month=1'",
            "SELECT sum(n) AS n, max(year) AS y FROM t WHERE month = 1",
            "n,y\n9,2025\n",
        ),
        ("'FOLDER/t/'", "SELECT sum(n) AS n, count(DISTINCT year) AS y FROM t WHERE year > 2024", "n,y\n8,1\n"),
        (
            "('FOLDER/t/year=2024/month=1/', 'FOLDER/t/year=2025/month=1/part-0.csv')",
            "SELECT sum(n) AS n FROM t",
            "n\n9\n",
        ),
    ] {
        everywhere(home.path(), &format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION {places}; {query}"), wanted);
    }
    fs::create_dir(home.path().join("empty")).unwrap();
    let empty =
        "CREATE EXTERNAL TABLE t (n BIGINT, p BIGINT) STORED AS CSV PARTITIONED BY (p) LOCATION 'FOLDER/empty/';
        SELECT count(*) AS n FROM t WHERE p = 1";
    everywhere(home.path(), empty, "n\n0\n");
    for (place, says) in [("FOLDER/t/none-*", "no file matches"), ("FOLDER/none", "there is no such file")] {
        let table = format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{place}'");
        ask("local[2]", &[], home.path(), &table)
            .failed(1, &[&place.replace("FOLDER", home.path().to_str().unwrap()), says]);
    }
}

#[test]
fn files_that_are_added_or_replaced_are_seen() {
    let home = tempfile::tempdir().unwrap();
    write(home.path(), &[("t/a.csv", "n\n1\n")]);
    let statements =
        "CREATE EXTERNAL TABLE t (n BIGINT) STORED AS CSV LOCATION 'FOLDER/t/' OPTIONS ('has_header' 'true');
        SELECT sum(n) AS n FROM t;
        COPY (SELECT 2 AS n) TO 'FOLDER/t/' STORED AS CSV OPTIONS ('has_header' 'true');
        SELECT sum(n) AS n FROM t";
    for (master, conf) in MASTERS {
        let outcome = ask(master, conf, home.path(), statements).succeeded();
        let sums: Vec<&str> = outcome.stdout.lines().filter(|line| line.parse::<u64>().is_ok()).collect();
        assert_eq!(
            sums.first().unwrap().parse::<u64>().unwrap() + 2,
            sums.last().unwrap().parse::<u64>().unwrap(),
            "{sums:?}"
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let home = tempfile::tempdir().unwrap();
    let made = "COPY (SELECT value AS n, value AS m FROM range(1, 1000)) TO 'FOLDER/good/' STORED AS PARQUET;
        COPY (SELECT value AS n, 'text' AS m FROM range(1, 1000)) TO 'FOLDER/other/' STORED AS PARQUET";
    ask("local[2]", &[], home.path(), made).succeeded();
    let file = |folder: &str| {
        let mut files = crate::harness::files_below(&home.path().join(folder)).into_iter();
        files.find(|file| file.extension().is_some_and(|kind| kind == "parquet")).unwrap()
    };
    // Its middle is damaged: the footer tells columns and rows.
    let mut damaged = fs::read(file("good")).unwrap();
    let end = damaged.len() - 1_500;
    damaged[8..end].fill(0xA5);
    fs::create_dir(home.path().join("damaged")).unwrap();
    fs::write(home.path().join("damaged/part-3.parquet"), &damaged).unwrap();
    fs::create_dir(home.path().join("mixed")).unwrap();
    fs::copy(file("good"), home.path().join("mixed/a.parquet")).unwrap();
    fs::copy(file("other"), home.path().join("mixed/b.parquet")).unwrap();
    write(
        home.path(),
        &[
            ("no.parquet", "this is text, and nothing else"),
            ("broken.json", "{\"n\": 1}\n{\"n\": \n"),
            ("broken.avro", "Obj\u{1} no"),
        ],
    );
    let table = |place: &str, kind: &str, columns: &str, query: &str| {
        format!("CREATE EXTERNAL TABLE t {columns} STORED AS {kind} LOCATION 'FOLDER/{place}'; {query}")
    };
    let all = "SELECT sum(n) AS n FROM t";
    wrong_everywhere(home.path(), &table("damaged/", "PARQUET", "", all), &["damaged/part-3.parquet`: ", "damaged"]);
    wrong_everywhere(home.path(), &table("no.parquet", "PARQUET", "", all), &["no.parquet`: "]);
    wrong_everywhere(home.path(), &table("no.parquet", "PARQUET", "(n BIGINT)", all), &["no.parquet`: "]);
    wrong_everywhere(home.path(), &table("broken.json", "JSON", "(n BIGINT)", all), &["broken.json`: "]);
    wrong_everywhere(home.path(), &table("broken.avro", "AVRO", "(n BIGINT)", all), &["broken.avro`: "]);
    // Columns are those of the first file; another is named when it is read, unless nothing of it is asked for.
    everywhere(home.path(), &table("mixed/", "PARQUET", "", all), "n\n999000\n");
    let mixed = table("mixed/", "PARQUET", "", "SELECT sum(m) AS m FROM t");
    wrong_everywhere(home.path(), &mixed, &["mixed/b.parquet`: column `m` is ", "and Int64 in the table"]);
    let merged = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'FOLDER/mixed/' OPTIONS ('mergeSchema' 'true')";
    wrong_everywhere(home.path(), merged, &["mixed/b.parquet`: column `m` is ", "Int64 in `", "mixed/a.parquet"]);
    wrong_everywhere(home.path(), &table("gone.csv", "CSV", "(n BIGINT)", all), &["gone.csv`: there is no such file"]);
    let told = table("mixed/", "PARQUET", "(n BIGINT, m BIGINT)", "SELECT sum(m) AS m FROM t");
    wrong_everywhere(home.path(), &told, &["mixed/b.parquet`: column `m` is ", "and Int64 in the table"]);
}

#[test]
fn columns_that_later_files_have_are_there_if_schemas_are_merged() {
    let home = tempfile::tempdir().unwrap();
    let made = "COPY (SELECT 1 AS a) TO 'FOLDER/t/a/' STORED AS PARQUET;
        COPY (SELECT 2 AS a, 3 AS b) TO 'FOLDER/t/b/' STORED AS PARQUET";
    ask("local[2]", &[], home.path(), made).succeeded();
    for (options, wanted) in [("", "a\n1\n2\n"), (" OPTIONS ('merge_schema' 'true')", "a,b\n1,\n2,3\n")] {
        let table = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'FOLDER/t/'{options}; ");
        everywhere(home.path(), &format!("{table}SELECT * FROM t ORDER BY a"), wanted);
    }
}

/// An Avro file of one block, by hand: nothing here writes them. Rows are a number below 32 and, if that is odd, a text.
fn avro(numbers: std::ops::Range<u8>) -> Vec<u8> {
    // Lengths and numbers take twice their value and one byte, or for the schema's two.
    let text = |bytes: &[u8]| {
        let twice = bytes.len() * 2;
        let length = if twice < 128 { vec![twice as u8] } else { vec![(twice % 128) as u8 | 128, (twice / 128) as u8] };
        [&length, bytes].concat()
    };
    let schema =
        br#"{"type":"record","name":"r","fields":[{"name":"n","type":"long"},{"name":"t","type":["null","string"]}]}"#;
    let row = |n: u8| match n % 2 {
        0 => vec![n * 2, 0],
        _ => [vec![n * 2, 2], text(format!("row {n}").as_bytes())].concat(),
    };
    let (count, rows) = (numbers.len() as u8, numbers.flat_map(row).collect::<Vec<u8>>());
    let (codec, sync) = ([text(b"avro.codec"), text(b"null")].concat(), [7; 16]);
    let header = [b"Obj\x01\x04".as_slice(), &text(b"avro.schema"), &text(schema), &codec, &[0], &sync].concat();
    [header, vec![count * 2], text(&rows), sync.to_vec()].concat()
}

#[test]
fn avro_files_are_read_whole() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("t")).unwrap();
    fs::write(home.path().join("t/a.avro"), avro(0..5)).unwrap();
    fs::write(home.path().join("t/b.avro"), avro(5..9)).unwrap();
    let statements = "CREATE EXTERNAL TABLE t STORED AS AVRO LOCATION 'FOLDER/t/';
        SELECT count(*) AS rows, sum(n) AS n, count(t) AS texts, max(t) AS last FROM t";
    everywhere(home.path(), statements, "rows,n,texts,last\n9,36,4,row 7\n");
}

#[test]
fn lines_of_text_are_rows_whatever_files_are_called() {
    use std::io::Write;
    let home = tempfile::tempdir().unwrap();
    let long: String = (0..200_000).map(|n| if n % 3 == 0 { format!("{n}\r\n") } else { format!("{n}\n") }).collect();
    write(home.path(), &[("t/a.log", "one\ntwo\rthree"), ("t/b", "\n\"f,i\"ve\r\n"), ("long.txt", &long)]);
    let file = fs::File::create(home.path().join("t/c.txt.gz")).unwrap();
    let mut file = flate2::write::GzEncoder::new(file, Default::default());
    file.write_all(b"six\n").unwrap();
    file.finish().unwrap();
    let table = |columns: &str, place: &str| {
        format!("CREATE EXTERNAL TABLE t {columns} STORED AS TEXT LOCATION 'FOLDER/{place}'; ")
    };
    for (place, query, wanted) in [
        ("t/", "SELECT count(*) AS n, sum(length(value)) AS l, max(value) AS m FROM t", "n,l,m\n6,21,two\n"),
        ("t/", "SELECT value FROM t WHERE value LIKE '%ve'", "value\n\"\"\"f,i\"\"ve\"\n"),
        ("long.txt", "SELECT count(*) AS n, sum(value::bigint) AS s FROM t", "n,s\n200000,19999900000\n"),
    ] {
        everywhere(home.path(), &format!("{}{query}", table("", place)), wanted);
    }
    everywhere(
        home.path(),
        &format!("{}SELECT min(line) AS l FROM t WHERE line <> ''", table("(line TEXT)", "t/")),
        "l\n\"\"\"f,i\"\"ve\"\n",
    );
    wrong_everywhere(home.path(), &table("(n INT)", "t/"), &["column `n` is Int32, and must be text"]);
    let back = "COPY (SELECT CASE WHEN value % 2 = 0 THEN '' ELSE concat(value, ',\"') END AS line FROM range(0, 100))
            TO 'FOLDER/out/' STORED AS TEXT;
        CREATE EXTERNAL TABLE back STORED AS TEXT LOCATION 'FOLDER/out/';
        SELECT count(*) AS n, count(DISTINCT value) AS d, sum(length(value)) AS l FROM back";
    let outcome = ask("local-cluster[2,1]", &[], home.path(), back).succeeded();
    assert!(outcome.stdout.ends_with("n,d,l\n100,51,195\n"), "{}", outcome.stdout);
}

/// Whoever reads a folder between a write's entry and its end sees none of it, and is told whose it is.
#[test]
fn a_write_that_is_committed_and_not_published_is_waited_for() {
    let home = tempfile::tempdir().unwrap();
    ask("local[2]", &[], home.path(), "COPY (SELECT 1 AS n) TO 'FOLDER/t/' STORED AS CSV").succeeded();
    let table = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'FOLDER/t/'; SELECT sum(n) AS n FROM t";
    everywhere(home.path(), table, "n\n1\n");
    let log = crate::harness::files_below(&home.path().join("t/_vonk/log"));
    let done = log.iter().find(|file| file.extension().is_some_and(|kind| kind == "done")).unwrap();
    fs::remove_file(done).unwrap();
    let folder = home.path().join("t");
    let lines = std::thread::spawn(move || Program::new(&["lines", folder.to_str().unwrap()]).master("local[2]").run());
    let says = ["is committed but not published yet", "vonk repair"];
    ask("local[2]", &[], home.path(), table).failed(1, &says);
    lines.join().unwrap().failed(1, &says);
}

/// Nothing is to be seen of a write whose query fails when some of its rows are written.
#[test]
fn a_write_that_fails_midway_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let rows: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    write(home.path(), &[("numbers.csv", &format!("n\n{rows}"))]);
    for (at, (master, conf)) in MASTERS.into_iter().enumerate() {
        let out = format!("out-{at}");
        let copy =
            format!("COPY (SELECT 1 / (n - 150000) AS n FROM 'FOLDER/numbers.csv') TO 'FOLDER/{out}/' STORED AS CSV");
        ask(master, conf, home.path(), &copy).failed(1, &["ivide by zero"]);
        let left = crate::harness::files_below(&home.path().join(&out));
        let visible = |file: &&std::path::PathBuf| !file.to_str().unwrap().contains("/_vonk/");
        assert_eq!(left.iter().find(visible), None, "{master} {conf:?}");
        assert!(!left.iter().any(|file| file.to_str().unwrap().contains("/stage/")), "{master} {conf:?}: {left:?}");
    }
}

#[test]
fn an_insert_overwrites_what_was_there() {
    let home = tempfile::tempdir().unwrap();
    for (at, (master, conf)) in MASTERS.into_iter().enumerate() {
        let statements = format!(
            "COPY (SELECT 1 AS n) TO 'FOLDER/t-{at}/' STORED AS PARQUET;
             CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'FOLDER/t-{at}/';
             INSERT INTO t VALUES (2); SELECT sum(n) AS n FROM t;
             INSERT OVERWRITE t SELECT n * 10 FROM t; SELECT sum(n) AS n FROM t"
        );
        let outcome = ask(master, conf, home.path(), &statements).succeeded();
        let sums: Vec<&str> = outcome.stdout.split("n\n").filter_map(|rest| rest.lines().next()).collect();
        assert!(sums.contains(&"3") && sums.last() == Some(&"30"), "{master} {conf:?}: {}", outcome.stdout);
    }
}

/// As docs/sql.md says it.
#[test]
fn whole_numbers_wrap_around_and_decimals_do_not() {
    let home = tempfile::tempdir().unwrap();
    let most = "9".repeat(38);
    write(home.path(), &[("t.csv", &format!("n,d\n9223372036854775807,{most}\n1,1\n"))]);
    let table = "CREATE EXTERNAL TABLE t (n BIGINT, d DECIMAL(38, 0)) STORED AS CSV LOCATION 'FOLDER/t.csv'
        OPTIONS ('has_header' 'true'); ";
    let least = i64::MIN;
    for (query, wanted) in [
        ("SELECT max(n) + 1 AS n FROM t", format!("n\n{least}\n")),
        ("SELECT sum(n) AS n FROM t", format!("n\n{least}\n")),
    ] {
        everywhere(home.path(), &format!("{table}{query}"), &wanted);
    }
    let decimals = format!("{table}SELECT d + d AS d FROM t");
    wrong_everywhere(home.path(), &decimals, &["verflow"]);
}

/// What docs/sql.md says of Spark's dialect, on executors.
#[test]
fn executors_speak_sparks_dialect() {
    let home = tempfile::tempdir().unwrap();
    write(home.path(), &[("p.csv", "id,name,born\n1,Ada,1815-12-10\n2,Alan,1912-06-23\n")]);
    let table = "CREATE EXTERNAL TABLE p (id BIGINT, name STRING, born DATE) STORED AS CSV LOCATION 'FOLDER/p.csv'
        OPTIONS ('has_header' 'true'); ";
    let query = "SELECT `name`, substring(name, 0, 2) AS s, hex(id + 16) AS h, if(id > 0, 'a', 'b') AS i,
            born + INTERVAL 1 DAY AS day, born - INTERVAL '1' MONTH AS month, datediff(born, DATE '1815-12-01') AS n,
            date_add(born, CAST(id AS INT)) AS later, extract(YEAR FROM born) AS y
        FROM p WHERE name = \"Ada\"";
    let wanted = "name,s,h,i,day,month,n,later,y\nAda,Ad,11,a,1815-12-11,1815-11-10,9,1815-12-11,1815\n";
    let ask = |text: &str| ask("local-cluster[2,1]", &["sql.dialect=spark"], home.path(), &format!("{table}{text}"));
    let outcome = ask(query).succeeded();
    assert_eq!(outcome.stdout, wanted, "{}", outcome.stderr);
    for refused in [
        "CREATE TABLE u USING csv LOCATION 'FOLDER/p.csv'",
        "CREATE TEMPORARY VIEW v USING csv OPTIONS (path 'FOLDER/p.csv')",
        "SELECT born + INTERVAL 1 YEAR 2 MONTHS FROM p",
        "SELECT year(born) FROM p",
    ] {
        ask(refused).failed(1, &["error: "]);
    }
}

#[test]
fn rows_of_files_are_inserted_into_tables_of_the_session() {
    let home = tempfile::tempdir().unwrap();
    write(home.path(), &[("numbers.csv", "n\n1\n2\n3\n")]);
    let statements = "CREATE TABLE kept (n BIGINT); INSERT INTO kept SELECT n FROM 'FOLDER/numbers.csv' WHERE n > 1; \
                      SELECT sum(n) AS total FROM kept";
    for (master, conf) in MASTERS {
        let outcome = ask(master, conf, home.path(), statements).succeeded();
        assert!(outcome.stdout.contains("total\n5\n"), "{master} {conf:?}: {}", outcome.stdout);
    }
}
