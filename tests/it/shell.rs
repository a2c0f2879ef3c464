//! Does `vonk sql` do what it is told, and say what is wrong?

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::harness::{Outcome, Program};

const VONK: &str = env!("CARGO_BIN_EXE_command");

/// `vonk sql` in one process, with these arguments.
fn sql(args: &[&str]) -> Program {
    let all: Vec<&str> = ["sql", "--master", "local[2]"].iter().chain(args).copied().collect();
    Program::of(VONK, &all)
}

fn run(args: &[&str]) -> Outcome {
    sql(args).run()
}

/// A statement of the command line that is wrong; gives stderr.
fn wrong(statement: &str) -> String {
    let outcome = run(&["-e", "CREATE TABLE orders AS SELECT 1 AS id, 'a' AS name", "-e", statement]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    let report = outcome.stderr.split_once("error: ").map(|(_, report)| report.to_owned());
    report.unwrap_or_else(|| panic!("no error is reported:\n{}", outcome.stderr)).trim_end().to_owned()
}

#[test]
fn statements_of_the_command_line_run_in_one_session() {
    let outcome =
        run(&["-e", "CREATE TABLE t AS SELECT 1 AS a; INSERT INTO t VALUES (2)", "-e", "SELECT * FROM t ORDER BY a"])
            .succeeded();
    let want = "┌───────┐\n│ count │\n├───────┤\n│     1 │\n└───────┘\n┌───┐\n│ a │\n├───┤\n│ 1 │\n│ 2 │\n└───┘\n";
    assert_eq!(outcome.stdout, want);
    for told in ["done (", "1 row (", "2 rows ("] {
        assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    }
    let quiet = run(&["--quiet", "--format", "csv", "--no-header", "-e", "SELECT 1, 'x,y'"]).succeeded();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("1,\"x,y\"\n", ""));
}

#[test]
fn stdin_and_files_hold_statements_and_commands() {
    let script = "-- a comment; nothing\n\\format ndjson\nSELECT 1 AS a,\n  ';' AS b;\n\\timing off\nSELECT 2 AS c";
    let program = Program::of("sh", &["-c", "exec \"$0\" sql --master 'local[1]' < in.sql", VONK]);
    fs::write(program.home().join("in.sql"), script).unwrap();
    let outcome = program.run_leaving().succeeded();
    assert_eq!(outcome.stdout, "{\"a\":1,\"b\":\";\"}\n{\"c\":2}\n");
    assert_eq!(outcome.stderr.matches(" row (").count(), 1, "{}", outcome.stderr);

    let program = sql(&["--format", "csv", "-f", "outer.sql", "-e", "SELECT * FROM made"]);
    fs::write(program.home().join("outer.sql"), "\\i 'inner one.sql'\n").unwrap();
    fs::write(program.home().join("inner one.sql"), "CREATE VIEW made AS SELECT 7 AS n;\n").unwrap();
    assert_eq!(program.run_leaving().succeeded().stdout, "n\n7\n");
}

#[test]
fn odd_values_of_partitions_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let statements = format!(
        "COPY (SELECT 1 AS n, 'a b/c=d ü%25+x' AS k UNION ALL SELECT 2, 'plain' UNION ALL SELECT 3, NULL) TO '{out}/'
             STORED AS PARQUET PARTITIONED BY (k);
         CREATE EXTERNAL TABLE odd STORED AS PARQUET PARTITIONED BY (k) LOCATION '{out}/';
         SELECT n, k FROM odd WHERE n < 3 ORDER BY n"
    );
    let outcome = run(&["--format", "csv", "-e", &statements]).succeeded();
    assert!(outcome.stdout.ends_with("1,a b/c=d ü%25+x\n2,plain\n"), "{}", outcome.stdout);
}

#[test]
fn files_are_tables_and_results_become_files() {
    let program = sql(&[
        "-e",
        "\\o out.csv",
        "-e",
        "\\format csv",
        "-e",
        "SELECT name, sum(n) AS n FROM 'in.csv' GROUP BY name ORDER BY name",
    ]);
    fs::write(program.home().join("in.csv"), "name,n\na,1\nb,2\na,3\n").unwrap();
    let outcome = program.run_leaving().succeeded();
    assert_eq!(outcome.stdout, "");
    assert_eq!(fs::read_to_string(outcome.home.path().join("out.csv")).unwrap(), "name,n\na,4\nb,2\n");
}

