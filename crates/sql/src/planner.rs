//! How does a logical plan become one that runs on the cluster?

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::common::format::ExplainFormat;
use datafusion::datasource::sink::DataSinkExec;
use datafusion::execution::SessionState;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::config::SessionConfig;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use model::JobRunner;

use crate::adapt::Limits;
use crate::explain::{AnalyzeExec, explained};
use crate::functions::Carrier;
use crate::query::{Cluster, QueryExec};
use crate::read::{ShuffleReadExec, downcast};
use crate::scan::{Content, content};
use crate::session::one_process_no_more;
use crate::sink::WriteExec;
use crate::{cut, route, write};

/// At most so many partitions for each slot: more would only cost more.
const PARTITIONS_PER_SLOT: usize = 4;

/// Plans queries as DataFusion does, then hands them to the cluster.
pub(crate) struct ClusterPlanner {
    cluster: Arc<Cluster>,
    /// Whether plans are cut into stages. Otherwise only those that write are.
    stages: bool,
    /// The number of partitions follows from the size of the tables.
    sized: bool,
}

impl ClusterPlanner {
    pub(crate) fn new(
        runner: Arc<dyn JobRunner>,
        carrier: Arc<dyn Carrier>,
        limits: Limits,
        adaptive: bool,
        stages: bool,
        sized: bool,
    ) -> Self {
        Self { cluster: Arc::new(Cluster { runner, carrier, limits, adaptive }), stages, sized }
    }
}

impl fmt::Debug for ClusterPlanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterPlanner").finish_non_exhaustive()
    }
}

#[async_trait]
impl QueryPlanner for ClusterPlanner {
    async fn create_physical_plan(
        &self,
        logical: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::default();
        if self.stages {
            match logical {
                LogicalPlan::Explain(of) if of.explain_format == ExplainFormat::Indent => {
                    let explain = planner.create_physical_plan(logical, session).await?;
                    let plan = self.create_physical_plan(&of.plan, session).await?;
                    return Ok(downcast::<QueryExec>(&plan)
                        .map_or(Arc::clone(&explain), |query| explained(&explain, query.plan())));
                }
                LogicalPlan::Analyze(of) => {
                    let plan = self.create_physical_plan(&of.input, session).await?;
                    if let Some(query) = downcast::<QueryExec>(&plan) {
                        let schema = Arc::clone(of.schema.inner());
                        let (cluster, plan) = (Arc::clone(&self.cluster), Arc::clone(query.plan()));
                        return Ok(Arc::new(AnalyzeExec::new(cluster, plan, session.config().clone(), schema)));
                    }
                }
                _ => {}
            }
        }
        let mut plan = planner.create_physical_plan(logical, session).await?;
        let writes = downcast::<DataSinkExec>(&plan).is_some_and(|sink| write::files(sink).is_ok());
        let state = session.as_any().downcast_ref::<SessionState>();
        if !self.stages {
            if !writes {
                return Ok(plan);
            }
            // Files are committed by the driver, so that this plan is cut into stages all the same.
            if let Some(state) = state {
                let mut config = state.config().clone();
                one_process_no_more(config.options_mut());
                plan = planner.create_physical_plan(logical, &with_config(state, config)).await?;
            }
        }
        if writes {
            return Ok(Arc::new(WriteExec::new(
                Arc::clone(&self.cluster),
                cut::distribute(plan)?,
                session.config().clone(),
            )?));
        }
        if !reads_anything(&plan) {
            return Ok(plan); // nothing that another process could help with
        }
        let limits = &self.cluster.limits;
        let slots = limits.slots.max(1);
        let wanted = usize::try_from(input_bytes(&plan) / limits.partition.max(1)).unwrap_or(usize::MAX);
        let width = wanted.clamp(slots, slots * PARTITIONS_PER_SLOT);
        let plan = match state {
            Some(state) if self.sized && width > state.config().target_partitions() => {
                let config = state.config().clone().with_target_partitions(width);
                planner.create_physical_plan(logical, &with_config(state, config)).await?
            }
            _ => plan,
        };
        let plan = cut::distribute(plan)?;
        Ok(Arc::new(QueryExec::new(Arc::clone(&self.cluster), plan, session.config().clone())))
    }
}

fn with_config(state: &SessionState, config: SessionConfig) -> SessionState {
    SessionStateBuilder::new_from_existing(state.clone()).with_config(config).build()
}

/// Whether a plan reads tables whose content can be divided among tasks.
fn reads_anything(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut leaves = Vec::new();
    collect_leaves(plan, &mut leaves);
    leaves.iter().any(|leaf| match content(leaf) {
        None => downcast::<ShuffleReadExec>(leaf).is_some(),
        Some(Content::Files(_)) => true,
        Some(Content::Rows(rows)) => {
            rows.partitions().iter().flatten().map(|batch| batch.num_rows()).sum::<usize>() > 0
        }
    }) && leaves.iter().all(|leaf| route::is_input(leaf) || is_value(leaf))
}

/// Leaves that every executor can make for itself.
fn is_value(leaf: &Arc<dyn ExecutionPlan>) -> bool {
    matches!(leaf.name(), "EmptyExec" | "PlaceholderRowExec") && leaf.output_partitioning().partition_count() == 1
}

fn collect_leaves(plan: &Arc<dyn ExecutionPlan>, leaves: &mut Vec<Arc<dyn ExecutionPlan>>) {
    let children = plan.children();
    if children.is_empty() {
        leaves.push(Arc::clone(plan));
    }
    children.into_iter().for_each(|child| collect_leaves(child, leaves));
}

/// Bytes of all files that a plan reads.
fn input_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let mut leaves = Vec::new();
    collect_leaves(plan, &mut leaves);
    let files = leaves.iter().filter_map(|leaf| match content(leaf)? {
        Content::Files(files) => {
            Some(files.file_groups.iter().flat_map(|group| group.iter()).map(|file| file.effective_size()).sum::<u64>())
        }
        Content::Rows(_) => None,
    });
    files.sum()
}
