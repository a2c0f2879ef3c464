//! How does a driver get its executors as pods?
//!
//! What can be refused without asking anybody is looked at first: the settings, the program. Then the program goes into the
//! store while the application's root is made, and the backend asks for pods.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use driver::Executable;
use driver::config::Allocation;
use driver::standing::Owner;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use k8s_backend::access::{Access, AccessError, Cluster};
use k8s_backend::backend::{ExecutorSettings, PodBackend, PodConfig, SettingsError};
use k8s_backend::config as keys;
use k8s_backend::own_pod::{Over, OwnPod};
use k8s_backend::request::RequestError;
use k8s_backend::root::{App, ClientRoot, OwnerReference, RootError, TlsFiles};
use model::backend::{ClusterBackend, ClusterEvent, Connection, DialError};
use model::setting::Setting;
use model::{AppId, Epoch, ExecutorId};
use object_store::ObjectStore;
use object_store::path::Path;
use proto::tls::Identity;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::pod::{self, DriverPod};
use super::program::{self, Image};
use super::sent;
use crate::context::{Backend, DriverParts, StartError};

/// What is being made when a signal comes may take so long: a request or two.
const MADE_WITHIN: Duration = Duration::from_secs(5);

/// A driver whose pod is deleted hears SIGTERM, and SIGKILL when the pod's grace is over, and so much later if its node is
/// well.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// Why an application cannot start on Kubernetes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster cannot be reached.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A setting of pods cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The driver's own pod cannot be looked at.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The application's root cannot be made.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The program cannot be sent.
    #[error(transparent)]
    Program(#[from] program::Error),
    /// Files cannot be sent along.
    #[error(transparent)]
    Sent(#[from] sent::Error),
    /// A pod that was made for a driver does not say so.
    #[error(transparent)]
    Pod(#[from] pod::Error),
    /// The driver's pod has nothing that owns it.
    #[error("find the Job of this driver's pod: it names none as its owner; submit the program by `vonk submit`")]
    NoRoot,
    /// Nobody can tell how often the program was started before.
    #[error("look for earlier drivers of this application in the store")]
    Leases(#[source] object_store::Error),
    /// A signal came first.
    #[error("start on Kubernetes: interrupted")]
    Interrupted,
    /// Something that was to run beside this did not.
    #[error("start on Kubernetes: the application's threads have ended")]
    Ended,
}

/// The code with which a program ends that could not start for this reason.
pub(crate) fn exit_code(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    use model::exit::{INTERRUPTED, LOST, REFUSED, WRONG};

    // A transparent variant stands for its inner error in the chain, so the outer types are asked, too.
    let error = match error.downcast_ref::<StartError>() {
        Some(StartError::Kubernetes(error)) => error,
        _ => error.downcast_ref::<Error>()?,
    };
    Some(match error {
        Error::Access(AccessError::Unreachable { .. }) | Error::Root(RootError::Unreachable { .. }) => LOST,
        Error::Access(AccessError::Refused { .. } | AccessError::TooOld { .. }) | Error::Root(_) => REFUSED,
        Error::Access(_) | Error::Settings(_) => WRONG,
        Error::Program(error) | Error::Sent(sent::Error::Program(error)) if error.is_denied() => REFUSED,
        Error::Leases(error) if program::denied(error) => REFUSED,
        Error::Program(program::Error::Store { .. })
        | Error::Sent(sent::Error::Program(program::Error::Store { .. }) | sent::Error::Ended)
        | Error::Leases(_) => LOST,
        Error::Program(_) | Error::Sent(_) => WRONG,
        Error::Pod(_) | Error::NoRoot => REFUSED,
        Error::Request(error) => error.exit_code(),
        Error::Interrupted => INTERRUPTED,
        Error::Ended => LOST,
    })
}

/// Makes what an application's executors need, and gives the backend that asks for them.
pub(crate) fn start(parts: DriverParts<'_>, url: Option<&str>) -> Result<Backend, StartError> {
    let values = parts.config.values();
    let executors = ExecutorSettings::read(values).map_err(Error::from)?;
    let allocation = Allocation::read(values)?;
    let memory = executor::config::MEMORY.bytes(values)?;
    let slots = executors.cores;
    let disk_max = Some(spilled_at_most(executors.disk, executor::config::DISK_MAX.bytes(values)?));
    let executable = Executable::current();
    let needs = program::needs(executable.path()).map_err(Error::from)?;
    // People know the program by its file, and not by the one that cannot be replaced while it runs.
    let shown = std::env::current_exe().unwrap_or_else(|_| executable.path().to_owned());
    Image::read(values)?.suits(&shown, &needs).map_err(Error::from)?;

    let set = |setting: &Setting| Some(setting.value(values).to_owned()).filter(|value| !value.is_empty());
    let access = Access { url: url.map(str::to_owned), context: set(&keys::CONTEXT), namespace: set(&keys::NAMESPACE) };
    let rooted = match pod::driver().map_err(Error::from)? {
        Some(driver) => submitted(&parts, driver, access)?,
        None => own_root(&parts, &executable, access)?,
    };
    let Rooted { cluster, identity, program, attached, root } = rooted;
    let log = set(&crate::config::LOG);
    let killed = root.killed();
    let owner = Some(Owner { namespace: cluster.namespace().to_owned(), name: root.owner().name.clone() });
    let config = PodConfig {
        log,
        cluster,
        app: parts.app,
        epoch: parts.epoch,
        name: parts.name.to_owned(),
        owner: root.owner().clone(),
        program: Some(program),
        attached,
        architecture: Some(needs.architecture.to_owned()),
        store: parts.store_url.to_owned(),
        memory,
        executors,
        keep: parts.keep.clone(),
    };
    for what in config.weakened() {
        tracing::warn!(what, "executors' pods would not pass the Pod Security Standard `restricted`");
    }
    let backend = PodBackend::new(config, parts.io.clone());
    let cluster = Arc::new(Pods { backend, root, over: Arc::default() });
    Ok(Backend { cluster, executable, identity: Some(identity), allocation, slots, memory, disk_max, owner, killed })
}

/// How much executors with so much disk may spill: what is wished, unless the kubelet would evict them for it.
fn spilled_at_most(disk: u64, wished: u64) -> u64 {
    let safe = disk / 10 * 9;
    if wished == 0 { safe } else { wished.min(safe) }
}

/// An application that has what its executors need.
struct Rooted {
    cluster: Cluster,
    identity: Identity,
    /// The SHA-256 of the program, or where the image has it.
    program: String,
    /// Files that go along with it, as pods are told.
    attached: String,
    root: Root,
}

/// What owns an application's objects, and tells when it is over.
enum Root {
    /// This driver's Lease: its to keep and to remove.
    Own(Box<ClientRoot>),
    /// The Job of whoever submitted it.
    Submitted(OwnPod),
}

impl Root {
    fn owner(&self) -> &OwnerReference {
        match self {
            Self::Own(root) => root.owner(),
            Self::Submitted(pod) => pod.root(),
        }
    }

    /// Resolves once the application is over, and never before.
    fn over(&self) -> BoxFuture<'static, Over> {
        match self {
            Self::Own(root) => root.lost().boxed(),
            Self::Submitted(pod) => pod.clone().over().boxed(),
        }
    }

    /// Resolves with a sentence once the application is over whose driver no signal tells to end.
    fn killed(&self) -> BoxFuture<'static, String> {
        let over = self.over();
        let killed = async move {
            match over.await {
                Over::Killed(why) => why,
                Over::Deleted { within } => {
                    sleep(within + TOLD_WITHIN).await;
                    "the driver's pod was deleted, and its node has not told it to end".to_owned()
                }
                Over::Removed(_) => std::future::pending().await,
            }
        };
        killed.boxed()
    }
}

/// The application of a driver that is a pod: all is there already.
fn submitted(parts: &DriverParts<'_>, driver: DriverPod, access: Access) -> Result<Rooted, StartError> {
    let identity = pod::identity().map_err(Error::from)?;
    let interrupted = parts.interrupted.clone();
    let made = parts.io.spawn(async move {
        let found = async {
            let cluster = Cluster::insist(&access).await?;
            let pod = OwnPod::find(&cluster, &driver.pod).await?.ok_or(Error::NoRoot)?;
            Ok::<_, Error>((cluster, pod))
        };
        interrupted.run_until_cancelled(found).await.unwrap_or(Err(Error::Interrupted))
    });
    let (cluster, pod) = futures::executor::block_on(made).map_err(|_| Error::Ended)??;
    Ok(Rooted { cluster, identity, program: driver.program, attached: pod::attached(), root: Root::Submitted(pod) })
}

/// The application of a driver anywhere else: the program goes into the store, and the root is made with the executors' keys.
fn own_root(parts: &DriverParts<'_>, executable: &Executable, access: Access) -> Result<Rooted, StartError> {
    let authority = proto::tls::Authority::new(parts.app)?;
    let identity = authority.issue(proto::tls::Role::Driver)?;
    let Identity { ca_pem, cert_pem, key_pem } = authority.issue(proto::tls::Role::Executor)?;
    let files = TlsFiles { ca_pem, cert_pem, key_pem };
    let app = App { id: parts.app, name: parts.name.to_owned() };
    let (store, root, program) = (Arc::clone(parts.store), parts.root.clone(), executable.clone());
    let attached = parts.attached.to_vec();
    let interrupted = parts.interrupted.clone();
    let made = parts.io.spawn(async move {
        let sent = async {
            let hashing = program.clone();
            let hash = tokio::task::spawn_blocking(move || hashing.hash()).await.map_err(|_| Error::Ended)??;
            program::upload(&store, &root, program.path(), &hash).await.map_err(Error::from)?;
            let attached = sent::send(Some((&store, &root)), &attached).await.map_err(Error::from)?;
            Ok::<_, StartError>((hash, attached))
        };
        let sent = async { interrupted.run_until_cancelled(sent).await.unwrap_or(Err(Error::Interrupted.into())) };
        let rooted = async {
            let connected = interrupted.run_until_cancelled(Cluster::connect(&access)).await;
            let cluster = connected.ok_or(Error::Interrupted)?.map_err(Error::from)?;
            let late = async {
                interrupted.cancelled().await;
                sleep(MADE_WITHIN).await;
            };
            // What is half made is made, so that it can be removed.
            let root = tokio::select! {
                root = ClientRoot::create(&cluster, &app, &files) => root.map_err(Error::from)?,
                () = late => return Err(Error::Interrupted.into()),
            };
            Ok::<_, StartError>((cluster, root))
        };
        // Both are heard, so that a root that was made is removed again.
        match tokio::join!(sent, rooted) {
            (Ok(_), Ok((_, root))) if interrupted.is_cancelled() => {
                root.remove().await;
                Err(Error::Interrupted.into())
            }
            (Ok(sent), Ok((cluster, root))) => Ok((sent, cluster, root)),
            (Err(error), Ok((_, root))) => {
                root.remove().await;
                Err(error)
            }
            (_, Err(error)) => Err(error),
        }
    });
    let ((program, attached), cluster, root) = futures::executor::block_on(made).map_err(|_| Error::Ended)??;
    // What `vonk status`, `logs`, `diagnose` and `kill` are asked with.
    tracing::info!("application {} in namespace {}", parts.app, cluster.namespace());
    Ok(Rooted { cluster, identity, program, attached, root: Root::Own(Box::new(root)) })
}

/// The application and epoch of this driver: of its pod, in which it may have been started before, or new ones.
pub(crate) fn who(io: &Handle, store: &Arc<dyn ObjectStore>, root: &Path) -> Result<(AppId, Epoch), StartError> {
    let Some(driver) = pod::driver().map_err(Error::from)? else { return Ok((AppId::generate(), Epoch(1))) };
    let below = |folder: &str| Path::from_iter(root.parts().chain(Path::from(folder).parts()));
    let (leases, history) = (below(model::keys::LEASES), below(&model::keys::history(driver.app)));
    let store = Arc::clone(store);
    let last = io.spawn(async move {
        let names = async |folder: &Path| -> Result<Vec<String>, object_store::Error> {
            let listed: Vec<_> = store.list(Some(folder)).try_collect().await?;
            Ok(listed.iter().filter_map(|object| object.location.filename().map(str::to_owned)).collect())
        };
        // A driver that had the time to tidy up has left no lease, and its history all the same.
        let (leases, logs) = (names(&leases).await?, names(&history).await?);
        let leases = leases.iter().filter_map(|name| model::keys::parse_lease(name));
        let leases = leases.filter(|(app, _)| *app == driver.app).map(|(_, epoch)| epoch);
        let logs = logs.iter().filter_map(|name| model::keys::parse_event_log(name));
        Ok::<_, object_store::Error>(leases.chain(logs).map(|epoch| epoch.0).max().unwrap_or_default())
    });
    let last = futures::executor::block_on(last).map_err(|_| Error::Ended)?.map_err(Error::Leases)?;
    pod::tell_epoch(Epoch(last + 1));
    Ok((driver.app, Epoch(last + 1)))
}

/// Executors that are pods, and what owns them.
struct Pods {
    backend: Arc<PodBackend>,
    root: Root,
    /// Why the application is over, once it is: without its root, pods are deleted as soon as they are made.
    over: Arc<OnceLock<Over>>,
}

impl ClusterBackend for Pods {
    fn set_target(&self, executors: u32) {
        self.backend.set_target(if self.over.get().is_some() { 0 } else { executors });
    }

    fn release(&self, executor: ExecutorId) {
        self.backend.release(executor);
    }

    fn dial(&self, executor: ExecutorId) -> BoxFuture<'_, Result<Connection, DialError>> {
        self.backend.dial(executor)
    }

    fn is_cut_off(&self) -> bool {
        self.backend.is_cut_off()
    }

    fn last_line(&self, executor: ExecutorId) -> BoxFuture<'_, Option<String>> {
        self.backend.last_line(executor)
    }

    fn events(&self) -> Pin<Box<dyn Stream<Item = ClusterEvent> + Send>> {
        let (backend, known) = (Arc::clone(&self.backend), Arc::clone(&self.over));
        let over = self.root.over().map(move |over| {
            let over = known.get_or_init(|| over).clone();
            backend.set_target(0);
            futures::stream::iter(refusal(&over))
        });
        let known = Arc::clone(&self.over);
        let of_pods = self.backend.events().flat_map(move |event| {
            let events = match known.get() {
                Some(Over::Removed(_) | Over::Killed(_)) if matches!(event, ClusterEvent::Reachable { .. }) => {
                    Vec::new()
                }
                // An executor that joined meanwhile has let the refusal be forgotten.
                Some(over) => std::iter::once(event).chain(refusal(over)).collect(),
                None => vec![event],
            };
            futures::stream::iter(events)
        });
        futures::stream::select(of_pods, over.flatten_stream()).boxed()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        async move {
            self.backend.stop().await;
            if let Root::Own(root) = &self.root {
                root.remove().await;
            }
        }
        .boxed()
    }
}

/// What ends the application's jobs. A driver that is to end is told so in another way, whose exit code is another.
fn refusal(over: &Over) -> Option<ClusterEvent> {
    match over {
        Over::Removed(why) => Some(ClusterEvent::Refused { why: why.clone() }),
        Over::Deleted { .. } | Over::Killed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_fails_before_its_pod_is_evicted() {
        assert_eq!(spilled_at_most(10 << 30, 0), 9 << 30);
        assert_eq!(spilled_at_most(10 << 30, 1 << 30), 1 << 30);
        assert_eq!(spilled_at_most(10 << 30, 10 << 30), 9 << 30);
    }
}
