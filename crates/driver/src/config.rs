//! What can be set about a driver?

use std::sync::Arc;
use std::time::Duration;

use model::ids::{AppId, Epoch};
use model::setting::{InvalidSetting, Kind, Setting, Values};
use object_store::ObjectStore;
use object_store::path::Path;
use proto::tls::Identity;

use crate::executable::Executable;
use crate::observe::Observer;

/// How large the results of one job may be.
pub const MAX_RESULT_SIZE: Setting = Setting::new(
    "driver.max_result_size",
    Kind::Bytes,
    "1g",
    "Results of one job that arrive at the driver, or rows that a program holds of a query, may have so many bytes, and never \
     more than a quarter of its memory.",
)
.aliases(&["spark.driver.maxResultSize"]);

/// How long an executor may be silent.
pub const HEARTBEAT_TIMEOUT: Setting = Setting::new(
    "executor.heartbeat_timeout",
    Kind::Duration,
    "25s",
    "An executor that has been silent for so long is lost.",
)
.aliases(&["spark.network.timeout"]);

/// How long a lost link is made again.
pub const RECONNECT_TIMEOUT: Setting = Setting::new(
    "executor.reconnect_timeout",
    Kind::Duration,
    "20s",
    "A lost link to an executor is made again for so long; then the executor is lost.",
);

/// How often one task may fail.
pub const TASK_FAILURES: Setting = Setting::new(
    "task.max_failures",
    Kind::Integer { min: 1, max: 1_000 },
    "4",
    "A task that has failed so many times, losses of executors not counted, fails its job.",
)
.aliases(&["spark.task.maxFailures"]);

/// How often one stage may fail.
pub const STAGE_FAILURES: Setting = Setting::new(
    "stage.max_failures",
    Kind::Integer { min: 1, max: 1_000 },
    "4",
    "A stage of which so many attempts failed one after the other fails its job.",
)
.aliases(&["spark.stage.maxConsecutiveAttempts"]);

/// How many executors one task may lose to the infrastructure.
pub const INFRASTRUCTURE_LOSSES: Setting = Setting::new(
    "task.max_executor_losses",
    Kind::Integer { min: 1, max: 10_000 },
    "10",
    "A task that has lost so many executors to the infrastructure (evicted, killed, cut off) fails its job.",
);

/// How long jobs wait without an executor.
pub const NO_EXECUTOR_TIMEOUT: Setting = Setting::new(
    "driver.no_executor_timeout",
    Kind::Duration,
    "10m",
    "When for so long no executor can be used, jobs fail.",
);

/// How long jobs wait for the object store.
pub const NO_STORE_TIMEOUT: Setting = Setting::new(
    "driver.no_store_timeout",
    Kind::Duration,
    "10m",
    "When for so long no request to the object store has succeeded, jobs that need it fail.",
);

/// How long tasks wait for the executor that holds their cached partition.
pub const LOCALITY_WAIT: Setting = Setting::new(
    "task.locality_wait",
    Kind::Duration,
    "1s",
    "How long a task waits for an executor that holds its cached partition.",
)
.aliases(&["spark.locality.wait"]);

/// When others remove what an application left.
pub const SWEEP_AFTER: Setting = Setting::new(
    "store.sweep_after",
    Kind::Duration,
    "60m",
    "What an application has left in the store is removed by others when its lease is older; a driver that sleeps longer loses its rows.",
);

/// A number of executors that never changes.
pub const EXECUTOR_INSTANCES: Setting = Setting::new(
    "executor.instances",
    Kind::Integer { min: 0, max: 10_000 },
    "0",
    "Where executors are pods, their number; 0 lets it follow the work, between allocation.min and allocation.max.",
)
.aliases(&["spark.executor.instances"]);

/// The fewest executors.
pub const ALLOCATION_MIN: Setting = Setting::new(
    "allocation.min",
    Kind::Integer { min: 0, max: 10_000 },
    "0",
    "Where executors are pods, the fewest that an application keeps.",
)
.aliases(&["spark.dynamicAllocation.minExecutors"]);

/// Executors at the start.
pub const ALLOCATION_INITIAL: Setting = Setting::new(
    "allocation.initial",
    Kind::Integer { min: 0, max: 10_000 },
    "1",
    "Where executors are pods, how many an application asks for before its first job.",
)
.aliases(&["spark.dynamicAllocation.initialExecutors"]);

