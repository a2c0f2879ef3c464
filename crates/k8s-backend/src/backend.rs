//! How does Kubernetes act as a cluster?
//!
//! One task holds what is known of every pod, compares it with the target after every change of either, and performs the
//! difference (`backend/control.rs`). Everybody else leaves orders for it, or reads addresses.

mod control;
#[cfg(test)]
mod fake_api;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::LogParams;
use model::backend::{ClusterBackend, ClusterEvent, Connection, DialError, KeepPrinted};
use model::ids::{AppId, Epoch, ExecutorId};
use model::setting::{InvalidSetting, Values};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::compat::TokioAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Cluster;
use crate::cause::LAST_LINE;
use crate::config;
use crate::forward;
use crate::names::{self, PORT, Role};
use crate::pod::{AppPods, ExecutorPods};
use crate::settings::PodSettings;
use crate::template::{Template, TemplateError, weakens_restricted};

/// Events that may wait for whoever listens; beyond them, the control loop waits.
const EVENTS: usize = 256;

/// A connection through the API server that takes longer is a reason to ask whether it is there.
const DOUBT_AFTER: Duration = Duration::from_secs(2);

/// How executors are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    /// At the addresses of their pods: the driver is a pod too, or has a route to them.
    Direct,
    /// Through the API server.
    Forward,
}

/// What all settings say about executors' pods.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorSettings {
    /// The image.
    pub image: String,
    /// Tasks at a time, and CPUs that are requested.
    pub cores: u32,
    /// Disk in bytes.
    pub disk: u64,
    /// A partial Pod.
    pub template: Option<Template>,
    /// What `k8s.executor.*` asks for.
    pub pods: PodSettings,
    /// How they are reached; nothing if it is to be found out.
    pub dial: Option<Dial>,
    /// So many pods may be on their way.
    pub pending_max: u32,
    /// So many executors are reached through the API server.
    pub forward_max: u32,
}

/// Settings that make no pods.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A value does not fit its key.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// The template's file cannot be read.
    #[error("read the template {path} of {} pods", role.word())]
    ReadTemplate {
        /// Whose.
        role: Role,
        /// Which.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The template is none.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// The template that a role's settings name.
///
/// # Errors
/// It cannot be read, is no partial Pod, or touches what Vonk owns.
pub fn template(role: Role, values: &Values) -> Result<Option<Template>, SettingsError> {
    let keys = match role {
        Role::Driver => &config::DRIVER,
        Role::Executor => &config::EXECUTOR,
    };
    let path = keys.template.value(values);
    if path.is_empty() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::ReadTemplate {
        role,
        path: path.to_owned(),
        source,
    })?;
    Ok(Some(Template::parse(role, &text)?))
}

impl ExecutorSettings {
    /// Reads them, and the template's file.
    ///
    /// # Errors
    /// A value does not fit its key, or the template cannot be used.
    pub fn read(values: &Values) -> Result<Self, SettingsError> {
        let number = |setting: &model::setting::Setting| {
            setting.integer(values).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
        };
        Ok(Self {
            image: config::IMAGE.value(values).to_owned(),
            cores: number(&config::EXECUTOR_CORES)?,
            disk: config::EXECUTOR_DISK.bytes(values)?,
            template: template(Role::Executor, values)?,
            pods: PodSettings::read(&config::EXECUTOR, values)?,
            dial: match config::DIAL.value(values) {
                "direct" => Some(Dial::Direct),
                "forward" => Some(Dial::Forward),
                _ => None,
            },
            pending_max: number(&config::PENDING_MAX)?,
            forward_max: number(&config::FORWARD_MAX)?,
        })
    }
}

/// What executors are started with.
#[derive(Clone)]
pub struct PodConfig {
    /// Keeps the log of a pod that may have had no time to do so itself, unless nobody wants that.
    pub keep: Option<KeepPrinted>,
    /// Where.
    pub cluster: Cluster,
    /// The application.
    pub app: AppId,
    /// Its epoch.
    pub epoch: Epoch,
    /// What people call it.
    pub name: String,
    /// The root, which owns the executors.
    pub owner: OwnerReference,
    /// The program's SHA-256 in hex; none if the stock binary serves.
    pub program: Option<String>,
    /// Files that go along with it, as pods are told.
    pub attached: String,
    /// The program's architecture as Kubernetes calls it, `amd64` or `arm64`; any if none.
    pub architecture: Option<String>,
    /// URL of the store.
    pub store: String,
    /// What executors log, as a filter of `tracing`; their default if none.
    pub log: Option<String>,
    /// Memory of an executor in bytes.
    pub memory: u64,
    /// What the settings say.
    pub executors: ExecutorSettings,
}

impl PodConfig {
    /// What in executors' pods the Pod Security Standard `restricted` forbids, each in a few words: settings or the template
    /// ask for it.
    #[must_use]
    pub fn weakened(&self) -> Vec<String> {
        weakens_restricted(&self.pods().pod(1, &BTreeSet::new()))
    }

    fn pods(&self) -> ExecutorPods {
        ExecutorPods {
            of: AppPods {
                app: self.app,
                name: self.name.clone(),
                image: self.executors.image.clone(),
                program: self.program.clone(),
                attached: self.attached.clone(),
                architecture: self.architecture.clone(),
                store: self.store.clone(),
                log: self.log.clone(),
            },
            epoch: self.epoch,
            owner: self.owner.clone(),
            cores: self.executors.cores,
            memory: self.memory,
            disk: self.executors.disk,
            tls_secret: names::files(&self.owner.name, Role::Executor),
            template: self.executors.template.clone(),
            settings: self.executors.pods.clone(),
        }
    }

