//! What does a process in a pod do before it is an executor or a driver?
//!
//! The image holds one stock executable. It fetches the program that the application runs, checks that it is the one that was
//! meant, and becomes it; the program then finds the same environment, and takes its role.

use std::convert::Infallible;
use std::env::{self, VarError};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use driver::Executable;
use executor::start::Birth;
use k8s_backend::names::variables::{APP, ATTACHED, EPOCH, EXECUTOR, POD_NAME, PROGRAM, STORE, TIMEOUT};
use k8s_backend::names::{IN_IMAGE, PORT, Role};
use model::setting::{InvalidSetting, Values};
use model::{AppId, Epoch, ExecutorId};
use object_store::ObjectStore;
use object_store::path::Path as StorePath;
use proto::tls::Identity;

use super::{program, sent};

/// Set once the program was fetched: whoever finds another one then does not fetch it again.
const FETCHED: &str = "VONK_FETCHED";

/// Where the end of what a program prints is kept, set by whoever stays with it.
pub(crate) const PRINTED: &str = "VONK_PRINTED";

/// The file in which a driver tells its epoch to whoever stays with it.
const TOLD_EPOCH: &str = "/vonk/work/.epoch";

/// The only folder of a pod that can be written.
pub(crate) const WORK: &str = "/vonk/work";

/// Where the files are that go along with the program.
const FILES: &str = "/vonk/work/files";

/// Where the files of the application's keys are.
const TLS: &str = "/vonk/tls";

/// The program could not be fetched.
const NOT_FETCHED: i32 = 81;
/// What was fetched is another program.
const OTHER_PROGRAM: i32 = 82;
/// The program cannot be executed.
const NO_EXEC: i32 = 83;
/// The store refuses this pod.
const DENIED: i32 = 84;

