//! Which limits and waits does the scheduler keep?

use std::time::Duration;

/// Limits and waits. The defaults are the product's; tests shorten them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Fewer executors are never asked for. Default 1.
    pub min_executors: u32,
    /// More executors are never asked for. Default 1.
    pub max_executors: u32,
    /// So many are asked for at the start, if that is more than the fewest. Default 0.
    pub initial_executors: u32,
    /// How the number grows. By default to what tasks could use, at once.
    pub growth: Option<Growth>,
    /// How many slots an executor that is asked for will have. Default 1.
    pub slots_per_executor: u32,
    /// An executor silent for so long is lost. Default 25 s: five heartbeats.
    pub heartbeat_timeout: Duration,
    /// R1: a task that failed so many counted times fails its job. Default 4.
    pub task_failures: u32,
    /// R5: a task whose user code failed so many times without calling it transient fails its job. Default 2.
    pub user_failures: u32,
    /// R2: a stage of which so many attempts failed in a row fails its job. Default 4.
    pub stage_failures: u32,
    /// R3: a task that lost so many executors to the infrastructure fails its job. Default 10.
    pub infrastructure_losses: u32,
    /// R4: a task with so many strikes fails its job. Default 3.
    pub strikes: u32,
    /// R7: so many counted failures of a stage on one executor exclude it for that stage. Default 2.
    pub stage_exclusion: u32,
    /// R7: so many counted failures on one executor within [`exclusion_window`](Self::exclusion_window), those that are
    /// the user's fault aside, have it drained and replaced. Default 3.
    pub executor_exclusion: u32,
    /// R7 and R8: how far back failures and crashes are counted. Default 10 min.
    pub exclusion_window: Duration,
    /// R7: a stage excluded everywhere waits so long for another executor. Default 60 s.
    pub exclusion_lift: Duration,
    /// R8: so many executors that fail to start, while none ever ran, fail every job. Default 2.
    pub start_failures: u32,
    /// R8: at least so many crashes within the window, and two per wanted executor, fail every job. Default 3.
    pub crashes: u32,
    /// R9: without a usable executor for so long, every job fails. Default 10 min.
    pub no_executor: Duration,
    /// R9: the same when the cluster refuses to start any. Default 60 s.
    pub no_executor_refused: Duration,
    /// R9: when for so long no request to the store has succeeded, jobs that need it fail. Default 10 min.
    pub no_store: Duration,
    /// A task that failed because the store was unavailable is tried again after this. Default 1 s: the attempt itself
    /// has waited much longer, and if it has not, this keeps it from spinning.
    pub store_retry: Duration,
    /// How long tasks of a stage wait for the executors that hold its cached partitions. Default 1 s.
    pub locality_wait: Duration,
    /// An executor that is not wanted, and where nothing ran for so long, is released. Default 60 s.
    pub idle_timeout: Duration,
    /// The same for one that holds cached partitions. Default 10 min.
    pub idle_timeout_cached: Duration,
    /// Switches one rule off, so that a test can prove that it would notice. Never set outside tests.
    #[doc(hidden)]
    pub sabotage: Option<Sabotage>,
}

/// How the number of executors grows while tasks wait: by 4, then 8, 16, 32 and no more at a time, as long as short jobs do not
/// need them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Tasks wait so long before more executors are asked for.
    pub after: Duration,
    /// And so long before still more are.
    pub every: Duration,
}

impl Default for Growth {
    fn default() -> Self {
        Self { after: Duration::from_millis(500), every: Duration::from_secs(1) }
    }
}

impl Default for Config {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            min_executors: 1,
            max_executors: 1,
            initial_executors: 0,
            growth: None,
            slots_per_executor: 1,
            heartbeat_timeout: Duration::from_secs(25),
            task_failures: 4,
            user_failures: 2,
            stage_failures: 4,
            infrastructure_losses: 10,
            strikes: 3,
            stage_exclusion: 2,
            executor_exclusion: 3,
            exclusion_window: 10 * MINUTE,
            exclusion_lift: MINUTE,
            start_failures: 2,
            crashes: 3,
            no_executor: 10 * MINUTE,
            no_executor_refused: MINUTE,
            no_store: 10 * MINUTE,
            store_retry: Duration::from_secs(1),
            locality_wait: Duration::from_secs(1),
            idle_timeout: MINUTE,
            idle_timeout_cached: 10 * MINUTE,
            sabotage: None,
        }
    }
}

/// A rule that a test may switch off.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Accept an attempt although another of its partition was accepted, or it was voided.
    AcceptLateTwins,
    /// Do not run lost maps again.
    KeepLostOutputs,
    /// Do not take back what ran on an executor that is lost.
    ForgetLostTasks,
    /// Launch into slots that are taken.
    OverbookSlots,
}
