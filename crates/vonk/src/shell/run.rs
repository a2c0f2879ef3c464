//! How are statements and commands carried out?

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use driver::terminal::Terminal;
use futures::StreamExt;
use sql::datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use sql::datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use sql::datafusion::arrow::util::display::FormatOptions;
use sql::datafusion::common::DataFusionError;
use sql::datafusion::execution::FunctionRegistry;
use sql::datafusion::physical_plan::{ExecutionPlan, execute_stream};
use sql::datafusion::prelude::SessionContext;
use sql::datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, dialect_from_str};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

use super::commands::{self, COMMANDS, Command};
use super::format::{self, Format, Layout, RowWriter};
use super::output::{self, Output, Sink};
use super::source::Source;
use super::statements::{Piece, cut};
use super::threads::Threads;
use crate::Context;
use crate::complaint::{Known, complaint, job_error};
use crate::config::Config;

/// Batches that a query may be ahead of what writes them.
const BATCHES_AHEAD: usize = 2;

/// Rows of a table that are shown on a screen unless `\set rows` says otherwise.
pub(crate) const SCREEN_ROWS: usize = 1_000;

/// How often a person is told how far a query is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A query shorter than this shows no progress: a flash on the screen tells nobody anything.
const QUIET: Duration = Duration::from_millis(400);

/// Files that run files that run files: deeper is a file that runs itself.
const FILES_DEEP: usize = 16;

/// What `\d` runs.
const TABLES: &str = "SELECT table_schema AS schema, table_name AS name, table_type AS kind FROM information_schema.tables \
                      WHERE table_schema <> 'information_schema' ORDER BY table_schema, table_name";

/// Why the shell does not go on with what it was given.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Something is wrong.
    Failed(anyhow::Error),
    /// Somebody pressed Ctrl-C.
    Interrupted,
    /// Nobody reads the results any more.
    Unread,
    /// It was told to leave.
    Quit,
}

impl<E: Into<anyhow::Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Why text that is to be run cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScriptError {
    #[error("read {0}")]
    Read(String, #[source] io::Error),
    #[error("run {0}: files run each other more than {FILES_DEEP} deep")]
    TooDeep(String),
}

/// What the person can set.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) format: Format,
    pub(crate) header: bool,
    pub(crate) timing: bool,
    /// What shows results that are taller than the screen, if anything does.
    pub(crate) pager: Option<String>,
    /// How many rows of a table are shown; all if not said.
    pub(crate) rows: Option<usize>,
}

/// A shell on a running application.
pub(crate) struct Shell<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) session: SessionContext,
    pub(crate) settings: Settings,
    pub(crate) output: Output,
    /// What is in force, for `\conf`.
    pub(crate) config: Config,
    /// Whether a person types the statements: then Ctrl-C is the shell's.
    pub(crate) interactive: bool,
    /// Where queries run.
    pub(crate) threads: Threads,
    /// Files within files that are being run.
    pub(crate) depth: usize,
}

