//! Which role has this process?

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::runners::Runners;

/// After so many milliseconds a driver ends by itself. Whoever starts it says so.
pub(crate) const TIMEOUT: &str = "VONK_TIMEOUT_MS";

/// Gives the process its role. The first line of `main` of every program that uses Vonk.
///
/// An executor of another driver serves its tasks here and never returns; in a pod, the stock executable of the image becomes
/// the program that it was made for; every other process goes on. Safe to call twice. [`main`] calls it.
///
/// # Panics
/// When `VONK_ROLE` names a role that does not exist: the executable is older than what started it.
pub fn init() {
    // A second call finds the provider installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Ok(role) = std::env::var(driver::backend::processes::ROLE) else { return end_in_time() };
    #[cfg(feature = "k8s")]
    if crate::kubernetes::pod::is_one() {
        let filter = std::env::var(crate::config::variable(crate::config::LOG.key)).unwrap_or_default();
        if let Err(error) = crate::kubernetes::parent::take_place(&filter) {
            let (code, help) = (error.exit_code(), error.help());
            eprintln!("{}", crate::report::report(&error.into()));
            help.iter().for_each(|help| eprintln!("help: {help}"));
            std::process::exit(code)
        }
    }
    match role.as_str() {
        driver::backend::processes::EXECUTOR => serve(),
        #[cfg(feature = "k8s")]
        role if crate::kubernetes::pod::is_driver(role) => {}
        role => panic!("VONK_ROLE is `{role}`, which this executable does not know"),
    }
}

/// Sees that a driver that was given a time ends when it is over, whatever its program does. A second call does nothing.
fn end_in_time() {
    static GUARDED: AtomicBool = AtomicBool::new(false);
    let Ok(text) = std::env::var(TIMEOUT) else { return };
    if GUARDED.swap(true, Ordering::Relaxed) {
        return;
    }
    let guarded = match text.parse().map(Duration::from_millis) {
        Ok(time) => crate::ending::guard(Some(time)).map_err(anyhow::Error::new),
        Err(error) => Err(anyhow::Error::new(error).context(format!("read {TIMEOUT}: `{text}`"))),
    };
    if let Err(error) = guarded {
        refuse(i32::from(model::exit::WRONG), error)
    }
}

/// Serves the tasks of a driver until this executor ends, and the process with it.
fn serve() -> ! {
    let filter = std::env::var(crate::config::variable(crate::config::LOG.key)).unwrap_or_default();
    crate::telemetry::init(&filter, None);
    #[cfg(feature = "k8s")]
    let born = match crate::kubernetes::pod::is_one() {
        true => crate::kubernetes::pod::birth().map_err(|error| (error.exit_code(), error.into())),
        false => born_locally(),
    };
    #[cfg(not(feature = "k8s"))]
    let born = born_locally();
    let served = born.and_then(|birth| {
        birth.files.iter().for_each(|folder| crate::attached::found_in(folder));
        executor::start::serve(birth, Arc::new(Runners)).map_err(|error| (error.exit_code(), error.into()))
    });
    match served {
        Ok(end) => std::process::exit(end.exit_code()),
        Err((code, error)) => refuse(code, error),
    }
}

/// What an executor of this machine is told by its parent; or the code with which it ends, and why.
fn born_locally() -> Result<executor::start::Birth, (i32, anyhow::Error)> {
    executor::start::Birth::read().map_err(|error| (error.exit_code(), error.into()))
}

fn refuse(code: i32, error: anyhow::Error) -> ! {
    eprintln!("{}", crate::report::report(&error));
    std::process::exit(code)
}

/// Runs a program: takes the process's role, then calls `program` and prints its error, with all causes, if it has one.
///
/// Exit codes: 0 done; 1 the program failed; 2 wrong configuration; 69 infrastructure lost; 75 no executor in time; 78 executors
/// cannot start; 130 and 143 interrupted.
///
/// # Examples
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     vonk::main(|| {
///         let ctx = vonk::Context::builder().master("local[2]").build()?;
///         println!("{}", ctx.range(0..1_000).count()?);
///         Ok(())
///     })
/// }
/// ```
pub fn main(program: impl FnOnce() -> Result<(), anyhow::Error>) -> ExitCode {
    init();
    let (code, report) = match program() {
        Ok(()) => (0, None),
        Err(error) => (crate::report::exit_code(&error), Some(crate::report::report(&error))),
    };
    if let Some(report) = &report {
        eprintln!("{report}");
    }
    crate::history::note_end(code, report);
    ExitCode::from(code)
}

#[cfg(all(test, feature = "k8s"))]
mod tests {
    #[test]
    fn drivers_here_and_in_pods_are_told_their_time_alike() {
        assert_eq!(super::TIMEOUT, k8s_backend::names::variables::TIMEOUT);
    }
}