    fn dial(&self) -> Dial {
        let auto = if self.cluster.is_inside() { Dial::Direct } else { Dial::Forward };
        self.executors.dial.unwrap_or(auto)
    }
}

/// Executors that are pods.
pub struct PodBackend {
    shared: Arc<Shared>,
    events: Mutex<Option<mpsc::Receiver<ClusterEvent>>>,
    control: TaskTracker,
}

/// What the control loop and everybody else share.
struct Shared {
    cluster: Cluster,
    dial: Dial,
    orders: Mutex<Orders>,
    /// There are new orders.
    ordered: Notify,
    addresses: Mutex<BTreeMap<ExecutorId, Address>>,
    /// The API server does not answer, through which executors are reached.
    cut_off: AtomicBool,
    stopped: CancellationToken,
}

/// What the control loop is to know.
#[derive(Debug, Default)]
struct Orders {
    target: u32,
    released: BTreeSet<ExecutorId>,
    /// Somebody wonders whether the API server is there.
    doubts: bool,
}

/// Where an executor that runs is reached.
#[derive(Debug, Clone)]
struct Address {
    pod: String,
    ip: Option<String>,
}

impl PodBackend {
    /// No pod yet; they are created when a target is set. Pods of other epochs are deleted, and those of this one that are
    /// there already are taken up.
    #[must_use]
    pub fn new(config: PodConfig, io: Handle) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared {
            cluster: config.cluster.clone(),
            dial: config.dial(),
            orders: Mutex::default(),
            ordered: Notify::new(),
            addresses: Mutex::default(),
            cut_off: AtomicBool::new(false),
            stopped: CancellationToken::new(),
        });
        let control = TaskTracker::new();
        let task = control::Control::new(&config, Arc::clone(&shared), sender);
        control.spawn_on(task.run(), &io);
        Arc::new(Self { shared, events: Mutex::new(Some(receiver)), control })
    }
}

impl ClusterBackend for PodBackend {
    fn set_target(&self, executors: u32) {
        self.shared.orders().target = executors;
        self.shared.ordered.notify_one();
    }

    fn release(&self, executor: ExecutorId) {
        self.shared.orders().released.insert(executor);
        self.shared.ordered.notify_one();
    }

    fn dial(&self, executor: ExecutorId) -> BoxFuture<'_, Result<Connection, DialError>> {
        async move {
            let address = self.shared.addresses().get(&executor).cloned().ok_or(DialError::Gone(executor))?;
            let failed = |source| DialError::Failed { executor, source };
            match (self.shared.dial, address) {
                (Dial::Direct, Address { ip: Some(ip), .. }) => {
                    let dialled = TcpStream::connect((ip.as_str(), PORT)).await;
                    let stream = dialled.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
                    Ok(Connection::Bytes(Box::new(stream.map_err(failed)?.compat())))
                }
                (Dial::Direct, Address { pod, ip: None }) => {
                    Err(failed(std::io::Error::other(format!("the pod {pod} has no address yet"))))
                }
                (Dial::Forward, Address { pod, .. }) => {
                    let pods: Api<Pod> = self.shared.cluster.api();
                    let mut opening = std::pin::pin!(forward::open(&pods, &pod, PORT));
                    let opened = match timeout(DOUBT_AFTER, &mut opening).await {
                        Ok(opened) => opened,
                        Err(_elapsed) => {
                            self.shared.doubt();
                            opening.await
                        }
                    };
                    if opened.is_err() {
                        self.shared.doubt();
                    }
                    Ok(Connection::Bytes(Box::new(opened.map_err(failed)?)))
                }
            }
        }
        .boxed()
    }

    fn is_cut_off(&self) -> bool {
        self.shared.cut_off.load(Ordering::Relaxed)
    }

    fn last_line(&self, executor: ExecutorId) -> BoxFuture<'_, Option<String>> {
        async move {
            let pod = self.shared.addresses().get(&executor)?.pod.clone();
            let pods: Api<Pod> = self.shared.cluster.api();
            let last =
                LogParams { container: Some(names::CONTAINER.to_owned()), tail_lines: Some(1), ..LogParams::default() };
            let printed = pods.logs(&pod, &last).await.ok()?;
            let line: String = printed.trim().chars().take(LAST_LINE).collect();
            (!line.is_empty()).then_some(line)
        }
        .boxed()
    }

    fn events(&self) -> Pin<Box<dyn Stream<Item = ClusterEvent> + Send>> {
        match self.events.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(events) => {
                ReceiverStream::new(events).take_until(self.shared.stopped.clone().cancelled_owned()).boxed()
            }
            None => futures::stream::empty().boxed(),
        }
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        async move {
            self.shared.stopped.cancel();
            self.control.close();
            self.control.wait().await;
        }
        .boxed()
    }
}

impl Drop for PodBackend {
    fn drop(&mut self) {
        self.shared.stopped.cancel();
    }
}

impl Shared {
    fn doubt(&self) {
        self.orders().doubts = true;
        self.ordered.notify_one();
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn addresses(&self) -> MutexGuard<'_, BTreeMap<ExecutorId, Address>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
