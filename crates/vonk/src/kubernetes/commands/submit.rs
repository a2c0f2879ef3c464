//! What is to be run, and where is its driver?

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use k8s_backend::config as keys;

use super::connection::{Connection, want_kubernetes};
use super::output::Format;
use super::spark::Spark;
use super::{Usage, client_mode, cluster_mode, properties, upload};
use crate::config::{APP_NAME, ARCHIVES, Config, FILES};

/// Where the driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum DeployMode {
    /// Here: the program is this command's process
    #[default]
    Client,
    /// A pod of the cluster
    Cluster,
}

/// What a signal does to a driver that is a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnSignal {
    /// It ends
    Kill,
    /// It goes on
    Detach,
}

/// What is only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DryRun {
    /// Print what would be created, as YAML
    Client,
    /// Ask the API server whether it would create it
    Server,
}

/// Flags of `vonk submit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Submit {
    /// An executable or a file with SQL (.sql), here or in a store (s3://…), or an executable of the image (local:///…); then
    /// its arguments
    #[arg(value_name = "PROGRAM", trailing_var_arg = true, allow_hyphen_values = true)]
    #[arg(required_unless_present_any = ["status", "kill"])]
    command: Vec<String>,

    /// Where the driver is
    #[arg(long, value_enum, default_value_t)]
    deploy_mode: DeployMode,

    /// What people call the application; the program's file name if not given
    #[arg(long)]
    name: Option<String>,

    /// Read keys and values from a file: a key and a value on each line
    #[arg(long, value_name = "FILE")]
    properties_file: Option<PathBuf>,

    /// How many executors; as many as there is work for if not given
    #[arg(long, value_name = "N")]
    num_executors: Option<u32>,

    /// How many tasks an executor runs at a time, and how many CPUs it requests
    #[arg(long, value_name = "N")]
    executor_cores: Option<u32>,

    /// How much memory an executor may use, as in 4g
    #[arg(long, value_name = "SIZE")]
    executor_memory: Option<String>,

    /// The CPUs that a driver pod requests, as in 500m or 2
    #[arg(long, value_name = "CPUS")]
    driver_cores: Option<String>,

    /// How much memory a driver pod may use, as in 2g
    #[arg(long, value_name = "SIZE")]
    driver_memory: Option<String>,

    /// Files that go along, with commas between; PATH#NAME gives one another name
    #[arg(long, value_name = "FILES")]
    files: Option<String>,

    /// Archives that go along and are unpacked: tar, plain or packed by gzip
    #[arg(long, value_name = "FILES")]
    archives: Option<String>,

    /// The queue of Kueue that admits the driver
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,

    /// The image of driver and executors
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// Whoever submits with the same key gets the same application, until it has failed
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// How long the application may run
    #[arg(long, value_name = "TIME", value_parser = time)]
    timeout: Option<Duration>,

    /// How often a driver pod that was lost is started again; the program then runs again from its beginning
    #[arg(long, value_name = "N")]
    driver_restarts: Option<u32>,

    /// Do not wait for the end
    #[arg(long)]
    detach: bool,

    /// What Ctrl-C and SIGTERM do to a driver that is a pod: kill, but detach with an idempotency key
    #[arg(long, value_name = "WHAT", value_enum)]
    on_signal: Option<OnSignal>,

    /// Create nothing
    #[arg(long, value_name = "WHERE", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    dry_run: Option<DryRun>,

    /// How what is said looks; JSON is one object on each line
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,

    /// As vonk status
    #[arg(long, value_name = "APPLICATION", conflicts_with = "kill")]
    status: Option<String>,

    /// As vonk kill
    #[arg(long, value_name = "APPLICATION")]
    kill: Option<String>,

    #[command(flatten)]
    connection: Connection,

    #[command(flatten)]
    spark: Spark,
}