/// Why a process in a pod cannot take its role.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable that the pod should have.
    #[error("read {name} of this pod: {problem}")]
    Variable {
        /// Which.
        name: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A file of the application's keys.
    #[error("read `{path}`")]
    Key {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The stock executable cannot tell what it is.
    #[error(transparent)]
    Executable(#[from] driver::Error),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] shuffle::Error),
    /// The program cannot be fetched.
    #[error(transparent)]
    Program(#[from] program::Error),
    /// Files that go along cannot be fetched.
    #[error(transparent)]
    Sent(#[from] sent::Error),
    /// Threads cannot be started.
    #[error("start the threads that fetch the program")]
    Threads(#[source] io::Error),
    /// The driver would not end when it is told to.
    #[error("handle SIGTERM")]
    Guard(#[source] io::Error),
    /// After it was fetched, the program was another one.
    #[error("run program {wanted}: this one is {found}")]
    OtherProgram {
        /// What the pod was made for.
        wanted: String,
        /// What runs.
        found: String,
    },
    /// The program cannot be executed.
    #[error("execute `{path}`")]
    Exec {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A setting of the pod.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
}

impl Error {
    /// The code with which the process ends.
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Self::OtherProgram { .. } | Self::Program(program::Error::Hash { .. }) => OTHER_PROGRAM,
            Self::Exec { .. } => NO_EXEC,
            _ if self.is_denied() => DENIED,
            _ => NOT_FETCHED,
        }
    }

    /// What is to be done about it, if that is known. The last line that a pod prints is the one that people are shown.
    pub(crate) fn help(&self) -> Option<String> {
        let store = env::var(STORE).unwrap_or_default();
        let role = env::var(driver::backend::processes::ROLE).unwrap_or_default();
        self.is_denied().then(|| refused_by(&store, &role))
    }

    fn is_denied(&self) -> bool {
        matches!(self, Self::Program(error) | Self::Sent(sent::Error::Program(error)) if error.is_denied())
    }
}

fn refused_by(store: &str, role: &str) -> String {
    let folder = store.split('?').next().unwrap_or_default();
    format!(
        "{folder} refuses this pod: set k8s.{role}.secret_env.* to a Secret with keys that may use it, or k8s.{role}.service_account to an account with the cloud's identity"
    )
}

/// Whether this process is in a pod that an application has made.
pub(crate) fn is_one() -> bool {
    env::var_os(APP).is_some() && env::var_os(STORE).is_some() && env::var_os(PROGRAM).is_some()
}

/// Whether a process with this role is a driver.
pub(crate) fn is_driver(role: &str) -> bool {
    role == Role::Driver.word()
}

/// Sees that a driver ends when it is told to, and when its time is over, whatever its program does. A second call does
/// nothing.
///
/// # Errors
/// The pod does not say how long it may run, or the system does not let us.
pub(crate) fn guard() -> Result<(), Error> {
    static GUARDED: AtomicBool = AtomicBool::new(false);
    let is_driver = env::var(driver::backend::processes::ROLE).is_ok_and(|role| is_driver(&role));
    if !is_driver || GUARDED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let time = match env::var_os(TIMEOUT) {
        Some(_) => Some(Duration::from_millis(variable(TIMEOUT)?)),
        None => None,
    };
    crate::ending::guard(time).map_err(Error::Guard)
}

/// Whether this process runs the program that the pod is for.
///
/// # Errors
/// The pod names none, or what was fetched is another one.
pub(crate) fn is_program() -> Result<bool, Error> {
    let wanted = variable::<String>(PROGRAM)?;
    let (same, found) = match in_image(&wanted) {
        Some(path) => {
            let file = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
            let this = env::current_exe().unwrap_or_default();
            (file(path).is_some_and(|wanted| Some(wanted) == file(&this)), this.display().to_string())
        }
        None => {
            let found = Executable::current().hash()?;
            (found == wanted, found)
        }
    };
    match same {
        false if env::var_os(FETCHED).is_some() => Err(Error::OtherProgram { wanted, found }),
        same => Ok(same),
    }
}

/// Where a program is that the image has.
fn in_image(program: &str) -> Option<&Path> {
    program.strip_prefix(IN_IMAGE).map(Path::new)
}

/// Fetches the program, unless the image has it, and becomes it.
///
/// # Errors
/// It cannot be fetched or executed.
pub(crate) fn become_program() -> Result<Infallible, Error> {
    let wanted = variable::<String>(PROGRAM)?;
    let path = match in_image(&wanted) {
        Some(path) => path.to_owned(),
        None => fetched(async |store, root| program::fetch(store, root, &wanted, Path::new(WORK)).await)?,
    };
    let mut arguments = env::args_os();
    let mut command = Command::new(&path);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let source = command.args(arguments).env(FETCHED, "1").exec();
    Err(Error::Exec { path, source })
}

/// Fetches the files that go along with the program, if any do.
///
/// # Errors
/// They cannot be fetched.
pub(crate) fn fetch_attached() -> Result<(), Error> {
    match attached().as_str() {
        "" => Ok(()),
        told => fetched(async |store, root| sent::fetch(store, root, told, Path::new(FILES)).await),
    }
}

/// From now on, this process finds the files that go along.
pub(crate) fn find_attached() {
    if !attached().is_empty() {
        crate::attached::found_in(Path::new(FILES));
    }
}

/// Which files go along, as pods are told; empty if none do.
pub(crate) fn attached() -> String {
    env::var(ATTACHED).unwrap_or_default()
}

/// Fetches something from the store, before there are other threads.
fn fetched<T, E>(fetch: impl AsyncFnOnce(&Arc<dyn ObjectStore>, &StorePath) -> Result<T, E>) -> Result<T, Error>
where
    Error: From<E>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Threads)?;
    let (store, root) = shuffle::store::open(&variable::<String>(STORE)?)?;
    let fetched = runtime.block_on(fetch(&store, &root));
    runtime.shutdown_background();
    Ok(fetched?)
}

/// What an executor in a pod must know before it listens.
///
/// # Errors
/// The pod does not say it, or its keys cannot be read.
pub(crate) fn birth() -> Result<Birth, Error> {
    let epoch = Epoch(variable(EPOCH)?);
    let who = (variable::<AppId>(APP)?, epoch, ExecutorId(variable(EXECUTOR)?));
    let program = variable::<String>(PROGRAM)?;
    let program = if in_image(&program).is_some() { Executable::current().hash()? } else { program };
    let birth = Birth::new(identity()?, who, program, PathBuf::from(WORK), &Values::new())?;
    // The volume that it spills to holds its program, too.
    let disk_taken = size(Path::new(WORK));
    Ok(Birth { listen: address(), end_with_parent: false, printed: printed(), disk_taken, ..birth })
}

/// How many bytes the files in a folder have. What cannot be looked at counts as nothing.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// Where the end of what this process prints is kept; nothing if nobody stays with it.
pub(crate) fn printed() -> Option<PathBuf> {
    env::var_os(PRINTED).map(PathBuf::from)
}

/// Which part a program has in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The application's driver.
    Driver,
    /// One of its executors.
    Executor {
        /// Of this epoch.
        epoch: Epoch,
        /// Its number.
        executor: ExecutorId,
    },
}

/// Of whom the end is kept, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The application.
    pub(crate) app: AppId,
    /// Its part.
    pub(crate) who: Who,
    /// The URL of the store.
    pub(crate) store: String,
}

/// Of whom the end is kept in this pod.
///
/// # Errors
/// The pod does not say it.
pub(crate) fn kept() -> Result<Kept, Error> {
    let who = match is_driver(&variable::<String>(driver::backend::processes::ROLE)?) {
        true => Who::Driver,
        false => Who::Executor { epoch: Epoch(variable(EPOCH)?), executor: ExecutorId(variable(EXECUTOR)?) },
    };
    Ok(Kept { app: variable(APP)?, who, store: variable(STORE)? })
}

/// Tells whoever stays with this driver which epoch it has.
pub(crate) fn tell_epoch(epoch: Epoch) {
    if printed().is_some()
        && let Err(error) = fs::write(TOLD_EPOCH, epoch.0.to_string())
    {
        tracing::warn!(%error, "what this driver prints may be kept as another epoch's");
    }
}

/// What [`tell_epoch`] told.
pub(crate) fn told_epoch() -> Option<Epoch> {
    fs::read_to_string(TOLD_EPOCH).ok()?.parse().ok().map(Epoch)
}

/// A driver that is a pod: its application was made by whoever submitted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DriverPod {
    /// The application.
    pub(crate) app: AppId,
    /// The SHA-256 of the program, or where the image has it.
    pub(crate) program: String,
    /// The pod's name.
    pub(crate) pod: String,
}