impl Shell<'_> {
    /// Runs a text to its end, or to its first error.
    pub(crate) fn script(&mut self, mut text: impl BufRead, origin: Option<&str>) -> Result<(), Stop> {
        let mut pending = String::new();
        let mut line = String::new();
        // The number of the line with which `pending` begins.
        let mut number = 1;
        loop {
            line.clear();
            let read = text.read_line(&mut line);
            let name = || origin.unwrap_or("standard input").to_owned();
            let ended = read.map_err(|error| ScriptError::Read(name(), error))? == 0;
            pending.push_str(&line);
            // Nothing else completes anything, and a long statement need not be looked at again for each of its lines.
            if !ended && !line.contains(';') && !line.trim_start().starts_with('\\') {
                continue;
            }
            let done = self.pieces(&pending, number, origin, ended)?;
            if ended {
                return Ok(());
            }
            number += pending[..done].matches('\n').count();
            pending.drain(..done);
        }
    }

    /// Runs what is complete in a text, and the rest too if the text has ended. Gives the place where the rest begins.
    pub(crate) fn pieces(
        &mut self,
        text: &str,
        first_line: usize,
        origin: Option<&str>,
        ended: bool,
    ) -> Result<usize, Stop> {
        let cut = cut(text, &*dialect(&self.session));
        let rest = (ended && cut.unfinished).then(|| Piece::Statement(cut.rest.clone()));
        for piece in cut.pieces.into_iter().chain(rest) {
            match piece {
                Piece::Statement(at) => {
                    let line = first_line + text[..at.start].matches('\n').count();
                    self.statement(&Source { text: text[at].trim_end(), line, origin, written: true })?;
                }
                Piece::Command(at) => self.command(text[at].parse()?)?,
            }
        }
        Ok(cut.rest.start)
    }

    /// Runs a file.
    pub(crate) fn file(&mut self, path: &Path) -> Result<(), Stop> {
        let name = path.display().to_string();
        if self.depth >= FILES_DEEP {
            return Err(ScriptError::TooDeep(name).into());
        }
        let file = std::fs::File::open(path).map_err(|error| ScriptError::Read(name.clone(), error))?;
        self.depth += 1;
        let done = self.script(io::BufReader::new(file), Some(&name));
        self.depth -= 1;
        done
    }

    /// Carries out a command.
    pub(crate) fn command(&mut self, command: Command) -> Result<(), Stop> {
        match command {
            Command::Tables => self.statement(&Source::own(TABLES))?,
            Command::Describe(table) => self.statement(&Source::own(&format!("DESCRIBE {table}")))?,
            Command::Timing(timing) => {
                self.settings.timing = timing.unwrap_or(!self.settings.timing);
                self.say(&format!("timing is {}", on_off(self.settings.timing)));
            }
            Command::Output(None) => self.output = Output::Stdout,
            Command::Output(Some(path)) => self.output = Output::file(&path)?,
            Command::Include(path) => self.file(&path)?,
            Command::Format(Some(format)) => self.settings.format = format,
            Command::Format(None) => self.say(&format!("format is {}", name_of(self.settings.format))),
            Command::Set(None) => self.show_settings()?,
            Command::Set(Some((name, value))) => self.set(&name, value.as_deref())?,
            Command::Conf(words) => self.show_config(words.as_deref().unwrap_or_default())?,
            Command::Help => {
                let widest = COMMANDS.iter().map(|(usage, _)| usage.len()).max().unwrap_or(0);
                let lines: Vec<String> =
                    COMMANDS.iter().map(|(usage, about)| format!("{usage:widest$}  {about}")).collect();
                self.say(&format!("A statement ends with a semicolon. Commands:\n{}", lines.join("\n")));
            }
            Command::Quit => return Err(Stop::Quit),
        }
        Ok(())
    }

    /// Runs a statement and writes its rows.
    pub(crate) fn statement(&mut self, source: &Source<'_>) -> Result<(), Stop> {
        let mut output = std::mem::replace(&mut self.output, Output::Stdout);
        let outcome = self.run_rows(source, &mut output);
        self.output = output;
        self.ctx.terminal().working(None);
        self.ctx.terminal().show();
        if !matches!(outcome, Ok(Ok((Told::Done | Told::Rows(_), _)))) {
            self.threads.settle();
        }
        let told = match outcome?? {
            (Told::Done, took) => ("done".to_owned(), took),
            (Told::Rows(1), took) => ("1 row".to_owned(), took),
            (Told::Rows(rows), took) => (format!("{} rows", grouped(rows)), took),
            (Told::First(rows), took) => {
                (format!("first {} rows; `\\set rows all` shows every row", grouped(rows)), took)
            }
        };
        if self.settings.timing {
            self.say(&format!("{} ({:.3} s)", told.0, told.1.as_secs_f64()));
        }
        Ok(())
    }

    fn run_rows(&mut self, source: &Source<'_>, output: &mut Output) -> Result<Result<(Told, Duration), Stop>, Stop> {
        let threads = self.threads.handle()?;
        Ok(self.ctx.block_on(Box::pin(self.rows(source, output, threads)))?)
    }

    /// Computes the rows of a statement on the threads of queries, and writes them as they come.
    async fn rows(&self, source: &Source<'_>, output: &mut Output, threads: Handle) -> Result<(Told, Duration), Stop> {
        let started = Instant::now();
        let stopped = |ended| match ended {
            Ended::Failed(error) => self.failed(source, &error),
            Ended::Panicked => Stop::Failed(anyhow::Error::msg("the query panicked; see the lines above")),
            Ended::Interrupted => Stop::Interrupted,
        };
        let interrupt = if self.interactive { Some(signal(SignalKind::interrupt())?) } else { None };
        let compute = (self.session.clone(), source.text.to_owned());
        let mut query = Query::start(compute, &threads, interrupt, self.ctx.terminal());
        let Some(Item::Columns(schema)) = query.next().await.map_err(stopped)? else {
            return Ok((Told::Done, started.elapsed()));
        };
        if schema.fields().is_empty() {
            while query.next().await.map_err(stopped)?.is_some() {}
            return Ok((Told::Done, started.elapsed()));
        }
        let Settings { format, header, rows, .. } = self.settings;
        let options = self.session.copied_config().options().format.clone();
        let mut values = FormatOptions::try_from(&options).map_err(|error| self.failed(source, &error))?;
        if options.null.is_empty() && format.for_people() {
            values = values.with_null("NULL");
        }
        let screen = output.is_screen();
        let width = screen.then(output::size).flatten().map(|(width, _)| width);
        let mut writing = Writing {
            rows: 0,
            read: Duration::ZERO,
            limit: rows.filter(|_| format.for_people()),
            writer: format.writer(&schema, Layout { header, width, values }),
            sink: output.begin(self.settings.pager.as_deref()),
        };
        while let Some(item) = query.next().await.map_err(stopped)? {
            let Item::Rows(batch) = item else { continue };
            if screen {
                self.ctx.terminal().hide();
            }
            if !writing.write(&batch).map_err(unread)? {
                let took = started.elapsed().saturating_sub(writing.read);
                return writing.end().map(|rows| (Told::First(rows), took)).map_err(unread);
            }
        }
        let took = started.elapsed().saturating_sub(writing.read);
        writing.end().map(|rows| (Told::Rows(rows), took)).map_err(unread)
    }

    /// An error as it is reported: a job's own, or a sentence with the place in the statement.
    fn failed(&self, source: &Source<'_>, error: &DataFusionError) -> Stop {
        if let Some(job) = job_error(error) {
            return Stop::Failed(job.clone().into());
        }
        let complaint = complaint(error, &known(&self.session));
        let dialect = dialect(&self.session);
        Stop::Failed(anyhow::Error::msg(source.explain(&complaint, &*dialect)))
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), Stop> {
        let wanted = |wanted: &str| commands::invalid(&format!("\\set {name}"), value.unwrap_or_default(), wanted);
        let on = || match value {
            Some(value) => commands::switch(&format!("\\set {name}"), value),
            None => Ok(true),
        };
        match name {
            "format" => {
                let names = Format::value_variants().iter().map(|f| name_of(*f)).collect::<Vec<_>>().join(", ");
                let value = value.ok_or_else(|| wanted(&names))?;
                self.settings.format = commands::format("\\set format", value)?;
            }
            "header" => self.settings.header = on()?,
            "timing" => self.settings.timing = on()?,
            "pager" => {
                self.settings.pager = match value {
                    Some("off") => None,
                    None | Some("on") => Some(output::PAGER.to_owned()),
                    Some(program) => Some(program.to_owned()),
                }
            }
            "rows" => {
                self.settings.rows = match value {
                    Some("all") => None,
                    Some(number) => Some(number.parse().map_err(|_| wanted("a number, or all"))?),
                    None => Some(SCREEN_ROWS),
                }
            }
            _ => return Err(wanted("one of format, header, pager, rows, timing").into()),
        }
        Ok(())
    }

    fn show_settings(&mut self) -> Result<(), Stop> {
        let Settings { format, header, timing, pager, rows } = self.settings.clone();
        let pager = pager.map_or_else(|| "off".to_owned(), |p| if p == output::PAGER { "on".to_owned() } else { p });
        let rows = [
            ("format", name_of(format)),
            ("header", on_off(header).to_owned()),
            ("pager", pager),
            ("rows", rows.map_or_else(|| "all".to_owned(), |rows| rows.to_string())),
            ("timing", on_off(timing).to_owned()),
        ];
        let rows: Vec<[String; 2]> = rows.into_iter().map(|(name, value)| [name.to_owned(), value]).collect();
        self.own_rows(["name", "value"], &rows)
    }

    fn show_config(&mut self, words: &str) -> Result<(), Stop> {
        let shown = crate::config::settings().into_iter().filter(|s| s.key.contains(words) || s.about.contains(words));
        let rows: Vec<[String; 3]> =
            shown.map(|s| [s.key.to_owned(), s.value(self.config.values()).to_owned(), s.about.to_owned()]).collect();
        self.own_rows(["key", "value", "meaning"], &rows)
    }

    /// Writes rows that no query made.
    fn own_rows<const N: usize>(&mut self, names: [&str; N], rows: &[[String; N]]) -> Result<(), Stop> {
        let schema: SchemaRef =
            Arc::new(Schema::new(names.map(|name| Field::new(name, DataType::Utf8, false)).to_vec()));
        let column = |index| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r[index]))) };
        let batch = RecordBatch::try_new(Arc::clone(&schema), (0..N).map(column).collect())?;
        let width = if self.output.is_screen() { output::size().map(|(width, _)| width) } else { None };
        let layout = Layout { header: self.settings.header, width, values: FormatOptions::new() };
        let mut writing = Writing {
            rows: 0,
            read: Duration::ZERO,
            limit: None,
            writer: self.settings.format.writer(&schema, layout),
            sink: self.output.begin(self.settings.pager.as_deref()),
        };
        writing.write(&batch).map_err(unread)?;
        writing.end().map_err(unread)?;
        Ok(())
    }

    /// Says something that is no result.
    pub(crate) fn say(&self, text: &str) {
        self.ctx.terminal().print(format!("{text}\n").as_bytes());
    }
}

