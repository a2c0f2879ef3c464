//! What does a person type about applications on Kubernetes?
//!
//! A file for each command. What is said and which exit code follows is decided in `k8s-backend`; here are flags, and what
//! becomes of the answers on a terminal.

mod client_mode;
mod cluster_mode;
mod connection;
mod diagnose;
mod found;
mod gc;
mod history;
mod kill;
mod list;
mod logs;
mod output;
mod preflight;
mod properties;
mod repair;
mod shipped;
mod signals;
mod spark;
mod status;
mod store;
mod submit;
mod told;
mod upload;

use clap::Subcommand;
use k8s_backend::access::AccessError;
use k8s_backend::applications::FindError;
use k8s_backend::backend::SettingsError;
use k8s_backend::request::RequestError;
use k8s_backend::submit::SubmitError;
use model::exit;

use super::sent;

/// Commands about applications on Kubernetes.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program: its driver here, or as a pod of a cluster
    ///
    /// Most flags of spark-submit are there. With --deploy-mode cluster, the first line of stdout is the application's id;
    /// then follows what the driver prints, and the driver's exit code at the end.
    ///
    /// Exit codes: 0 done; 1 the program failed; 2 wrong command or configuration; 69 infrastructure lost; 75 no room in
    /// time; 78 the cluster refuses; 124 --timeout; 130 Ctrl-C; 143 killed. 69 and 75 may be tried again.
    Submit(Box<submit::Submit>),
    /// List applications
    List(list::List),
    /// Say how an application is: its state, its pods, what waits and why
    Status(status::Status),
    /// Show what a driver or an executor has printed
    Logs(logs::Logs),
    /// End an application
    Kill(kill::Kill),
    /// Say what is wrong with an application, the worst first
    Diagnose(diagnose::Diagnose),
    /// Check whether applications can run in a namespace, and print what is missing
    Preflight(preflight::Preflight),
    /// Remove what dead applications have left in the namespace and in the store
    Gc(gc::Gc),
    /// Finish or undo what dead drivers have left unfinished in a folder of results
    Repair(repair::Repair),
}

impl Command {
    /// Does what the command says, and returns with which exit code.
    ///
    /// # Errors
    /// It fails; [`code_of`] has the exit code.
    pub(crate) fn run(self) -> Result<u8, anyhow::Error> {
        // A client-mode program takes the place of this process: no threads before it.
        if let Self::Submit(submit) = &self
            && submit.runs_here()?
        {
            return submit.run_here();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let code = runtime.block_on(async {
            match self {
                Self::Submit(submit) => Box::pin(submit.run()).await,
                Self::List(list) => list.run().await,
                Self::Status(status) => status.run().await,
                Self::Logs(logs) => logs.run().await,
                Self::Kill(kill) => kill.run().await,
                Self::Diagnose(diagnose) => diagnose.run().await,
                Self::Preflight(preflight) => Box::pin(preflight.run()).await,
                Self::Gc(gc) => gc.run().await,
                Self::Repair(repair) => repair.run().await,
            }
        });
        // A log that is still read keeps nobody waiting.
        runtime.shutdown_background();
        code
    }
}

/// A command that cannot be carried out as it was typed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// With which exit code a command ends that has failed.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    let known = error.chain().find_map(|cause| {
        let submit = cause.downcast_ref().map(SubmitError::exit_code);
        let find = cause.downcast_ref().map(FindError::exit_code);
        let request = cause.downcast_ref().map(RequestError::exit_code);
        let access = cause.downcast_ref().map(|error: &AccessError| match error {
            AccessError::Unreachable { .. } => exit::LOST,
            AccessError::Refused { .. } | AccessError::TooOld { .. } => exit::REFUSED,
            _ => exit::WRONG,
        });
        let store = cause.downcast_ref().map(|error: &store::StoreError| error.exit_code());
        let unshown = cause.downcast_ref().map(|error: &logs::NotShown| error.code);
        let program = cause.downcast_ref().map(upload::exit_code);
        let sent = cause.downcast_ref().map(|error: &sent::Error| match error {
            sent::Error::Program(error) => upload::exit_code(error),
            _ => exit::WRONG,
        });
        submit.or(find).or(request).or(access).or(store).or(unshown).or(program).or(sent)
    });
    // What was added as context is no link of the chain.
    let wrong = error.is::<Usage>()
        || error.chain().any(|cause| {
            cause.is::<Usage>()
                || cause.is::<SettingsError>()
                || cause.is::<crate::config::Error>()
                || cause.is::<model::setting::InvalidSetting>()
        });
    match (known, wrong) {
        (Some(code), _) => code,
        (None, true) => exit::WRONG,
        (None, false) => exit::FAILED,
    }
}
