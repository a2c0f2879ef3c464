//! How does a logical plan become one that runs on the cluster?

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::format::ExplainFormat;
use datafusion::common::{Result, internal_err};
use datafusion::datasource::listing::ListingTable;
use datafusion::datasource::sink::DataSinkExec;
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::config::SessionConfig;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, replace_children_if_necessary};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

use crate::explain::{AnalyzeExec, explained};
use crate::hint::{self, Hints};
use crate::persist::InStages;
use crate::query::{Cluster, QueryExec};
use crate::read::{ShuffleReadExec, downcast};
use crate::reduce;
use crate::scan::{Content, content};
use crate::session::one_process_no_more;
use crate::single::with_single_values;
use crate::sink::WriteExec;
use crate::tables::FileTable;
use crate::window::with_all_words;
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
    pub(crate) fn new(cluster: Cluster, stages: bool, sized: bool) -> Self {
        Self { cluster: Arc::new(cluster), stages, sized }
    }
}

impl fmt::Debug for ClusterPlanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterPlanner").finish_non_exhaustive()
    }
}

fn physical_planner() -> DefaultPhysicalPlanner {
    DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Hints)])
}

impl ClusterPlanner {
    /// A plan that can be cut, with so many partitions if that is not for the session to say.
    async fn plan_for_stages(
        &self,
        logical: &LogicalPlan,
        session: &dyn Session,
        width: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = physical_planner();
        let Some(state) = session.as_any().downcast_ref::<SessionState>().filter(|_| !self.stages || width.is_some())
        else {
            return planner.create_physical_plan(&with_all_words(logical)?, session).await;
        };
        let mut config = state.config().clone();
        if let Some(width) = width {
            config = config.with_target_partitions(width);
        }
        one_process_no_more(config.options_mut());
        let state = with_config(state, config);
        if self.stages {
            return planner.create_physical_plan(&with_all_words(logical)?, &state).await;
        }
        // The session's own optimizer has left in the plan what only one process can compute.
        let logical = state.optimizer().optimize(with_single_values(logical.clone())?, &state, |_, _| {})?;
        planner.create_physical_plan(&with_all_words(&logical)?, &state).await
    }
}

#[async_trait]
impl QueryPlanner for ClusterPlanner {
    async fn create_physical_plan(
        &self,
        logical: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = physical_planner();
        match logical {
            LogicalPlan::Explain(of)
                if of.explain_format == ExplainFormat::Indent && (self.stages || writes_files(&of.plan)) =>
            {
                let explain = planner.create_physical_plan(logical, session).await?;
                let plan = self.create_physical_plan(&of.plan, session).await?;
                return Ok(explained(&explain, &plan));
            }
            LogicalPlan::Analyze(of) if self.stages || writes_files(&of.input) => {
                let plan = self.create_physical_plan(&of.input, session).await?;
                if AnalyzeExec::measures(&plan) {
                    return Ok(Arc::new(AnalyzeExec::new(plan, Arc::clone(of.schema.inner()))));
                }
                let analyze = planner.create_physical_plan(logical, session).await?;
                return replace_children_if_necessary(analyze, vec![plan]);
            }
            _ => {}
        }
        let in_stages = session.config().get_extension::<InStages>().is_some();
        // Files are committed by the driver, so that a plan that writes is cut into stages whatever runs them.
        let for_stages = self.stages || in_stages || writes_files(logical);
        let mut plan = match for_stages {
            true => self.plan_for_stages(logical, session, None).await?,
            false => planner.create_physical_plan(logical, session).await?,
        };
        let writes = match downcast::<DataSinkExec>(&plan).map(write::files) {
            Some(Ok(_)) => true,
            Some(Err(unknown)) if writes_files(logical) => return Err(unknown),
            None if writes_files(logical) => return internal_err!("a write is not the root of its plan"),
            Some(Err(_)) | None => false,
        };
        let leaves = leaves(&plan);
        let must = writes
            || in_stages && divisible(&leaves)
            || leaves.iter().any(|leaf| downcast::<ShuffleReadExec>(leaf).is_some());
        let helps = self.stages && read_anything(&leaves);
        if !must && !helps {
            return hint::without(plan); // nothing that another process could help with
        }
        let limits = &self.cluster.limits;
        let slots = limits.slots.max(1);
        let wanted = usize::try_from(input_bytes(&leaves) / limits.partition.max(1)).unwrap_or(usize::MAX);
        let width = wanted.clamp(slots, slots * PARTITIONS_PER_SLOT);
        let wider = self.sized && width > session.config().target_partitions();
        if wider || !for_stages {
            plan = self.plan_for_stages(logical, session, wider.then_some(width)).await?;
        }
        let (cluster, config) = (Arc::clone(&self.cluster), session.config().clone());
        let plan = cut::distribute(plan)?;
        let plan = if cluster.adaptive { reduce::by_filters(plan)? } else { plan };
        if let Some(sink) = downcast::<DataSinkExec>(&plan).filter(|_| !writes) {
            // Rows that go into a table of this process.
            let rows = QueryExec::new(cluster, Arc::clone(sink.input()), config);
            return replace_children_if_necessary(Arc::clone(&plan), vec![Arc::new(rows)]);
        }
        Ok(if writes {
            Arc::new(WriteExec::new(cluster, plan, config)?)
        } else {
            Arc::new(QueryExec::new(cluster, plan, config))
        })
    }
}

