//! How is a DataFrame computed once and read often?
//!
//! Its rows are shuffled, and the shuffle is kept: they lie in the application's store (small ones in the driver), no executor
//! holds what matters, and what is lost is computed again. With one process, DataFusion's own cache holds them in memory.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::{Result, internal_err, project_schema};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::provider_as_source;
use datafusion::execution::session_state::CacheFactory;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableType, UNNAMED_TABLE};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning, collect_partitioned};
use datafusion::prelude::SessionContext;
use model::graph::Origin;
use model::shuffle::PartitionSize;
use tokio::sync::OnceCell;

use crate::cut::Exchange;
use crate::here;
use crate::query::{QueryExec, run_exchanges, run_last_exchange};
use crate::read::{EqualColumns, ShuffleReadExec, downcast};
use crate::stage::Shuffle;

/// Computes a DataFrame, and gives one that reads what was computed. The rows go when the last DataFrame, view or table over
/// them does, at the latest when the application ends. They are read in any order.
///
/// # Errors
/// The query fails.
pub async fn persist(session: &SessionContext, frame: DataFrame) -> Result<DataFrame> {
    let plan = frame.clone().create_physical_plan().await?;
    let Some(query) = downcast::<QueryExec>(&plan) else { return session.read_table(in_memory(&frame, plan).await?) };
    let (shuffle, equal) = compute(query, &session.task_ctx()).await?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    session.read_table(Arc::new(Persisted { shuffle, schema, equal }))
}

/// Computes a DataFrame into a shuffle, for functions to read. Its rows are Arrow's, of the schema that comes with it.
///
/// # Errors
/// The query fails.
pub async fn shuffled(frame: DataFrame) -> Result<(Arc<dyn Origin>, SchemaRef)> {
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let context = Arc::new(frame.task_ctx());
    let plan = in_stages(frame.clone()).await?;
    if let Some(query) = downcast::<QueryExec>(&plan) {
        return Ok((compute(query, &context).await?.0, schema));
    }
    // Its rows come from where only this process can read.
    let plan = frame.clone().create_physical_plan().await?;
    let table = in_memory(&frame, plan).await?;
    let (state, _) = frame.into_parts();
    let plan = in_stages(SessionContext::new_with_state(state).read_table(table)?).await?;
    let Some(query) = downcast::<QueryExec>(&plan) else { return internal_err!("a table in memory was not divided") };
    Ok((compute(query, &context).await?.0, schema))
}

async fn in_stages(frame: DataFrame) -> Result<Arc<dyn ExecutionPlan>> {
    let (mut state, plan) = frame.into_parts();
    state.config_mut().set_extension(Arc::new(InStages));
    state.create_physical_plan(&plan).await
}

/// A DataFrame of rows that functions have shuffled, as rows of Arrow.
///
/// # Errors
/// The session refuses the table.
pub fn read_shuffle(
    session: &SessionContext,
    origin: Arc<dyn Origin>,
    sizes: Vec<PartitionSize>,
    schema: SchemaRef,
) -> Result<DataFrame> {
    let shuffle = Arc::new(Shuffle::of_functions(origin, sizes));
    session.read_table(Arc::new(Persisted { shuffle, schema, equal: EqualColumns::default() }))
}

/// The rows of a plan as a table in this process.
async fn in_memory(frame: &DataFrame, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn TableProvider>> {
    let schema = plan.schema();
    let partitions = collect_partitioned(plan, Arc::new(frame.task_ctx())).await?;
    Ok(Arc::new(MemTable::try_new(schema, partitions)?))
}

/// Makes of `DataFrame::cache` what [`persist`] is, but that nothing is computed before the first query reads it.
#[derive(Debug)]
pub(crate) struct Caches;

impl CacheFactory for Caches {
    fn create(&self, plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
        let frame = DataFrame::new(state.clone(), plan);
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let cached = Cached { frame, schema, rows: OnceCell::new() };
        LogicalPlanBuilder::scan(UNNAMED_TABLE, provider_as_source(Arc::new(cached)), None)?.build()
    }
}

/// A table of what a DataFrame gives, computed once.
struct Cached {
    frame: DataFrame,
    schema: SchemaRef,
    rows: OnceCell<Arc<dyn TableProvider>>,
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Cached {
    async fn compute(&self) -> Result<Arc<dyn TableProvider>> {
        let plan = self.frame.clone().create_physical_plan().await?;
        let Some(query) = downcast::<QueryExec>(&plan) else { return in_memory(&self.frame, plan).await };
        let (shuffle, equal) = compute(query, &Arc::new(self.frame.task_ctx())).await?;
        Ok(Arc::new(Persisted { shuffle, schema: Arc::clone(&self.schema), equal }))
    }
}

#[async_trait]
impl TableProvider for Cached {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = self.rows.get_or_try_init(|| self.compute()).await?;
        rows.scan(session, projection, filters, limit).await
    }
}

/// Asks the planner to cut a plan into stages if it can, whatever the session does, even if it reads nothing.
pub(crate) struct InStages;

async fn compute(query: &QueryExec, context: &Arc<TaskContext>) -> Result<(Arc<Shuffle>, EqualColumns)> {
    let (cluster, config) = query.parts();
    let (plan, _held) = here::gathered(Arc::clone(query.plan()), context).await?;
    let plan = run_exchanges(cluster, plan, config, &mut Vec::new()).await?;
    let width = plan.output_partitioning().partition_count();
    let exchange = Exchange::new(plan, Partitioning::RoundRobinBatch(width));
    let (exchange, shuffle) = run_last_exchange(cluster, exchange, config, &mut Vec::new()).await?;
    Ok((shuffle, EqualColumns::of(&exchange.input)))
}

/// A table of rows that were shuffled.
struct Persisted {
    shuffle: Arc<Shuffle>,
    schema: SchemaRef,
    equal: EqualColumns,
}

impl fmt::Debug for Persisted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Persisted").field("shuffle", &self.shuffle).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for Persisted {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partitioning = Partitioning::UnknownPartitioning(self.shuffle.partitions() as usize);
        let read = ShuffleReadExec::partitioned(Arc::clone(&self.shuffle), self.schema(), &self.equal, partitioning)?;
        let read: Arc<dyn ExecutionPlan> = Arc::new(read);
        let Some(columns) = projection else { return Ok(read) };
        let schema = project_schema(&self.schema, Some(columns))?;
        let columns = columns.iter().zip(schema.fields()).map(|(&index, field)| ProjectionExpr {
            expr: Arc::new(Column::new(field.name(), index)),
            alias: field.name().clone(),
        });
        Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), read)?))
    }
}