/// What is told after a result.
enum Told {
    /// There were no columns.
    Done,
    Rows(u64),
    /// There are more.
    First(u64),
}

/// A query that runs. Dropping it cancels it.
struct Query<'a> {
    terminal: &'a Terminal,
    started: Instant,
    look: Interval,
    /// Once it is planned.
    plan: Option<Arc<dyn ExecutionPlan>>,
    tasks: JoinSet<()>,
    items: mpsc::Receiver<Result<Item, DataFusionError>>,
    /// Ctrl-C, where it is the shell's.
    interrupt: Option<Signal>,
}

/// What a query sends to what writes its rows.
enum Item {
    Planned(Arc<dyn ExecutionPlan>),
    Columns(SchemaRef),
    Rows(RecordBatch),
}

/// Why a query gives no more, before its end.
enum Ended {
    Failed(DataFusionError),
    Panicked,
    Interrupted,
}

impl<'a> Query<'a> {
    /// Starts it on the threads of queries, so that Ctrl-C is heard whatever it does there.
    fn start(
        (session, text): (SessionContext, String),
        threads: &Handle,
        interrupt: Option<Signal>,
        terminal: &'a Terminal,
    ) -> Self {
        let (sender, items) = mpsc::channel(BATCHES_AHEAD);
        let mut tasks = JoinSet::new();
        tasks.spawn_on(Box::pin(compute(session, text, sender)), threads);
        let started = Instant::now();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { terminal, started, look, plan: None, tasks, items, interrupt }
    }

