//! What does a program hold, and what does its master mean?
//!
//! The one place where the parts of Vonk are wired together.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use driver::backend::local::LocalBackend;
use driver::backend::processes::{ProcessBackend, ProcessConfig};
use driver::config::{Allocation, StoreScope};
use driver::executable::Executable;
use driver::standing::{Owner, Who};
use driver::terminal::{Progress, Terminal};
use driver::{Driver, DriverConfig};
use executor::ExecutorConfig;
use executor::start::Birth;
use futures::FutureExt;
use futures::future::BoxFuture;
use model::backend::KeepPrinted;
use model::exit;
use model::setting::InvalidSetting;
use model::{AppId, ClusterBackend, Epoch, ExecutorId, JobRunner};
use object_store::ObjectStore;
use object_store::path::Path;
use rdd::RddContext;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::attached::{self, Attached};
use crate::config::{self, Config};
use crate::history::{History, Writers};
use crate::master::{Master, ParseMasterError};
use crate::runners::Runners;
use crate::{ending, scratch, telemetry};

/// Threads for I/O: requests, links, the event loop. Computing has threads of its own.
const IO_THREADS: usize = 2;

/// The end of an application takes no longer than this; what is left is swept by a later one.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Why a context cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A key or value that cannot be used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The master is none.
    #[error(transparent)]
    Master(#[from] ParseMasterError),
    /// A value that does not fit its key.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// The store cannot be opened.
    #[error("open the store")]
    Store(#[from] shuffle::Error),
    /// There is no room for temporary files.
    #[error("prepare local files")]
    Scratch(#[from] scratch::Error),
    /// Files cannot go along.
    #[error(transparent)]
    Attached(#[from] attached::Error),
    /// Threads for I/O cannot be started.
    #[error("start the I/O threads")]
    Threads(#[source] std::io::Error),
    /// Executors in other processes cannot see memory.
    #[error(
        "use store `{0}` with a local cluster: its executors are other processes; set store to a file://, s3://, gs:// or az:// URL"
    )]
    MemoryStore(String),
    /// Pods cannot see what is on this machine.
    #[error(
        "use store `{0}` with Kubernetes: pods must reach it; set store to an s3://, gs:// or az:// URL (--conf store=…, VONK_STORE)"
    )]
    NoSharedStore(String),
    /// This build has no Kubernetes.
    #[cfg(not(feature = "k8s"))]
    #[error("run on Kubernetes: this program was built without it; enable feature `k8s` of the crate `vonk`")]
    NoKubernetes,
    /// Kubernetes cannot be used.
    #[cfg(feature = "k8s")]
    #[error(transparent)]
    Kubernetes(#[from] crate::kubernetes::start::Error),
    /// The driver does not start.
    #[error("start the driver")]
    Driver(#[from] driver::Error),
    /// Keys for the links between driver and executors cannot be made.
    #[error("make the application's keys")]
    Keys(#[from] proto::tls::Error),
    /// Datasets cannot be made with these settings.
    #[error(transparent)]
    Rdd(#[from] rdd::Error),
    /// Queries cannot be run.
    #[cfg(feature = "sql")]
    #[error(transparent)]
    Sql(#[from] sql::Error),
}

/// What Ctrl-C (SIGINT) does while an application runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CtrlC {
    /// Stops the application and ends the process; a second one ends it at once.
    #[default]
    EndsProgram,
    /// What the program makes of it. Dropping the future or stream of a query cancels it.
    LeftToProgram,
}

/// Says what a [`Context`] is to be.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Builder {
    name: Option<String>,
    master: Option<String>,
    conf: Vec<(String, String)>,
    args: Option<Args>,
    ctrl_c: CtrlC,
}

impl Builder {
    /// What people call the application. Default: the setting `app.name`, else the program's file name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Where executors are. Default: the setting `master`, which is `local[*]` unless set.
    pub fn master(mut self, master: impl Into<String>) -> Self {
        self.master = Some(master.into());
        self
    }

    /// Sets a configuration key; wins over every other source.
    pub fn conf(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.conf.push((key.into(), value.into()));
        self
    }

    /// Takes `--master` and `--conf` from the command line. What the program itself sets wins over them.
    pub fn args(mut self, args: &Args) -> Self {
        self.args = Some(args.clone());
        self
    }

    /// What Ctrl-C does. Default: it stops the application and ends the process, as SIGTERM always does.
    pub fn ctrl_c(mut self, ctrl_c: CtrlC) -> Self {
        self.ctrl_c = ctrl_c;
        self
    }

    /// Starts the application: its driver, and executors as they are needed.
    ///
    /// # Errors
    /// A configuration that cannot be used, a store that cannot be opened.
    pub fn build(self) -> Result<Context, StartError> {
        let mut config = Config::load()?;
        if let Some(args) = &self.args {
            args.apply(&mut config)?;
        }
        for (key, value) in &self.conf {
            config.set(key, value, "the program")?;
        }
        if let Some(master) = &self.master {
            config.set(config::MASTER.key, master, "the program")?;
        }
        if let Some(name) = &self.name {
            config.set(config::APP_NAME.key, name, "the program")?;
        }
        Context::start(&config, self.ctrl_c)
    }
}

/// An application: makes datasets, runs their actions, and ends when it is stopped or dropped.
///
/// Everything of [`RddContext`] is a method of it.
///
/// # Examples
/// ```no_run
/// let ctx = vonk::Context::builder().master("local[2]").build()?;
/// let even = ctx.range(0..1_000).filter(|n| n % 2 == 0).count()?;
/// assert_eq!(even, 500);
/// ctx.stop();
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct Context {
    rdd: Option<RddContext>,
    #[cfg(feature = "sql")]
    queries: crate::queries::Queries,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
    interrupted: CancellationToken,
    /// It ends the process itself until it is gone.
    _application: ending::Application,
}

/// What the end of an application needs, whoever ends it.
struct Shared {
    driver: Arc<Driver>,
    terminal: Terminal,
    progress: Progress,
    started: Instant,
    /// End once the driver has let go of what feeds them.
    history: Option<Writers>,
    /// Removed after everything that may use it has ended.
    _own: [Option<scratch::Own>; 2],
}

impl Deref for Context {
    type Target = RddContext;

    fn deref(&self) -> &RddContext {
        self.rdd.as_ref().expect("it is taken only when the context is dropped")
    }
}

impl Context {
    /// Says what a context is to be.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn start(config: &Config, ctrl_c: CtrlC) -> Result<Self, StartError> {
        crate::init();
        let began = Instant::now();
        let values = config.values();
        let master: Master = config::MASTER.value(values).parse()?;
        if !matches!(master, Master::Local { .. }) {
            crate::allocator::keep_nothing();
        }
        let progress = match config::PROGRESS.value(values) {
            "live" => Progress::Live,
            "plain" => Progress::Plain,
            "quiet" => Progress::Quiet,
            _ => Progress::detect(),
        };
        let disk = executor::config::DISK.value(values);
        let base = if disk.is_empty() { std::env::temp_dir() } else { PathBuf::from(disk) };
        let attached = attached::listed(values)?;
        let (store, root, store_url, own) = open_store(config, &master, &base)?;
        let disk = match &own {
            Some(own) => own.path().to_owned(),
            None => scratch::folder(&base)?,
        };
        let own_files = match (&own, attached.is_empty()) {
            (None, false) => Some(scratch::Own::make(&disk)?),
            _ => None,
        };
        if let Some(own) = own_files.as_ref().or(own.as_ref()).filter(|_| !attached.is_empty()) {
            attached::place(&attached, own.path())?;
        }

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            .thread_name("vonk-io")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let io = runtime.handle().clone();
        #[cfg(feature = "k8s")]
        let (app, epoch) = crate::kubernetes::start::who(&io, &store, &root)?;
        #[cfg(not(feature = "k8s"))]
        let (app, epoch) = (AppId::generate(), Epoch(1));
        let name = match config::APP_NAME.value(values) {
            "" => program_name(),
            name => name.to_owned(),
        };

        let keep_history = match config::EVENT_LOG.value(values) {
            "true" => true,
            "false" => false,
            _ => !matches!(master, Master::Local { .. }),
        };
        let mut history = keep_history.then(|| {
            #[cfg(feature = "k8s")]
            let submitted = crate::kubernetes::pod::is_submitted();
            #[cfg(not(feature = "k8s"))]
            let submitted = false;
            let who = Who { app, epoch, name: name.clone(), master: master.to_string(), submitted };
            History::new(&store, &root, &store_url, who, own.is_none())
        });
        let mut terminal = Terminal::new(progress);
        if let Some(said) = history.as_ref().and_then(History::printed) {
            terminal = terminal.keeping(said);
        }
        telemetry::init(config::LOG.value(values), Some(&terminal));
        let mut observers = vec![terminal.observer()];
        observers.extend(history.iter_mut().flat_map(|history| history.observers.drain(..)));

        #[cfg(feature = "sql")]
        let spill = disk.clone();
        let interrupted = CancellationToken::new();
        let (started, application) = watch_signals(&runtime, &terminal, &interrupted, ctrl_c);
        let parts = DriverParts {
            config,
            app,
            epoch,
            name: &name,
            store: &store,
            store_url: &store_url,
            root: &root,
            disk,
            io: &io,
            terminal: &terminal,
            keep: history.as_ref().map(|history| Arc::clone(&history.keep)),
            attached: &attached,
            interrupted: &interrupted,
        };
        let backend = match parts.backend(&master) {
            Ok(backend) => backend,
            Err(error) => return Err(given_up(error, started, &interrupted)),
        };
        let Backend { cluster, executable, identity, allocation, slots, memory, disk_max, owner, killed } = backend;
        let mut settings = values.clone();
        settings.extend(disk_max.map(|most| (executor::config::DISK_MAX.key.to_owned(), most.to_string())));
        let (made, stops) = (Arc::clone(&cluster), io.clone());
        let assembled = (|| -> Result<_, StartError> {
            let driver = Driver::start(
                DriverConfig {
                    app,
                    epoch,
                    name,
                    master: master.to_string(),
                    settings,
                    store: Arc::clone(&store),
                    store_url: store_url.clone(),
                    root: root.clone(),
                    scope: if own.is_some() { StoreScope::Private } else { StoreScope::Shared },
                    slots,
                    memory,
                    allocation,
                    executable,
                    identity,
                    observers,
                },
                cluster,
                io.clone(),
            )?;
            let superseded = history.as_ref().map(History::superseded);
            let history = history.map(|history| history.begin(&io, Arc::clone(&store), root.clone(), owner));
            let rdd = RddContext::new(Arc::clone(&driver) as Arc<dyn JobRunner>, store, root, io, values)?;
            let shared =
                Arc::new(Shared { driver, terminal, progress, started: began, history, _own: [own, own_files] });
            Ok((rdd, shared, superseded))
        })();
        let (rdd, shared, superseded) = match assembled {
            Ok(assembled) => assembled,
            Err(error) => {
                // What was made for executors goes with them.
                let stopping = stops.spawn(async move { tokio::time::timeout(STOP_WITHIN, made.stop()).await });
                let _ = futures::executor::block_on(stopping);
                return Err(given_up(error, started, &interrupted));
            }
        };
        #[cfg(feature = "sql")]
        let queries = crate::queries::Queries::new(crate::queries::Parts {
            runner: Arc::clone(&shared.driver) as Arc<dyn JobRunner>,
            distributed: !matches!(master, Master::Local { .. }),
            slots: slots * allocation.usual(),
            slots_per_executor: slots,
            memory,
            disk: spill,
            store_url,
            settings: values.clone(),
        });
        let killed = match superseded {
            Some(superseded) => {
                futures::future::select(killed, superseded).map(|either| either.factor_first().0).boxed()
            }
            None => killed,
        };
        // A signal that has come already finds an application to stop.
        let _ = started.send(Started { shared: Arc::downgrade(&shared), killed });
        Ok(Self {
            rdd: Some(rdd),
            #[cfg(feature = "sql")]
            queries,
            shared,
            runtime: Some(runtime),
            interrupted,
            _application: application,
        })
    }

    #[cfg(feature = "sql")]
    pub(crate) fn queries(&self) -> &crate::queries::Queries {
        &self.queries
    }

    /// What shows the application on stderr.
    #[cfg(feature = "sql")]
    pub(crate) fn terminal(&self) -> &Terminal {
        &self.shared.terminal
    }

    /// Ends the application: running jobs are cancelled, executors end, what was stored for it is removed. Dropping the
    /// context does the same.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        drop(self.rdd.take());
        #[cfg(feature = "sql")]
        self.queries.stop();
        let Some(runtime) = self.runtime.take() else { return };
        // Whoever stops first tidies up; after a signal that is the signal's task, which also ends the process.
        if self.interrupted.is_cancelled() {
            return wait_for_the_end();
        }
        let error = std::thread::panicking().then(|| "the program panicked".to_owned());
        let shared = Arc::clone(&self.shared);
        let (done, stopped) = std::sync::mpsc::sync_channel(1);
        // A thread of its own: the program may drop its context inside an async runtime, where nothing may block on one.
        let stop = std::thread::spawn(move || {
            runtime.block_on(shared.stop(error));
            runtime.shutdown_timeout(Duration::from_secs(1));
            // The receiver may have gone first, when the time is over.
            let _ = done.send(());
        });
        if stopped.recv_timeout(STOP_WITHIN + Duration::from_secs(2)).is_ok() {
            let _ = stop.join();
        }
    }
}

impl Shared {
    async fn stop(&self, error: Option<String>) {
        let steps = async {
            self.driver.stop(error).await;
            if let Some(history) = &self.history {
                history.finish().await;
            }
        };
        if tokio::time::timeout(STOP_WITHIN, steps).await.is_err() {
            tracing::warn!("the application did not end within {STOP_WITHIN:?}; a later one sweeps what it left");
        }
        self.terminal.clear();
        if self.progress != Progress::Quiet && self.terminal.ran_jobs() {
            self.terminal.print(format!("{}\n", self.terminal.summary(self.started.elapsed())).as_bytes());
        }
        if let Some(history) = &self.history {
            history.keep_said().await;
        }
    }
}

/// An application that has started, for whoever ends it.
struct Started {
    shared: Weak<Shared>,
    /// Resolves with a sentence once somebody has ended it from outside.
    killed: BoxFuture<'static, String>,
}

/// SIGTERM, SIGINT unless it is the program's, the end of the time, and somebody who removes the application stop it and end the
/// process; a second signal ends it at once. What `interrupted` stops may still be starting: it is waited for.
fn watch_signals(
    runtime: &Runtime,
    terminal: &Terminal,
    interrupted: &CancellationToken,
    ctrl_c: CtrlC,
) -> (oneshot::Sender<Started>, ending::Application) {
    let (terminal, interrupted) = (terminal.clone(), interrupted.clone());
    let (start, mut started) = oneshot::channel::<Started>();
    // They are handled before this returns: from then on, nobody else ends the process.
    let inside = runtime.enter();
    let mut term = signal(SignalKind::terminate()).ok();
    let mut int = match ctrl_c {
        CtrlC::EndsProgram => signal(SignalKind::interrupt()).ok(),
        CtrlC::LeftToProgram => None,
    };
    drop(inside);
    let application = ending::Application::new();
    let watch = async move {
        let mut running = None;
        let (code, name) = loop {
            tokio::select! {
                () = received(&mut int) => break (exit::INTERRUPTED, "interrupted".to_owned()),
                () = received(&mut term) => break (exit::KILLED, "terminated".to_owned()),
                () = ending::time_is_over() => break (exit::TIMED_OUT, ending::TOO_LONG.to_owned()),
                why = killed(&mut running) => break (exit::KILLED, why),
                begun = &mut started, if running.is_none() => match begun {
                    Ok(begun) => running = Some(begun),
                    // It has not started, and its program knows.
                    Err(_) => return,
                },
            }
        };
        interrupted.cancel();
        terminal.print(format!("{name}: stopping; once more ends at once\n").as_bytes());
        let stopped = async {
            let running = match running {
                Some(running) => Some(running),
                None => started.await.ok(),
            };
            if let Some(shared) = running.and_then(|running| running.shared.upgrade()) {
                shared.stop(Some(name)).await;
            }
        };
        tokio::select! {
            () = stopped => {}
            () = received(&mut int) => {}
            () = received(&mut term) => {}
        }
        std::process::exit(i32::from(code))
    };
    // The runtime owns it: it ends with the process or the runtime.
    let _watcher = runtime.spawn(watch);
    (start, application)
}

/// The application does not start. If a signal is the reason, whoever heard it ends the process.
fn given_up(error: StartError, start: oneshot::Sender<Started>, interrupted: &CancellationToken) -> StartError {
    drop(start);
    if interrupted.is_cancelled() {
        wait_for_the_end();
    }
    error
}

/// Waits for whoever ends the process.
fn wait_for_the_end() {
    let deadline = Instant::now() + STOP_WITHIN * 2;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Waits until somebody has ended an application from outside; for ever if there is none.
async fn killed(running: &mut Option<Started>) -> String {
    match running {
        Some(running) => (&mut running.killed).await,
        None => std::future::pending().await,
    }
}

/// Waits for a signal; for ever if it is not ours.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// What making a backend needs.
pub(crate) struct DriverParts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) app: AppId,
    pub(crate) epoch: Epoch,
    #[cfg_attr(not(feature = "k8s"), expect(dead_code, reason = "only pods bear it"))]
    pub(crate) name: &'a str,
    pub(crate) store: &'a Arc<dyn ObjectStore>,
    #[cfg_attr(not(feature = "k8s"), expect(dead_code, reason = "only pods are started with it"))]
    pub(crate) store_url: &'a str,
    pub(crate) root: &'a Path,
    pub(crate) disk: PathBuf,
    pub(crate) io: &'a tokio::runtime::Handle,
    pub(crate) terminal: &'a Terminal,
    /// Keeps what executors printed.
    pub(crate) keep: Option<KeepPrinted>,
    /// Files that go along.
    #[cfg_attr(not(feature = "k8s"), expect(dead_code, reason = "only pods must be sent them"))]
    pub(crate) attached: &'a [Attached],
    /// A signal has come: nobody waits any longer for what is being made.
    #[cfg_attr(not(feature = "k8s"), expect(dead_code, reason = "what is made here takes no time"))]
    pub(crate) interrupted: &'a CancellationToken,
}