/// The most executors.
pub const ALLOCATION_MAX: Setting = Setting::new(
    "allocation.max",
    Kind::Integer { min: 1, max: 10_000 },
    "100",
    "Where executors are pods, the most that an application asks for.",
)
.aliases(&["spark.dynamicAllocation.maxExecutors"]);

/// When executors that do nothing go.
pub const ALLOCATION_IDLE: Setting = Setting::new(
    "allocation.idle_timeout",
    Kind::Duration,
    "60s",
    "An executor that is not needed and where nothing has run for so long is released.",
)
.aliases(&["spark.dynamicAllocation.executorIdleTimeout"]);

/// When executors that hold cached partitions go.
pub const ALLOCATION_IDLE_CACHED: Setting = Setting::new(
    "allocation.idle_timeout_cached",
    Kind::Duration,
    "10m",
    "The same for an executor that holds cached partitions.",
)
.aliases(&["spark.dynamicAllocation.cachedExecutorIdleTimeout"]);

/// Every key of this crate.
pub const SETTINGS: &[Setting] = &[
    EXECUTOR_INSTANCES,
    ALLOCATION_MIN,
    ALLOCATION_INITIAL,
    ALLOCATION_MAX,
    ALLOCATION_IDLE,
    ALLOCATION_IDLE_CACHED,
    MAX_RESULT_SIZE,
    HEARTBEAT_TIMEOUT,
    RECONNECT_TIMEOUT,
    TASK_FAILURES,
    STAGE_FAILURES,
    INFRASTRUCTURE_LOSSES,
    NO_EXECUTOR_TIMEOUT,
    NO_STORE_TIMEOUT,
    LOCALITY_WAIT,
    SWEEP_AFTER,
];

/// What a driver is started with.
pub struct DriverConfig {
    /// The application.
    pub app: AppId,
    /// Its epoch.
    pub epoch: Epoch,
    /// What a person calls it.
    pub name: String,
    /// Its master, as the user wrote it.
    pub master: String,
    /// All settings that are not at their default, by key. Told to executors.
    pub settings: Values,
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Its URL, told to executors.
    pub store_url: String,
    /// Its root.
    pub root: Path,
    /// Whether others may see it.
    pub scope: StoreScope,
    /// Slots of one executor.
    pub slots: u32,
    /// Memory of one executor, in bytes.
    pub memory: u64,
    /// How many executors there are to be.
    pub allocation: Allocation,
    /// What this process runs; executors in other processes must run the same.
    pub executable: Executable,
    /// Who the driver is to executors in other processes. `None` if all are in this one.
    pub identity: Option<Identity>,
    /// Who hears what happens.
    pub observers: Vec<Box<dyn Observer>>,
}

/// How many executors there are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Never fewer.
    pub min: u32,
    /// At the start.
    pub initial: u32,
    /// Never more.
    pub max: u32,
}

impl Allocation {
    /// Always so many.
    #[must_use]
    pub fn fixed(executors: u32) -> Self {
        Self { min: executors, initial: executors, max: executors }
    }

    /// What the settings say.
    ///
    /// # Errors
    /// A value does not fit its key, or one contradicts another.
    pub fn read(values: &Values) -> Result<Self, InvalidSetting> {
        let count = |setting: Setting| setting.integer(values).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        if let fixed @ 1.. = count(EXECUTOR_INSTANCES)? {
            return Ok(Self::fixed(fixed));
        }
        let (min, max) = (count(ALLOCATION_MIN)?, count(ALLOCATION_MAX)?);
        if min > max {
            return Err(InvalidSetting {
                key: ALLOCATION_MIN.key.to_owned(),
                value: min.to_string(),
                want: format!("want at most `{}`, which is {max}", ALLOCATION_MAX.key),
            });
        }
        Ok(Self { min, initial: count(ALLOCATION_INITIAL)?.clamp(min, max), max })
    }

    /// How many executors datasets are divided for by default: those that are there soon.
    #[must_use]
    pub fn usual(&self) -> u32 {
        self.max.min(self.initial.max(USUAL_EXECUTORS))
    }
}

/// Where the number of executors follows the work, datasets are divided for so many of them unless more are there at once:
/// enough to make use of the cluster, and few enough that small jobs do not become a hundred tasks.
const USUAL_EXECUTORS: u32 = 8;

/// R9: backends have waited for what may still come, an image or a Secret, before they say that none can start. What a
/// policy refuses stays refused.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// Who else may see what is written to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreScope {
    /// Nobody: memory, or a folder made for this process and removed with it. No lease is taken, nothing is swept.
    Private,
    /// Other applications, now and later: a lease is taken before the first object is written.
    Shared,
}

