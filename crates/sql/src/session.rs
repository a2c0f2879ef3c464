//! What does a session of queries assume, and what must it not assume?
//!
//! The one place with every switch of DataFusion's that is right in one process only.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::catalog::TableProviderFactory;
use datafusion::common::config::{ConfigOptions, Dialect};
use datafusion::execution::config::SessionConfig;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionStateBuilder, SessionStateDefaults};
use datafusion::prelude::SessionContext;
use datafusion_spark::planner::SparkFunctionPlanner;
use model::JobRunner;

use crate::adapt::Limits;
use crate::arrow_files::ArrowFilesFactory;
use crate::csv::CsvFilesFactory;
use crate::error::Error;
use crate::functions::{BuiltIn, Carrier, Prefer};
use crate::lateral::LateralViews;
use crate::named::NameFiles;
use crate::persist::Caches;
use crate::planner::ClusterPlanner;
use crate::query::Cluster;
use crate::results::MaxHeld;
use crate::single::SingleValues;
use crate::spill;
use crate::stores::{OwnStore, Stores};
use crate::tables::FileTables;
use crate::text::TextFilesFactory;

/// How many consumers a message about memory that ran out names.
const CONSUMERS_NAMED: usize = 5;

/// A task with less memory works on batches of fewer rows.
const SMALL_TASK: usize = 64 << 20;

/// So many.
const SMALL_BATCH: usize = 1_024;

/// What a driver remembers of files whose rows executors read, in bytes: footers are read again for the next query.
const FOOTERS: usize = 8 << 20;

/// What a session is made from.
pub struct SessionParts {
    /// Runs the stages of queries.
    pub runner: Arc<dyn JobRunner>,
    /// Whether plans are cut into stages. Otherwise they run whole, in this process.
    pub stages: bool,
    /// How many tasks run at once.
    pub slots: usize,
    /// Working memory of one executor, and how many slots share it.
    pub memory: (u64, usize),
    /// For what does not fit into memory in this process.
    pub disk: PathBuf,
    /// The URL of the application's store.
    pub store_url: String,
    /// Takes the program's functions to executors.
    pub carrier: Arc<dyn Carrier>,
    /// Whether plans adapt to what was measured.
    pub adaptive: bool,
    /// The largest side of a join that is broadcast, in bytes.
    pub broadcast_max: u64,
    /// How many bytes a partition should have.
    pub partition_size: u64,
    /// How many partitions there are; 0 for what sizes suggest.
    pub partitions: usize,
    /// How many bytes of a query's results the program may hold at once.
    pub max_result_size: u64,
    /// Whether statements are Spark's dialect, and functions of the same name Spark's.
    pub spark: bool,
}