/// Where executors come from, and what they are.
pub(crate) struct Backend {
    pub(crate) cluster: Arc<dyn ClusterBackend>,
    pub(crate) executable: Executable,
    /// Who the driver is to executors in other processes.
    pub(crate) identity: Option<proto::tls::Identity>,
    pub(crate) allocation: Allocation,
    /// Tasks at a time in one executor.
    pub(crate) slots: u32,
    /// Bytes of one executor.
    pub(crate) memory: u64,
    /// Bytes that one executor may spill, if that is not what the settings say.
    pub(crate) disk_max: Option<u64>,
    /// What owns everything of the application, if it is in a cluster.
    pub(crate) owner: Option<Owner>,
    /// Resolves with a sentence once somebody has ended the application from outside, and never before.
    pub(crate) killed: BoxFuture<'static, String>,
}

impl DriverParts<'_> {
    fn backend(self, master: &Master) -> Result<Backend, StartError> {
        let values = self.config.values();
        match master {
            &Master::Local { slots } => {
                let memory = match values.get(executor::config::MEMORY.key) {
                    Some(_) => executor::config::MEMORY.bytes(values)?,
                    None => driver::config::memory_of_machine() / 2,
                };
                let executor = ExecutorConfig {
                    app: self.app,
                    epoch: self.epoch,
                    id: ExecutorId(1),
                    program: String::new(),
                    slots,
                    memory,
                    store: Arc::clone(self.store),
                    root: self.root.clone(),
                    disk: self.disk,
                    settings: values.clone(),
                };
                let cluster = LocalBackend::new(executor, Arc::new(Runners), self.io.clone());
                let (executable, allocation) = (Executable::current(), Allocation::fixed(1));
                let killed = std::future::pending().boxed();
                let (disk_max, owner) = (None, None);
                Ok(Backend { cluster, executable, identity: None, allocation, slots, memory, disk_max, owner, killed })
            }
            &Master::LocalCluster { executors, slots, memory } => {
                let memory = match memory {
                    Some(memory) => memory,
                    None => executor::config::MEMORY.bytes(values)?,
                };
                let authority = proto::tls::Authority::new(self.app)?;
                let driver = authority.issue(proto::tls::Role::Driver)?;
                let executor = authority.issue(proto::tls::Role::Executor)?;
                let executable = Executable::current();
                // Number and hash are filled in for each process.
                let who = (self.app, self.epoch, ExecutorId(0));
                let birth = Birth::new(executor, who, String::new(), self.disk, values)?;
                let birth = Birth { files: attached::folder(), ..birth };
                let terminal = self.terminal.clone();
                let output = Arc::new(move |line: &[u8]| terminal.print(line));
                let config = ProcessConfig { executable: executable.clone(), birth, output, keep: self.keep };
                let cluster = ProcessBackend::new(config, self.io.clone());
                let (identity, allocation) = (Some(driver), Allocation::fixed(executors));
                let killed = std::future::pending().boxed();
                let (disk_max, owner) = (None, None);
                Ok(Backend { cluster, executable, identity, allocation, slots, memory, disk_max, owner, killed })
            }
            #[cfg(feature = "k8s")]
            Master::Kubernetes { url } => crate::kubernetes::start::start(self, url.as_deref()),
            #[cfg(not(feature = "k8s"))]
            Master::Kubernetes { .. } => Err(StartError::NoKubernetes),
        }
    }
}

