//! Does a driver keep executors behind sockets and mutual TLS, and refuse those that run something else?

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use driver::config::{Allocation, StoreScope};
use driver::{Driver, DriverConfig, Executable};
use executor::lifetime::End;
use executor::start::{Birth, serve_on};
use executor::{TaskContext, TaskProduct};
use futures::channel::mpsc;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use model::backend::{ClusterBackend, ClusterEvent, Connection, DialError};
use model::events::AppEvent;
use model::graph::Output;
use model::ids::{Epoch, ExecutorId};
use model::runner::JobError;
use model::setting::Values;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use proto::tls::{Authority, Role};
use tokio::io::{copy_bidirectional, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::compat::TokioAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;

use crate::program::{APP, Heard, Program, items, job, numbers, right_sums, stage, sums};

/// Bytes on their way between the driver and the socket.
const ON_THE_WAY: usize = 64 << 10;

/// Executors of this process behind sockets of their own.
struct Sockets {
    authority: Authority,
    program: Arc<Program>,
    /// What executors say that they run.
    runs: String,
    disk: tempfile::TempDir,
    state: Mutex<State>,
    events: Mutex<Option<mpsc::UnboundedReceiver<ClusterEvent>>>,
    report: mpsc::UnboundedSender<ClusterEvent>,
}

#[derive(Default)]
struct State {
    ports: Vec<u16>,
    serving: JoinSet<End>,
    wires: JoinSet<()>,
    /// Cuts what was dialled last.
    cut: CancellationToken,
    dialled: u32,
}

impl Sockets {
    fn new(program: Program, runs: String) -> Arc<Self> {
        let (report, events) = mpsc::unbounded();
        Arc::new(Self {
            authority: Authority::new(APP).unwrap(),
            program: Arc::new(program),
            runs,
            disk: tempfile::tempdir().unwrap(),
            state: Mutex::default(),
            events: Mutex::new(Some(events)),
            report,
        })
    }

    /// Breaks every connection at once, as a network does: neither end is told why.
    fn cut(&self) {
        self.state.lock().unwrap().cut.cancel();
    }

    fn driver(self: &Arc<Self>, executors: u32) -> (Arc<Driver>, Heard) {
        let heard = Heard::default();
        let root = self.disk.path().join("store");
        std::fs::create_dir_all(&root).unwrap();
        let config = DriverConfig {
            app: APP,
            epoch: Epoch(1),
            name: "test".into(),
            master: "sockets".into(),
            settings: Values::new(),
            store: Arc::new(LocalFileSystem::new()),
            store_url: format!("file://{}", root.display()),
            root: Path::from_absolute_path(root).unwrap(),
            scope: StoreScope::Private,
            slots: 1,
            memory: 256 << 20,
            allocation: Allocation::fixed(executors),
            executable: Executable::current(),
            identity: Some(self.authority.issue(Role::Driver).unwrap()),
            observers: vec![Box::new(heard.clone())],
        };
        (Driver::start(config, Arc::clone(self) as Arc<dyn ClusterBackend>, Handle::current()).unwrap(), heard)
    }
}

impl ClusterBackend for Sockets {
    fn set_target(&self, executors: u32) {
        let mut state = self.state.lock().unwrap();
        while state.ports.len() < executors as usize {
            let executor = ExecutorId(state.ports.len() as u64 + 1);
            let who = (APP, Epoch(1), executor);
            let identity = self.authority.issue(Role::Executor).unwrap();
            let disk = self.disk.path().join(executor.to_string());
            let birth = Birth::new(identity, who, self.runs.clone(), disk, &Values::new()).unwrap();
            let listener = std::net::TcpListener::bind(birth.listen).unwrap();
            listener.set_nonblocking(true).unwrap();
            state.ports.push(listener.local_addr().unwrap().port());
            let listener = TcpListener::from_std(listener).unwrap();
            state.serving.spawn(serve_on(listener, &birth, self.program.clone(), Handle::current()).unwrap());
            let place = "a socket".to_owned();
            self.report.unbounded_send(ClusterEvent::Reachable { executor, place }).unwrap();
        }
    }

    fn release(&self, _: ExecutorId) {}

    fn dial(&self, executor: ExecutorId) -> BoxFuture<'_, Result<Connection, DialError>> {
        let mut state = self.state.lock().unwrap();
        if state.cut.is_cancelled() {
            state.cut = CancellationToken::new();
        }
        state.dialled += 1;
        let (port, cut) = (state.ports[executor.0 as usize - 1], state.cut.clone());
        let (driver, mut wire) = duplex(ON_THE_WAY);
        state.wires.spawn(async move {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::select! {
                _ = copy_bidirectional(&mut wire, &mut socket) => {}
                () = cut.cancelled() => {}
            }
        });
        std::future::ready(Ok(Connection::Bytes(Box::new(driver.compat())))).boxed()
    }

    fn events(&self) -> Pin<Box<dyn Stream<Item = ClusterEvent> + Send>> {
        self.events.lock().unwrap().take().unwrap().boxed()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        let mut serving = std::mem::take(&mut self.state.lock().unwrap().serving);
        async move { serving.shutdown().await }.boxed()
    }
}

/// The hash of what this process runs.
fn this() -> String {
    Executable::current().hash().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shuffle_crosses_sockets() {
    let backend = Sockets::new(Program::sums(), this());
    let (driver, _) = backend.driver(2);
    assert_eq!(numbers(&driver, sums(0, 4, 3)).await.unwrap(), right_sums(4, 3));
    driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_cut_is_made_again_and_nothing_runs_twice() {
    let (began, go_on) = (Arc::new(Notify::new()), CancellationToken::new());
    let (says, waits) = (Arc::clone(&began), go_on.clone());
    let program = Program::default().with("wait", move |task: TaskContext| {
        says.notify_one();
        task.io.block_on(waits.cancelled());
        Ok(TaskProduct { result: Some("x".into()), ..TaskProduct::default() })
    });
    let backend = Sockets::new(program, this());
    let (driver, heard) = backend.driver(1);
    let cuts = async {
        for partition in 0..2 {
            began.notified().await;
            let before = backend.state.lock().unwrap().dialled;
            backend.cut();
            // The second cut finds a task that ends while nobody hears its executor.
            if partition == 0 {
                go_on.cancel();
            }
            while backend.state.lock().unwrap().dialled == before {
                tokio::task::yield_now().await;
            }
        }
    };
    let (items, ()) = tokio::join!(items(&driver, job(0, vec![stage(0, "wait", 2, &[], Output::Result)])), cuts);
    assert_eq!(items.unwrap().len(), 2);
    assert_eq!(heard.count(|e| matches!(e, AppEvent::TaskLaunched { .. })), 2, "{:?}", heard.events());
    assert_eq!(heard.count(|e| matches!(e, AppEvent::ExecutorLost { .. })), 0);
    driver.stop(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_runs_another_executable_is_refused_and_both_are_named() {
    let other = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(other.path(), "another build").unwrap();
    let other = Executable::at(other.path()).hash().unwrap();
    let backend = Sockets::new(Program::sums(), other.clone());
    let (driver, heard) = backend.driver(2);
    let error = items(&driver, sums(0, 1, 1)).await.unwrap_err();
    let JobError::Failed { failure, .. } = error else { panic!("{error:?}") };
    let words = failure.to_string();
    assert!(words.contains(&other) && words.contains(&this()), "{words}");
    assert!(words.contains("both must run the same file"), "{words}");
    assert_eq!(heard.count(|e| matches!(e, AppEvent::TaskLaunched { .. })), 0);
    driver.stop(None).await;
}