/// Whether this process is the driver of an application that was submitted.
pub(crate) fn is_submitted() -> bool {
    env::var(driver::backend::processes::ROLE).is_ok_and(|role| is_driver(&role)) && is_one()
}

/// Whether this process is the driver of an application that was submitted, and of which.
///
/// # Errors
/// The pod does not say it.
pub(crate) fn driver() -> Result<Option<DriverPod>, Error> {
    match env::var(driver::backend::processes::ROLE).as_deref() {
        Ok(role) if is_driver(role) && is_one() => {
            Ok(Some(DriverPod { app: variable(APP)?, program: variable(PROGRAM)?, pod: variable(POD_NAME)? }))
        }
        _ => Ok(None),
    }
}

/// How this pod proves who it is.
///
/// # Errors
/// A file of its Secret cannot be read.
pub(crate) fn identity() -> Result<Identity, Error> {
    let key = |name: &str| {
        let path = Path::new(TLS).join(name);
        fs::read_to_string(&path).map_err(|source| Error::Key { path, source })
    };
    Ok(Identity { cert_pem: key("cert.pem")?, key_pem: key("key.pem")?, ca_pem: key("ca.pem")? })
}

/// Every address of the pod, of both families where it has both.
fn address() -> SocketAddr {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    match TcpListener::bind(both) {
        Ok(_) => both,
        Err(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
    }
}

/// A variable of the pod's.
pub(crate) fn variable<T: FromStr<Err: std::fmt::Display>>(name: &'static str) -> Result<T, Error> {
    let wrong = |problem| Error::Variable { name, problem };
    let text = env::var(name).map_err(|error| match error {
        VarError::NotPresent => wrong("it is not set".to_owned()),
        VarError::NotUnicode(_) => wrong("it is no text".to_owned()),
    })?;
    text.parse().map_err(|error| wrong(format!("`{text}`: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_refuses_is_named_with_what_to_set() {
        let source = object_store::Error::PermissionDenied { path: "p".into(), source: "403".into() };
        let denied = program::Error::Store { what: "fetch", key: "p".into(), source };
        let error = Error::Program(denied);
        assert_eq!(error.exit_code(), DENIED);
        assert!(error.help().is_some());
        let said = refused_by("s3://bucket/vonk?endpoint=https://a", "driver");
        assert!(said.starts_with("s3://bucket/vonk refuses this pod: set k8s.driver.secret_env.* "), "{said}");
    }
}