fn time(text: &str) -> Result<Duration, String> {
    model::setting::parse_duration(text).ok_or_else(|| "want a time such as 30m".to_owned())
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Program {
    /// An executable of this machine.
    Executable(PathBuf),
    /// A file with SQL.
    Sql(PathBuf),
    /// An executable that the image has, by its path there.
    InImage(String),
    /// One of the first two, in a store.
    Stored {
        /// Its URL.
        url: String,
        /// Its name.
        name: String,
        /// It is SQL.
        sql: bool,
    },
}

impl Program {
    fn of(text: &str) -> Result<Self, Usage> {
        if text.starts_with('-') {
            return Err(Usage(no_flag(text)));
        }
        let (place, path) = match text.split_once("://") {
            None => (Place::Here, text),
            Some(("file", path)) => (Place::Here, path),
            Some(("local", path)) => (Place::Image, path),
            Some(("s3" | "gs" | "az", rest)) => (Place::Store, rest.split(['?', '#']).next().unwrap_or(rest)),
            Some((scheme, _)) => {
                return Err(Usage(format!(
                    "run `{text}`: want a file of this machine, of a store (s3://, gs://, az://) or of the image (local:///), not {scheme}://"
                )));
            }
        };
        let file = PathBuf::from(path);
        let sql = match file.extension().and_then(|extension| extension.to_str()) {
            Some("sql") => true,
            Some("py") => return Err(Usage(format!("run `{text}`: there are no Python programs yet"))),
            Some("jar") => {
                let says = format!("run `{text}`: there is no JVM: a program is one executable with all its code");
                return Err(Usage(says));
            }
            _ => false,
        };
        match (place, sql) {
            (Place::Here, true) => Ok(Self::Sql(file)),
            (Place::Here, false) => Ok(Self::Executable(file)),
            (Place::Image, false) if file.is_absolute() => Ok(Self::InImage(path.to_owned())),
            (Place::Image, _) => Err(Usage(format!("run `{text}`: want local:/// and the path of an executable"))),
            (Place::Store, sql) => {
                let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                Ok(Self::Stored { url: text.to_owned(), name, sql })
            }
        }
    }

    /// Its file's name, which is what people call it unless they say otherwise.
    pub(crate) fn file_name(&self) -> String {
        let path = match self {
            Self::Executable(path) | Self::Sql(path) => path,
            Self::InImage(path) | Self::Stored { name: path, .. } => Path::new(path),
        };
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// Where a program is.
enum Place {
    Here,
    Image,
    Store,
}

/// What begins like a flag and is none of ours was meant as one: flags of the program come after it.
fn no_flag(text: &str) -> String {
    let given = text.split('=').next().unwrap_or(text);
    let command = <Submit as clap::Args>::augment_args(clap::Command::new("submit"));
    let flags: Vec<String> =
        command.get_arguments().filter_map(|flag| Some(format!("--{}", flag.get_long()?))).collect();
    let nearest = crate::config::nearest(given, flags.iter().map(String::as_str));
    let advice = nearest.map(|flag| format!("; did you mean `{flag}`?")).unwrap_or_default();
    format!("use {given}: vonk submit has no such flag, and the program's own come after the program{advice}")
}

/// An application that is to be submitted.
pub(crate) struct Order {
    /// What.
    pub(crate) program: Program,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// With which settings.
    pub(crate) config: Config,
    /// What people call it.
    pub(crate) name: String,
    /// Whoever has the same key gets the same application.
    pub(crate) key: Option<String>,
    /// How long it may run.
    pub(crate) timeout: Option<Duration>,
    /// Nobody waits for its end.
    pub(crate) detach: bool,
    /// What a signal does.
    pub(crate) on_signal: OnSignal,
    /// It is only tried.
    pub(crate) dry_run: Option<DryRun>,
    /// How what is said looks.
    pub(crate) output: Format,
}

impl Submit {
    /// Whether the program takes the place of this process.
    ///
    /// # Errors
    /// The command is wrong.
    pub(crate) fn runs_here(&self) -> Result<bool, Usage> {
        self.spark.check()?;
        let tries = self.dry_run.is_some() || self.status.is_some() || self.kill.is_some();
        Ok(self.deploy_mode == DeployMode::Client && !tries)
    }

    /// Runs the program in the place of this process.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn run_here(&self) -> Result<u8, anyhow::Error> {
        self.check_here()?;
        let mut order = self.order()?;
        // Its threads end with this process's program, which another takes the place of.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let held = runtime.block_on(upload::bring_here(&mut order.program))?;
        runtime.shutdown_background();
        let code = client_mode::run(order);
        drop(held);
        code
    }

    /// Refuses flags that mean nothing to a driver that is here.
    fn check_here(&self) -> Result<(), Usage> {
        let of_pods = [
            ("--idempotency-key", self.idempotency_key.is_some()),
            ("--driver-restarts", self.driver_restarts.is_some()),
            ("--detach", self.detach),
            ("--on-signal", self.on_signal.is_some()),
            ("--queue", self.queue.is_some()),
            ("--output", self.output != Format::Text),
        ];
        match of_pods.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                Err(Usage(format!("use {flag}: it is about drivers that are pods; add --deploy-mode cluster")))
            }
            None => Ok(()),
        }
    }

    pub(crate) async fn run(self) -> Result<u8, anyhow::Error> {
        let (output, connection) = (self.output, self.connection.clone());
        match (self.status.clone(), self.kill.clone()) {
            (Some(app), _) => return super::status::Status { app, output, connection }.run().await,
            (None, Some(app)) => return super::kill::Kill { app, now: false, connection }.run().await,
            (None, None) => {}
        }
        let mut order = self.order()?;
        want_kubernetes(&order.config)?;
        let _held = upload::bring_here(&mut order.program).await?;
        if self.deploy_mode == DeployMode::Client {
            self.check_here()?;
            return Box::pin(client_mode::dry_run(&order)).await;
        }
        // Boxed: it holds all that is submitted while it waits.
        Box::pin(cluster_mode::run(order)).await
    }

    fn order(&self) -> Result<Order, anyhow::Error> {
        let (program, args) = self.command.split_first().ok_or_else(|| Usage("name a program to run".to_owned()))?;
        let program = Program::of(program)?;
        let config = self.config()?;
        let name = match APP_NAME.value(config.values()) {
            "" => program.file_name(),
            name => name.to_owned(),
        };
        let usual = if self.idempotency_key.is_some() { OnSignal::Detach } else { OnSignal::Kill };
        Ok(Order {
            program,
            args: args.to_vec(),
            config,
            name,
            key: self.idempotency_key.clone(),
            timeout: self.timeout,
            detach: self.detach,
            on_signal: self.on_signal.unwrap_or(usual),
            dry_run: self.dry_run,
            output: self.output,
        })
    }

    /// Later wins: file and environment, the file of properties, --conf, flags.
    fn config(&self) -> Result<Config, anyhow::Error> {
        let mut config = Config::load()?;
        if let Some(path) = &self.properties_file {
            let origin = path.display().to_string();
            for (key, value) in properties::read(path)? {
                config.set(&key, &value, &origin)?;
            }
        }
        self.connection.apply(&mut config)?;
        for (key, value, flag) in self.keys() {
            config.set(key, &value, flag)?;
        }
        Ok(config)
    }

    /// Flags that are keys.
    fn keys(&self) -> Vec<(&'static str, String, &'static str)> {
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        let flags = [
            (APP_NAME.key, self.name.clone(), "--name"),
            (driver::config::EXECUTOR_INSTANCES.key, number(self.num_executors), "--num-executors"),
            (keys::EXECUTOR_CORES.key, number(self.executor_cores), "--executor-cores"),
            (executor::config::MEMORY.key, self.executor_memory.clone(), "--executor-memory"),
            (keys::DRIVER_CORES.key, self.driver_cores.clone(), "--driver-cores"),
            (keys::DRIVER_MEMORY.key, self.driver_memory.clone(), "--driver-memory"),
            (keys::DRIVER_RESTARTS.key, number(self.driver_restarts), "--driver-restarts"),
            (FILES.key, self.files.clone(), "--files"),
            (ARCHIVES.key, self.archives.clone(), "--archives"),
            (keys::QUEUE.key, self.queue.clone(), "--queue"),
            (keys::IMAGE.key, self.image.clone(), "--image"),
        ];
        flags.into_iter().filter_map(|(key, value, flag)| Some((key, value?, flag))).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        submit: Submit,
    }

    fn parse(words: &[&str]) -> Submit {
        let words = std::iter::once("vonk").chain(words.iter().copied());
        Cli::try_parse_from(words).unwrap().submit
    }

    #[test]
    fn flags_after_the_program_are_the_programs() {
        let submit = parse(&["--deploy-mode", "cluster", "--name", "a", "./pi", "--name", "b", "-x"]);
        assert_eq!(submit.command, ["./pi", "--name", "b", "-x"]);
        assert_eq!(submit.name.as_deref(), Some("a"));
    }

    #[test]
    fn a_dry_run_is_the_clients_unless_it_says_otherwise() {
        assert_eq!(parse(&["--dry-run", "pi"]).dry_run, Some(DryRun::Client));
        assert_eq!(parse(&["--dry-run=server", "pi"]).dry_run, Some(DryRun::Server));
        assert_eq!(parse(&["pi"]).dry_run, None);
    }

    #[test]
    fn a_driver_that_is_here_has_a_time_and_can_be_tried() {
        let timed = parse(&["--timeout", "5s", "pi"]);
        assert!(timed.runs_here().unwrap() && timed.check_here().is_ok());
        let tried = parse(&["--dry-run", "pi"]);
        assert!(!tried.runs_here().unwrap() && tried.check_here().is_ok());
        let refused = parse(&["--dry-run", "--detach", "pi"]).check_here().unwrap_err().to_string();
        assert!(refused.starts_with("use --detach: it is about drivers that are pods"), "{refused}");
    }

    #[test]
    fn sparks_flags_are_keys() {
        let submit =
            parse(&["--executor-cores", "4", "--executor-memory", "8g", "--driver-memory", "1g", "--queue", "q", "pi"]);
        let keys: Vec<_> = submit.keys().into_iter().map(|(key, value, _)| format!("{key}={value}")).collect();
        let along = parse(&["--files", "a,b#c", "--archives", "d.tar.gz", "pi"]);
        let along: Vec<_> = along.keys().into_iter().map(|(key, value, _)| format!("{key}={value}")).collect();
        assert_eq!(along, ["app.files=a,b#c", "app.archives=d.tar.gz"]);
        assert_eq!(keys, ["executor.cores=4", "executor.memory=8g", "k8s.driver.memory=1g", "k8s.queue=q"]);
    }

    #[test]
    fn a_program_is_here_in_a_store_or_in_the_image() {
        assert_eq!(Program::of("file:///a/pi"), Ok(Program::Executable("/a/pi".into())));
        let image = Program::of("local:///opt/jobs/pi").unwrap();
        assert_eq!((image.file_name().as_str(), image), ("pi", Program::InImage("/opt/jobs/pi".into())));
        let url = "s3://bucket/jobs/report.sql?region=x";
        let stored = Program::Stored { url: url.into(), name: "report.sql".into(), sql: true };
        assert_eq!(Program::of(url), Ok(stored));
        assert_eq!(Program::of("gs://bucket/jobs/pi").unwrap().file_name(), "pi");
    }

    #[test]
    fn what_cannot_run_says_why() {
        assert_eq!(Program::of("a/b.sql"), Ok(Program::Sql("a/b.sql".into())));
        assert!(Program::of("hdfs://a/pi").unwrap_err().to_string().contains("not hdfs://"));
        assert!(Program::of("local:///a/b.sql").unwrap_err().to_string().contains("the path of an executable"));
        assert!(Program::of("s3://a/b.py?region=c").unwrap_err().to_string().contains("no Python"));
        assert!(Program::of("a.jar").unwrap_err().to_string().contains("no JVM"));
        assert!(Program::of("a.py").unwrap_err().to_string().contains("no Python"));
        let unknown = Program::of("--idempotency-kex=1").unwrap_err().to_string();
        assert!(unknown.ends_with("did you mean `--idempotency-key`?"), "{unknown}");
        let python = parse(&["--py-files", "a.py", "pi"]).runs_here().unwrap_err().to_string();
        assert!(python.starts_with("use --py-files: there are no Python programs yet"), "{python}");
        let with_class = parse(&["--class", "a.B", "pi"]);
        assert!(with_class.runs_here().unwrap_err().to_string().contains("no JVM"));
    }

    #[test]
    fn a_key_means_that_somebody_comes_back() {
        let order = |words: &[&str]| parse(words).order().unwrap().on_signal;
        assert_eq!(order(&["pi"]), OnSignal::Kill);
        assert_eq!(order(&["--idempotency-key", "x", "pi"]), OnSignal::Detach);
        assert_eq!(order(&["--idempotency-key", "x", "--on-signal", "kill", "pi"]), OnSignal::Kill);
    }
}