    async fn next(&mut self) -> Result<Option<Item>, Ended> {
        let item = loop {
            let interrupted = async {
                match &mut self.interrupt {
                    Some(signal) => signal.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = interrupted => return Err(Ended::Interrupted),
                item = self.items.recv() => match item {
                    Some(Ok(Item::Planned(plan))) => self.plan = Some(plan),
                    item => break item,
                },
                _ = self.look.tick() => self.show_progress(),
            }
        };
        match item {
            Some(item) => item.map(Some).map_err(Ended::Failed),
            None => match self.tasks.join_next().await {
                Some(Err(error)) if error.is_panic() => Err(Ended::Panicked),
                _ => Ok(None),
            },
        }
    }
}

impl Query<'_> {
    /// Says how far a plan is that runs in this process. One that runs as stages has counted no rows here.
    fn show_progress(&self) {
        let rows = self.plan.as_deref().map_or(0, scanned);
        let took = self.started.elapsed();
        if rows > 0 && took >= QUIET {
            self.terminal.working(Some(format!("scanned {} rows in {:.1} s", grouped(rows), took.as_secs_f64())));
        }
    }
}

/// How many rows the leaves of a plan have given.
fn scanned(plan: &dyn ExecutionPlan) -> u64 {
    let children = plan.children();
    if children.is_empty() {
        return plan.metrics().and_then(|metrics| metrics.output_rows()).unwrap_or(0) as u64;
    }
    children.into_iter().map(|child| scanned(child.as_ref())).sum()
}

