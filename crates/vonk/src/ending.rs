//! What ends a process before its program does?
//!
//! Signals and the time that a driver was given. Whoever has an application stops it and ends the process; while
//! there is none, [`guard`] ends it at once: the first process of a container ignores every signal that it does not handle.

use std::sync::LazyLock;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use guarded::guard;

/// Applications of this process that end it themselves.
static APPLICATIONS: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// Cancelled when the time is over.
static TIME_IS_OVER: LazyLock<CancellationToken> = LazyLock::new(CancellationToken::new);

/// An application that ends the process itself, when it is told to, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Application(());

impl Application {
    pub(crate) fn new() -> Self {
        APPLICATIONS.send_modify(|applications| *applications += 1);
        Self(())
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        APPLICATIONS.send_modify(|applications| *applications -= 1);
    }
}

/// Resolves when the time that the process was given is over; for most, never.
pub(crate) async fn time_is_over() {
    TIME_IS_OVER.cancelled().await;
}

/// What is said when it is over.
pub(crate) const TOO_LONG: &str = "it ran longer than --timeout";

mod guarded {
    use std::io;
    use std::time::Duration;

    use model::exit::{KILLED, TIMED_OUT};
    use tokio::signal::unix::{SignalKind, signal};

    use super::{APPLICATIONS, TIME_IS_OVER, TOO_LONG};

    /// Applications have so long to stop. Then the process ends all the same.
    const STOPPED_WITHIN: Duration = Duration::from_secs(25);

    /// From now on, SIGTERM and the end of the time end this process.
    ///
    /// # Errors
    /// The system gives no thread, or lets no signal be handled.
    pub(crate) fn guard(time: Option<Duration>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Before anything else happens in this process.
        let mut term = {
            let _inside = runtime.enter();
            signal(SignalKind::terminate())?
        };
        let watch = async move {
            let over = async {
                match time {
                    Some(time) => tokio::time::sleep(time).await,
                    None => std::future::pending().await,
                }
            };
            let code = tokio::select! {
                _ = term.recv() => KILLED,
                () = over => {
                    TIME_IS_OVER.cancel();
                    TIMED_OUT
                }
            };
            let mut applications = APPLICATIONS.subscribe();
            let stopping = *applications.borrow() > 0;
            // Who stops an application ends the process with the same code.
            let none_left = applications.wait_for(|applications| *applications == 0);
            if tokio::time::timeout(STOPPED_WITHIN, none_left).await.is_err() {
                tracing::warn!("the application did not end within {STOPPED_WITHIN:?}");
            }
            if code == TIMED_OUT && !stopping {
                eprintln!("{TOO_LONG}");
            }
            std::process::exit(i32::from(code))
        };
        std::thread::Builder::new().name("vonk-guard".to_owned()).spawn(move || runtime.block_on(watch))?;
        Ok(())
    }
}
