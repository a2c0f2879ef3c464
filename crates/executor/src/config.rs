//! What can be set about an executor?

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::setting::{InvalidSetting, Kind, Setting, Values};
use model::{AppId, Epoch, ExecutorId};
use object_store::ObjectStore;
use object_store::path::Path;

/// How much memory an executor may use altogether.
pub const MEMORY: Setting = Setting::new(
    "executor.memory",
    Kind::Bytes,
    "4g",
    "How much memory an executor may use altogether; in local mode half of the machine's or the cgroup's if not set.",
)
.aliases(&["spark.executor.memory"]);

/// Where an executor spills to.
pub const DISK: Setting = Setting::new(
    "executor.disk",
    Kind::Text,
    "",
    "The folder for what does not fit into memory; one under the system's temporary folder if empty.",
)
.aliases(&["spark.local.dir"]);

/// How much an executor may spill.
pub const DISK_MAX: Setting = Setting::new(
    "executor.disk_max",
    Kind::Bytes,
    "0",
    "How much may lie in executor.disk at a time; a task that needs more fails and is tried elsewhere. 0 is as much as there is room for; in pods, never more than 90 % of k8s.executor.disk.",
);

/// The value of [`DISK_MAX`]: as many bytes as there can be if nothing limits them.
///
/// # Errors
/// It is no size.
pub(crate) fn disk_max(values: &Values) -> Result<u64, InvalidSetting> {
    Ok(match DISK_MAX.bytes(values)? {
        0 => u64::MAX,
        most => most,
    })
}

/// How long an executor lives without a driver.
pub const LOST_AFTER: Setting = Setting::new(
    "executor.driver_lost_after",
    Kind::Duration,
    "60s",
    "How long an executor that hears nothing from its driver waits before it ends itself.",
);

/// How often driver and executors say that they live.
pub const HEARTBEAT_INTERVAL: Setting = Setting::new(
    "executor.heartbeat_interval",
    Kind::Duration,
    "5s",
    "How often driver and executors tell each other that they live, when they have nothing else to say.",
)
.aliases(&["spark.executor.heartbeatInterval"]);

/// More heartbeats than this allows would only keep links busy.
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The value of [`HEARTBEAT_INTERVAL`].
///
/// # Errors
/// It is no time, or too short.
pub fn heartbeat_interval(values: &Values) -> Result<Duration, InvalidSetting> {
    let interval = HEARTBEAT_INTERVAL.duration(values)?;
    if interval < HEARTBEAT_INTERVAL_MIN {
        return Err(InvalidSetting {
            key: HEARTBEAT_INTERVAL.key.to_owned(),
            value: HEARTBEAT_INTERVAL.value(values).to_owned(),
            want: format!("want at least {} ms", HEARTBEAT_INTERVAL_MIN.as_millis()),
        });
    }
    Ok(interval)
}

/// How long tasks may run on when an executor is told to drain by its system.
pub const DRAIN_GRACE: Setting = Setting::new(
    "executor.drain_grace",
    Kind::Duration,
    "25s",
    "How long running tasks may take to end after SIGTERM; the shortest notice of a spot machine is 30 s.",
);

/// Every key of this crate.
pub const SETTINGS: &[Setting] = &[MEMORY, DISK, DISK_MAX, HEARTBEAT_INTERVAL, LOST_AFTER, DRAIN_GRACE];

/// What an executor in the driver's own process is started with.
#[derive(Clone)]
pub struct ExecutorConfig {
    /// The application.
    pub app: AppId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its number.
    pub id: ExecutorId,
    /// SHA-256 of the executable, in hex.
    pub program: String,
    /// How many tasks at a time.
    pub slots: u32,
    /// How much memory everything together may use, in bytes.
    pub memory: u64,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Its root.
    pub root: Path,
    /// The folder under which it makes one of its own for what does not fit into memory.
    pub disk: PathBuf,
    /// All settings that are not at their default, by key.
    pub settings: Values,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_without_a_pause_are_refused() {
        let set = |value: &str| Values::from([(HEARTBEAT_INTERVAL.key.to_owned(), value.to_owned())]);
        assert_eq!(heartbeat_interval(&Values::new()), Ok(Duration::from_secs(5)));
        assert_eq!(heartbeat_interval(&set("100ms")), Ok(Duration::from_millis(100)));
        let error = heartbeat_interval(&set("0s")).unwrap_err();
        assert_eq!(error.to_string(), "set `executor.heartbeat_interval` to `0s`: want at least 100 ms");
    }
}