/// Plans a statement and computes its rows until nobody takes them.
async fn compute(session: SessionContext, text: String, rows: mpsc::Sender<Result<Item, DataFusionError>>) {
    let stream = async {
        let frame = sql::plan(&session, &text).await?;
        let context = Arc::new(frame.task_ctx());
        let plan = frame.create_physical_plan().await?;
        Ok((Arc::clone(&plan), execute_stream(plan, context)?))
    };
    // A receiver that has gone needs no answer.
    let (plan, mut stream) = match stream.await {
        Ok(planned) => planned,
        Err(error) => return drop(rows.send(Err(error)).await),
    };
    for item in [Item::Planned(plan), Item::Columns(stream.schema())] {
        if rows.send(Ok(item)).await.is_err() {
            return;
        }
    }
    while let Some(batch) = stream.next().await {
        let failed = batch.is_err();
        if rows.send(batch.map(Item::Rows)).await.is_err() || failed {
            return;
        }
    }
}

/// A result that is being written.
struct Writing<'a> {
    rows: u64,
    /// How long it waited for a person to read: that is no time of the query.
    read: Duration,
    limit: Option<usize>,
    writer: Box<dyn RowWriter + 'a>,
    sink: Sink<'a>,
}

impl Writing<'_> {
    /// Writes a batch; false if it held more than may be written.
    fn write(&mut self, batch: &RecordBatch) -> Result<bool, format::Error> {
        let left = self.limit.map_or(u64::MAX, |limit| (limit as u64).saturating_sub(self.rows));
        let rows = batch.num_rows().min(usize::try_from(left).unwrap_or(usize::MAX));
        let started = Instant::now();
        self.writer.write(&batch.slice(0, rows), &mut self.sink)?;
        self.sink.flush()?;
        if self.sink.is_read() {
            self.read += started.elapsed();
        }
        self.rows += rows as u64;
        Ok(rows == batch.num_rows())
    }

    /// Gives the number of rows.
    fn end(mut self) -> Result<u64, format::Error> {
        self.writer.end(&mut self.sink)?;
        self.sink.finish()?;
        Ok(self.rows)
    }
}

/// A pager or program that has gone wants no more; that is no error.
fn unread(error: format::Error) -> Stop {
    match error {
        format::Error::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => Stop::Unread,
        error => error.into(),
    }
}

/// The dialect that the session reads.
pub(crate) fn dialect(session: &SessionContext) -> Box<dyn Dialect> {
    let name = session.copied_config().options().sql_parser.dialect.to_string();
    dialect_from_str(name).unwrap_or_else(|| Box::new(GenericDialect {}))
}

/// What a name that is wrong could have been meant to be.
fn known(session: &SessionContext) -> Known {
    Known { tables: table_names(session), functions: functions(session) }
}

/// Names of all functions.
pub(crate) fn functions(session: &SessionContext) -> Vec<String> {
    let functions = session.udfs().into_iter().chain(session.udafs()).chain(session.udwfs());
    let mut functions: Vec<String> = functions.collect();
    functions.sort_unstable();
    functions.dedup();
    functions
}

/// Names of tables and views, with their schema unless it is the session's own.
pub(crate) fn table_names(session: &SessionContext) -> Vec<String> {
    let mut names = Vec::new();
    for catalog_name in session.catalog_names() {
        let Some(catalog) = session.catalog(&catalog_name) else { continue };
        for schema_name in catalog.schema_names() {
            let Some(schema) = catalog.schema(&schema_name).filter(|_| schema_name != "information_schema") else {
                continue;
            };
            let own = schema_name == "public";
            names.extend(schema.table_names().into_iter().map(|name| match own {
                true => name,
                false => format!("{schema_name}.{name}"),
            }));
        }
    }
    names.sort_unstable();
    names
}

pub(crate) fn name_of(format: Format) -> String {
    format.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn on_off(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}

/// `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn large_numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
