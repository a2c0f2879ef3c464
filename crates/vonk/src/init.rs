//! Which role has this process?

use std::process::ExitCode;
use std::sync::Arc;

use crate::runners::Runners;

/// Gives the process its role. The first line of `main` of every program that uses Vonk.
///
/// An executor of another driver serves its tasks here and never returns; every other process goes on. Safe to call
/// twice. [`main`] calls it.
///
/// # Panics
/// When `VONK_ROLE` names a role that does not exist: the executable is older than what started it.
pub fn init() {
    // A second call finds the provider installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match std::env::var(driver::backend::processes::ROLE) {
        Err(_) => {}
        Ok(role) if role == driver::backend::processes::EXECUTOR => {
            let filter = std::env::var(crate::config::variable(crate::config::LOG.key)).unwrap_or_default();
            crate::telemetry::init(&filter, None);
            let ended =
                executor::start::Birth::read().and_then(|birth| executor::start::serve(birth, Arc::new(Runners)));
            std::process::exit(match ended {
                Ok(end) => end.exit_code(),
                Err(error) => {
                    let code = error.exit_code();
                    eprintln!("{}", crate::report::report(&error.into()));
                    code
                }
            })
        }
        Ok(role) => panic!("VONK_ROLE is `{role}`: this executable knows only `executor`"),
    }
}

/// Runs a program: takes the process's role, then calls `program` and prints its error, with all causes, if it has one.
///
/// Exit codes: 0 done; 1 the program failed; 2 wrong configuration; 69 infrastructure lost; 130 and 143 interrupted.
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
    match program() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", crate::report::report(&error));
            crate::report::exit_code(&error)
        }
    }
}