/// The settings of this crate, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) max_result_size: u64,
    pub(crate) reconnect_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) sweep_after: Duration,
    pub(crate) drain_grace: Duration,
    pub(crate) scheduler: scheduler::Config,
}

impl Limits {
    pub(crate) fn read(config: &DriverConfig) -> Result<Self, InvalidSetting> {
        let values = &config.settings;
        let count = |setting: Setting| setting.integer(values).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let heartbeat_interval = executor::config::heartbeat_interval(values)?;
        // One heartbeat may be late; whoever waits for less takes the living for dead.
        let longer = |setting: Setting| match setting.duration(values)? {
            time if time >= 2 * heartbeat_interval => Ok(time),
            _ => Err(InvalidSetting {
                key: setting.key.to_owned(),
                value: setting.value(values).to_owned(),
                want: format!(
                    "want at least twice `{}`, which is {}",
                    executor::config::HEARTBEAT_INTERVAL.key,
                    executor::config::HEARTBEAT_INTERVAL.value(values)
                ),
            }),
        };
        longer(executor::config::LOST_AFTER)?;
        Ok(Self {
            heartbeat_interval,
            max_result_size: max_result_size(values)?,
            reconnect_timeout: RECONNECT_TIMEOUT.duration(values)?,
            sweep_after: SWEEP_AFTER.duration(values)?,
            drain_grace: executor::config::DRAIN_GRACE.duration(values)?,
            scheduler: scheduler::Config {
                min_executors: config.allocation.min,
                max_executors: config.allocation.max,
                initial_executors: config.allocation.initial,
                growth: Some(scheduler::Growth::default()),
                idle_timeout: ALLOCATION_IDLE.duration(values)?,
                idle_timeout_cached: ALLOCATION_IDLE_CACHED.duration(values)?,
                slots_per_executor: config.slots,
                heartbeat_timeout: longer(HEARTBEAT_TIMEOUT)?,
                task_failures: count(TASK_FAILURES)?,
                stage_failures: count(STAGE_FAILURES)?,
                infrastructure_losses: count(INFRASTRUCTURE_LOSSES)?,
                no_executor: NO_EXECUTOR_TIMEOUT.duration(values)?,
                no_executor_refused: REFUSED_FOR,
                no_store: NO_STORE_TIMEOUT.duration(values)?,
                locality_wait: LOCALITY_WAIT.duration(values)?,
                ..scheduler::Config::default()
            },
        })
    }
}

/// How many bytes of results a job may bring home.
///
/// # Errors
/// The setting is no size.
pub fn max_result_size(values: &Values) -> Result<u64, InvalidSetting> {
    Ok(MAX_RESULT_SIZE.bytes(values)?.min(memory_of_machine() / 4))
}

/// What this machine, or the cgroup that holds this process, has in bytes; so much that it limits nothing if nobody can
/// tell.
#[must_use]
pub fn memory_of_machine() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let meminfo = read("/proc/meminfo");
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    let total = total.and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok()).map(|kilobytes| kilobytes << 10);
    // The second version of cgroups, then the first; a container sees its own at the root.
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = limits.iter().filter_map(|path| read(path).trim().parse::<u64>().ok());
    limits.chain(total).min().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_fits_its_kind() {
        for setting in SETTINGS {
            assert_eq!(setting.check(setting.default), Ok(()), "{}", setting.key);
        }
    }

    #[test]
    fn a_fixed_number_wins_and_contradictions_are_named() {
        let values = |pairs: &[(&str, &str)]| pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        let read = |pairs: &[(&str, &str)]| Allocation::read(&values(pairs));
        assert_eq!(read(&[]), Ok(Allocation { min: 0, initial: 1, max: 100 }));
        assert_eq!(read(&[("executor.instances", "3"), ("allocation.max", "2")]), Ok(Allocation::fixed(3)));
        assert_eq!(read(&[("allocation.min", "2")]), Ok(Allocation { min: 2, initial: 2, max: 100 }));
        let error = read(&[("allocation.min", "5"), ("allocation.max", "4")]).unwrap_err().to_string();
        assert_eq!(error, "set `allocation.min` to `5`: want at most `allocation.max`, which is 4");
    }

    #[test]
    fn this_machine_has_some_memory() {
        assert!((1 << 20..u64::MAX).contains(&memory_of_machine()));
    }
}