#[test]
fn commands_show_tables_columns_and_configuration() {
    let args = [
        "--format",
        "csv",
        "-e",
        "CREATE TABLE t (a INT, b VARCHAR)",
        "-e",
        "\\d",
        "-e",
        "\\d t",
        "-e",
        "\\conf sql.adaptive",
    ];
    let outcome = run(&args).succeeded();
    for line in ["public,t,BASE TABLE\n", "a,Int32,YES\n", "sql.adaptive,true,"] {
        assert!(outcome.stdout.contains(line), "lacks {line}:\n{}", outcome.stdout);
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_the_nearest_name() {
    assert_eq!(
        wrong("SELECT *\nFROM ordrs"),
        "there is no table `ordrs`; did you mean `orders`?\nline 2: FROM ordrs\n             ^"
    );
    assert_eq!(
        wrong("SELECT nmae FROM orders"),
        "there is no column `nmae`; did you mean `name`?\nline 1: SELECT nmae FROM orders\n               ^"
    );
    assert_eq!(
        wrong("SELECT coutn(*) FROM orders"),
        "there is no function `coutn`; did you mean `count`?\nline 1: SELECT coutn(*) FROM orders\n               ^"
    );
    let report = wrong("SELECT 1 +* 2");
    assert!(report.starts_with("cannot read the statement: expected an expression, found *\nline 1: "), "{report}");
    assert!(report.ends_with("\n                  ^"), "{report}");
    assert_eq!(
        wrong("SELECT 1 FROM"),
        "cannot read the statement: expected identifier, found its end\nline 1: SELECT 1 FROM\n                     ^"
    );
    assert_eq!(wrong("SELECT id / 0 FROM orders"), "division by zero");
    assert_eq!(wrong("SELECT CAST(name AS INT) FROM orders"), "cannot cast string 'a' to value of Int32 type");
    assert!(wrong("SELECT id + (1 = 1) FROM orders").contains("Int64 + Boolean"));
    assert_eq!(wrong("\\nope"), "there is no command `\\nope` (`\\?` shows all)");
}

#[test]
fn a_missing_file_is_named() {
    let outcome = run(&["-e", "SELECT * FROM 'nowhere/in.parquet'"]);
    let path = outcome.home.path().join("nowhere/in.parquet");
    outcome.failed(1, &[&format!("error: there is no table or file {}", path.display())]);
    let outcome = run(&["-e", "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/nowhere/in.csv'; SELECT * FROM t"]);
    outcome.failed(1, &["/nowhere/in.csv"]);
    let outcome = run(&["-f", "nowhere.sql"]);
    outcome.failed(1, &["error: read nowhere.sql", "because: No such file or directory"]);
}

#[test]
fn a_script_stops_at_its_first_error_and_says_where() {
    let program = sql(&["-f", "wrong.sql", "-e", "SELECT 'never'"]);
    fs::write(program.home().join("wrong.sql"), "SELECT 1;\n\nSELECT\n  nope;\nSELECT 2;\n").unwrap();
    let outcome = program.run_leaving().failed(1, &["error: there is no column `nope`\nwrong.sql:4:   nope\n"]);
    assert!(outcome.stdout.contains("│        1 │") && !outcome.stdout.contains('2'), "{}", outcome.stdout);
}

#[test]
fn wrong_flags_and_configuration_are_told_apart_from_wrong_statements() {
    run(&["--format", "xml", "-e", "SELECT 1"]).failed(2, &["invalid value 'xml'", "markdown"]);
    run(&["--conf", "mastr=x", "-e", "SELECT 1"]).failed(2, &["did you mean `master`?"]);
    Program::of(VONK, &["sql", "--master", "nowhere", "-e", "SELECT 1"]).run().failed(2, &["nowhere"]);
}

#[test]
fn rows_go_out_while_they_come_and_who_stops_reading_ends_the_query() {
    let command = "\"$0\" sql --master 'local[2]' --format csv -e 'SELECT * FROM generate_series(1, 100000000000)' | head -n 3; \
                   exit \"${PIPESTATUS[0]}\"";
    let outcome = Program::of("bash", &["-c", command, VONK]).run().succeeded();
    assert_eq!(outcome.stdout, "value\n1\n2\n");
    assert!(outcome.took < Duration::from_secs(20), "{:?}", outcome.took);
}

#[test]
fn the_shell_runs_over_executor_processes() {
    let query = "SELECT value % 3 AS k, count(*) AS n FROM generate_series(1, 30) GROUP BY k ORDER BY k";
    let program = Program::of(VONK, &["sql", "--master", "local-cluster[2,1]", "--format", "csv", "-e", query]);
    assert_eq!(program.run().succeeded().stdout, "k,n\n0,10\n1,10\n2,10\n");
    let query = "SELECT 10 / (value - 5) FROM generate_series(1, 30) GROUP BY value";
    Program::of(VONK, &["sql", "--master", "local-cluster[2,1]", "-e", query]).run().failed(1, &["ivision by zero"]);
}

/// A shell on a terminal of its own.
struct Typed {
    child: Child,
    keys: ChildStdin,
    screen: Receiver<Vec<u8>>,
    seen: String,
    home: tempfile::TempDir,
}

impl Drop for Typed {
    /// A test that failed leaves no shell behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

impl Typed {
    fn start(args: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let command = format!("stty rows 24 cols 80; exec {VONK} sql --master 'local[2]' {args}");
        let mut child = Command::new("script")
            .args(["--quiet", "--flush", "--return", "--command", &command, "/dev/null"])
            .stderr(Stdio::null())
            .env("TMPDIR", home.path())
            .env("XDG_STATE_HOME", home.path())
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .env_remove("PAGER")
            .current_dir(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let keys = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let (sender, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                if sender.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, screen, seen: String::new(), home }
    }

    fn keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until the screen shows this, and gives all that it showed since it was last asked.
    fn sees(&mut self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            match self.screen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("the screen does not show `{text}` ({error}), but:\n{}", self.seen),
            }
        }
    }

    fn ends(mut self) -> tempfile::TempDir {
        assert!(self.child.wait().unwrap().success());
        std::mem::replace(&mut self.home, tempfile::tempdir().unwrap())
    }
}

#[test]
fn ctrl_c_cancels_the_query_and_not_the_shell() {
    let mut shell = Typed::start("");
    shell.sees("vonk> ");
    shell.keys("SELECT 1 +\r");
    shell.sees("   -> ");
    shell.keys("41 AS answer;\r");
    shell.sees("│     42 │");
    shell.sees("1 row (");
    shell.sees("vonk> ");

    // Hours of work, for one row.
    shell.keys("SELECT count(*) FROM generate_series(1, 10000000) a, generate_series(1, 10000000) b WHERE a.value + b.value = 7;\r");
    shell.sees("= 7;");
    shell.sees("scanned ");
    let pressed = Instant::now();
    shell.keys("\x03");
    shell.sees("cancelled");
    assert!(pressed.elapsed() < Duration::from_secs(10), "{:?}", pressed.elapsed());
    shell.sees("vonk> ");

    // Nor does what the cancelled query may still compute keep the next from running, again and again.
    for _ in 0..3 {
        shell.keys("SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value + b.value = 7;\r");
        shell.sees("scanned ");
        shell.keys("\x03");
        shell.sees("cancelled");
        shell.keys("SELECT 6 * 7 AS answer;\r");
        shell.sees("│     42 │");
        shell.sees("vonk> ");
    }

    // Ctrl-C at the prompt forgets what was typed; a wrong statement ends nothing.
    shell.keys("SELECT 'forgotten'\r");
    shell.sees("   -> ");
    shell.keys("\x03");
    shell.sees("vonk> ");
    shell.keys("SELECT 3 AS alive FROM nowhere;\r");
    shell.sees("error: there is no table `nowhere`");
    shell.sees("vonk> ");
    shell.keys("SELECT 3 AS alive;\r");
    shell.sees("│     3 │");
    shell.sees("vonk> ");
    shell.keys("\x04");
    let home = shell.ends();

    let history = home.path().join("vonk/sql_history");
    let text = fs::read_to_string(&history).unwrap();
    assert!(text.contains("SELECT 1 +\\n41 AS answer;"), "{text}");
    assert_eq!(fs::metadata(&history).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_result_taller_than_the_screen_goes_to_the_pager() {
    let mut shell = Typed::start("--pager 'sed s/^/paged:/'");
    shell.sees("vonk> ");
    shell.keys("SELECT * FROM generate_series(1, 3);\r");
    let short = shell.sees("3 rows (");
    assert!(!short.contains("paged:"), "{short}");
    shell.keys("SELECT * FROM generate_series(1, 1500);\r");
    let long = shell.sees("first 1,000 rows; `\\set rows all` shows every row");
    assert!(long.contains("paged:│  1000 │") && !long.contains("1001"), "{long}");
    shell.sees("vonk> ");
    shell.keys("\\set rows all\r");
    shell.sees("vonk> ");
    shell.keys("SELECT * FROM generate_series(1, 1500);\r");
    let all = shell.sees("1,500 rows (");
    assert!(all.contains("paged:│  1500 │"), "{all}");
    shell.keys("exit\r");
    shell.ends();
}

#[test]
fn a_query_spills_no_more_than_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let wide = folder.path().join("wide");
    let made = format!(
        "COPY (SELECT rpad(((value * 7919) % 1000003)::varchar, 100, 'y') AS t FROM range(1, 1500000)) TO '{}/' STORED AS PARQUET",
        wide.display()
    );
    run(&["-e", &made]).succeeded();
    let table = format!("CREATE EXTERNAL TABLE w STORED AS PARQUET LOCATION '{}/'", wide.display());
    let sorted = "SELECT count(r), count(t2) FROM (SELECT lag(t) OVER (ORDER BY t) AS t2, row_number() OVER (ORDER BY t) AS r FROM w)";
    let query = |most: &str| {
        let most = format!("executor.disk_max={most}");
        let words = ["sql", "--master", "local-cluster[1,1,128m]", "--conf", &most, "--format", "csv", "--no-header"];
        Program::of(VONK, &[&words[..], &["-q", "-e", &table, "-e", sorted]].concat()).run()
    };
    let outcome = query("0").succeeded();
    assert_eq!(outcome.stdout, "1499999,1499998\n");
    assert!(outcome.stderr.contains("spilled "), "{}", outcome.stderr);
    query("8m").failed(1, &["spill rows on ", "of the 8 MiB that may be spilled are taken"]);
}