/// Makes a session whose queries run on the cluster.
///
/// # Errors
/// The folder for spilled rows cannot be used.
pub fn session(parts: SessionParts) -> Result<SessionContext, Error> {
    let width = if parts.partitions == 0 { parts.slots } else { parts.partitions };
    let mut config = SessionConfig::new().with_target_partitions(width.max(1)).with_information_schema(true);
    config.set_extension(Arc::new(OwnStore(parts.store_url.clone())));
    let (memory, slots) = parts.memory;
    if parts.stages {
        one_process_no_more(config.options_mut());
        config = fit_memory(config, memory / slots.max(1) as u64);
    }

    let stores = Stores::new(&OwnStore::of(&config)).committed(Arc::clone(&parts.runner));
    let pool = FairSpillPool::new(usize::try_from(memory).unwrap_or(usize::MAX));
    let named = std::num::NonZeroUsize::new(CONSUMERS_NAMED).unwrap_or(std::num::NonZeroUsize::MIN);
    let mut runtime = RuntimeEnvBuilder::new();
    if parts.stages {
        runtime = runtime.with_metadata_cache_limit(FOOTERS);
    }
    let runtime = runtime
        .with_object_store_registry(Arc::new(stores))
        .with_memory_pool(Arc::new(TrackConsumersPool::new(pool, named)))
        .with_disk_manager_builder(spill::disk(Arc::new(spill::Folder(parts.disk))))
        .build_arc()
        .map_err(|error| Error::Session(Box::new(error)))?;

    let prefer = if parts.spark { Prefer::Spark } else { Prefer::DataFusion };
    if parts.spark {
        config.options_mut().sql_parser.dialect = Dialect::Spark;
    }
    let config = config.with_extension(Arc::new(prefer)).with_extension(Arc::new(MaxHeld(parts.max_result_size)));
    let all = BuiltIn::get(prefer);
    let limits = Limits {
        broadcast: parts.broadcast_max,
        build: memory / slots.max(1) as u64,
        partition: parts.partition_size,
        slots: parts.slots,
    };
    let cluster = Cluster { runner: parts.runner, carrier: parts.carrier, limits, adaptive: parts.adaptive };
    let planner = ClusterPlanner::new(cluster, parts.stages, parts.partitions == 0);
    let mut state = SessionStateBuilder::new_with_default_features()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_scalar_functions(all.registered.scalar.clone())
        .with_aggregate_functions(all.registered.aggregate.clone())
        .with_window_functions(all.registered.window.clone())
        .with_query_planner(Arc::new(planner));
    if parts.spark {
        // What has a syntax of its own, as `extract(… FROM …)`, is Spark's function too.
        let mut planners = SessionStateDefaults::default_expr_planners();
        planners.insert(0, Arc::new(SparkFunctionPlanner));
        state = state.with_expr_planners(planners);
    }
    state = if parts.stages {
        state.with_analyzer_rule(Arc::new(SingleValues)).with_cache_factory(Some(Arc::new(Caches)))
    } else {
        state.with_physical_optimizer_rule(Arc::new(NameFiles))
    };
    let tables = Arc::new(FileTables::default());
    for format in FileTables::FORMATS {
        state = state.with_table_factory(format.to_owned(), Arc::clone(&tables) as Arc<dyn TableProviderFactory>);
    }
    let mut state = state.build();
    let wrong = |error| Error::Session(Box::new(error));
    state.register_file_format(Arc::new(CsvFilesFactory::default()), true).map_err(wrong)?;
    state.register_file_format(Arc::new(ArrowFilesFactory), true).map_err(wrong)?;
    state.register_file_format(Arc::new(TextFilesFactory), true).map_err(wrong)?;
    state.register_relation_planner(Arc::new(LateralViews)).map_err(wrong)?;
    Ok(SessionContext::new_with_state(state))
}

/// Sorts set memory aside for merging what they spilled, and merge a batch of every file: both must be a small part of what
/// a task has.
fn fit_memory(mut config: SessionConfig, task: u64) -> SessionConfig {
    let task = usize::try_from(task).unwrap_or(usize::MAX);
    let execution = &mut config.options_mut().execution;
    execution.sort_spill_reservation_bytes = execution.sort_spill_reservation_bytes.min(task / 4);
    execution.sort_in_place_threshold_bytes = execution.sort_in_place_threshold_bytes.min(task / 32);
    if task < SMALL_TASK { config.with_batch_size(SMALL_BATCH) } else { config }
}

/// Turns off what is right only where all partitions of a plan run in one process. `tests/it/switches.rs` asks queries with
/// each of them on: some then fail or never end, and of the others it says what else protects them.
pub(crate) fn one_process_no_more(options: &mut ConfigOptions) {
    // Partitions of a scan take files from each other: a task would read the whole table.
    options.execution.enable_file_stream_work_stealing = false;
    // A filter of one stage would wait for ever for rows of another. Executors make those within a stage (task.rs).
    // The first is for those who set it by name only; the others are what is asked.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // A subquery's value would be computed in the process of the plan's root, and be missing in all others.
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    // Rows dealt out in turn would be dealt out otherwise when a task runs again.
    options.optimizer.enable_round_robin_repartition = false;
    // Interleaved partitions are those of one process.
    options.optimizer.prefer_existing_union = true;
}