/// Whether a statement makes files, which the driver has to commit.
fn writes_files(logical: &LogicalPlan) -> bool {
    match logical {
        LogicalPlan::Copy(_) => true,
        LogicalPlan::Dml(of) => source_as_provider(&of.target).is_ok_and(|table| {
            let table: &dyn Any = table.as_ref();
            table.is::<FileTable>() || table.is::<ListingTable>()
        }),
        _ => false,
    }
}

fn with_config(state: &SessionState, config: SessionConfig) -> SessionState {
    // A default catalog that is made is put in the place of the session's own, with all its tables.
    let config = config.with_create_default_catalog_and_schema(false);
    SessionStateBuilder::new_from_existing(state.clone()).with_config(config).build()
}

/// Whether tables are read whose content can be divided among tasks.
fn read_anything(leaves: &[Arc<dyn ExecutionPlan>]) -> bool {
    leaves.iter().any(|leaf| match content(leaf) {
        None => downcast::<ShuffleReadExec>(leaf).is_some(),
        Some(Content::Files(_)) => true,
        Some(Content::Rows(rows)) => {
            rows.partitions().iter().flatten().map(|batch| batch.num_rows()).sum::<usize>() > 0
        }
    }) && divisible(leaves)
}

/// Whether every leaf can be divided among tasks, or made by each.
fn divisible(leaves: &[Arc<dyn ExecutionPlan>]) -> bool {
    leaves.iter().all(|leaf| route::is_input(leaf) || is_value(leaf))
}

/// Leaves that every executor can make for itself.
pub(crate) fn is_value(leaf: &Arc<dyn ExecutionPlan>) -> bool {
    downcast::<EmptyExec>(leaf).is_some()
        || downcast::<PlaceholderRowExec>(leaf).is_some() && leaf.output_partitioning().partition_count() == 1
}

/// The leaves of a plan, from left to right.
pub(crate) fn leaves(plan: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn ExecutionPlan>> {
    let children = plan.children();
    if children.is_empty() {
        return vec![Arc::clone(plan)];
    }
    children.into_iter().flat_map(leaves).collect()
}

/// Bytes of all files that are read.
fn input_bytes(leaves: &[Arc<dyn ExecutionPlan>]) -> u64 {
    let files = leaves.iter().filter_map(|leaf| match content(leaf)? {
        Content::Files(files) => {
            Some(files.file_groups.iter().flat_map(|group| group.iter()).map(|file| file.effective_size()).sum::<u64>())
        }
        Content::Rows(_) => None,
    });
    files.sum()
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn other_options_leave_the_tables_alone() {
        let session = SessionContext::new();
        session.sql("CREATE VIEW one AS SELECT 1 AS n").await.unwrap();
        let config = session.copied_config().with_target_partitions(7);
        assert_eq!(with_config(&session.state(), config).config().target_partitions(), 7);
        session.sql("SELECT n FROM one").await.unwrap();
    }
}