type OpenStore = (Arc<dyn ObjectStore>, Path, String, Option<scratch::Own>);

/// The store that the settings name: with local master and none named, a folder of this process.
fn open_store(config: &Config, master: &Master, base: &std::path::Path) -> Result<OpenStore, StartError> {
    let url = config::STORE.value(config.values());
    match (url, master) {
        ("", Master::Local { .. }) => {
            let own = scratch::Own::make(&scratch::folder(base)?)?;
            let url = file_url(&own.path().join("store"))?;
            let (store, root) = shuffle::store::open(&url)?;
            Ok((store, root, url, Some(own)))
        }
        ("", Master::LocalCluster { .. }) => {
            let url = file_url(&scratch::folder(base)?.join("store"))?;
            let (store, root) = shuffle::store::open(&url)?;
            Ok((store, root, url, None))
        }
        (url, Master::LocalCluster { .. }) if url.starts_with("memory:") => {
            Err(StartError::MemoryStore(url.to_owned()))
        }
        (url, Master::Kubernetes { .. })
            if url.is_empty() || url.starts_with("file:") || url.starts_with("memory:") =>
        {
            Err(StartError::NoSharedStore(url.to_owned()))
        }
        (url, _) => {
            let (store, root) = shuffle::store::open(url)?;
            Ok((store, root, url.to_owned(), None))
        }
    }
}

fn file_url(folder: &std::path::Path) -> Result<String, StartError> {
    std::fs::create_dir_all(folder).map_err(|source| scratch::Error::Make { path: folder.to_owned(), source })?;
    Ok(url::Url::from_directory_path(folder).map_or_else(|()| format!("file://{}", folder.display()), Into::into))
}

fn program_name() -> String {
    let path = std::env::args_os().next().map(PathBuf::from);
    let name = path.as_deref().and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "vonk".to_owned())
}
