//! What does a process in a pod do before it is an executor or a driver?
//!
//! The image holds one stock executable. It fetches the program that the application runs, checks that it is the one that was
//! meant, and becomes it; the program then finds the same environment, and takes its role.

use std::env::{self, VarError};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::{fs, io};

use driver::Executable;
use executor::start::Birth;
use k8s_backend::names::PORT;
use model::setting::{InvalidSetting, Values};
use model::{AppId, Epoch, ExecutorId};
use proto::tls::Identity;

use super::program;

/// The role of a driver in a pod.
pub(crate) const DRIVER: &str = "driver";

/// The application.
pub(crate) const APP: &str = "VONK_APP";
/// Which driver of it.
pub(crate) const EPOCH: &str = "VONK_EPOCH";
/// The executor's number.
pub(crate) const EXECUTOR: &str = "VONK_EXECUTOR";
/// The SHA-256 of the program.
pub(crate) const PROGRAM: &str = "VONK_PROGRAM";
/// The URL of the store.
pub(crate) const STORE: &str = "VONK_STORE";
/// Set once the program was fetched: whoever finds another one then does not fetch it again.
const FETCHED: &str = "VONK_FETCHED";

/// The only folder of a pod that can be written.
pub(crate) const WORK: &str = "/vonk/work";

/// Where the files of the application's keys are.
const TLS: &str = "/vonk/tls";

/// The program could not be fetched.
const NOT_FETCHED: i32 = 81;
/// What was fetched is another program.
const OTHER_PROGRAM: i32 = 82;
/// The program cannot be executed.
const NO_EXEC: i32 = 83;

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
    /// Threads cannot be started.
    #[error("start the threads that fetch the program")]
    Threads(#[source] io::Error),
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
            _ => NOT_FETCHED,
        }
    }
}

/// Whether this process is in a pod that an application has made.
pub(crate) fn is_one() -> bool {
    env::var_os(APP).is_some() && env::var_os(STORE).is_some() && env::var_os(PROGRAM).is_some()
}

/// Makes sure that this process runs the program: returns if it does, and otherwise becomes it.
///
/// # Errors
/// The program cannot be fetched or executed.
pub(crate) fn become_program() -> Result<(), Error> {
    let wanted = variable::<String>(PROGRAM)?;
    let found = Executable::current().hash()?;
    if found == wanted {
        return Ok(());
    }
    if env::var_os(FETCHED).is_some() {
        return Err(Error::OtherProgram { wanted, found });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Threads)?;
    let (store, root) = shuffle::store::open(&variable::<String>(STORE)?)?;
    let path = runtime.block_on(program::fetch(&store, &root, &wanted, Path::new(WORK)))?;
    runtime.shutdown_background();
    let mut arguments = env::args_os();
    let mut command = Command::new(&path);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let source = command.args(arguments).env(FETCHED, "1").exec();
    Err(Error::Exec { path, source })
}

/// What an executor in a pod must know before it listens.
///
/// # Errors
/// The pod does not say it, or its keys cannot be read.
pub(crate) fn birth() -> Result<Birth, Error> {
    let epoch = Epoch(variable(EPOCH)?);
    let who = (variable::<AppId>(APP)?, epoch, ExecutorId(variable(EXECUTOR)?));
    let birth = Birth::new(identity()?, who, variable(PROGRAM)?, PathBuf::from(WORK), &Values::new())?;
    Ok(Birth { listen: address(), end_with_parent: false, ..birth })
}

/// A driver that is a pod: its application was made by whoever submitted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DriverPod {
    /// The application.
    pub(crate) app: AppId,
    /// The SHA-256 of the program.
    pub(crate) program: String,
}

/// Whether this process is the driver of an application that was submitted, and of which.
///
/// # Errors
/// The pod does not say it.
pub(crate) fn driver() -> Result<Option<DriverPod>, Error> {
    match env::var(driver::backend::processes::ROLE).as_deref() {
        Ok(DRIVER) if is_one() => Ok(Some(DriverPod { app: variable(APP)?, program: variable(PROGRAM)? })),
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
