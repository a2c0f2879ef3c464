//! How is a query run, stage after stage?
//!
//! Exchanges whose input needs no other exchange run as jobs that end with a shuffle; what they measured goes into the plan
//! in their place, the rest is chosen anew, and so on until none is left. The last job gives the results.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::config::SessionConfig;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties, execute_stream,
};
use futures::{StreamExt, TryStreamExt};
use model::JobRunner;
use model::graph::Output;
use model::metrics::TaskMetrics;
use model::runner::JobItem;

use crate::adapt::{self, Limits};
use crate::cut::{self, Exchange};
use crate::error::{wants_memory, wrap_job};
use crate::functions::Carrier;
use crate::here;
use crate::name;
use crate::results::{self, MaxHeld, ResultsExec};
use crate::stage::{End, Released, Shuffle, StageTemplate};

/// Where queries run.
pub(crate) struct Cluster {
    pub(crate) runner: Arc<dyn JobRunner>,
    pub(crate) carrier: Arc<dyn Carrier>,
    pub(crate) limits: Limits,
    pub(crate) adaptive: bool,
}

/// A query that runs on the cluster when it is executed. Its one partition gives the rows in the order that was asked for.
pub(crate) struct QueryExec {
    cluster: Arc<Cluster>,
    plan: Arc<dyn ExecutionPlan>,
    config: SessionConfig,
    properties: Arc<PlanProperties>,
}

impl QueryExec {
    pub(crate) fn new(cluster: Arc<Cluster>, plan: Arc<dyn ExecutionPlan>, config: SessionConfig) -> Self {
        let mut properties = plan.properties().as_ref().clone();
        let single = properties.partitioning.partition_count() == 1;
        properties.partitioning = Partitioning::UnknownPartitioning(1);
        if !single {
            // Partitions are given as they arrive.
            properties.eq_properties.clear_orderings();
        }
        Self { cluster, plan, config, properties: Arc::new(properties) }
    }

    /// Where it runs, and with which options.
    pub(crate) fn parts(&self) -> (&Cluster, &SessionConfig) {
        (&self.cluster, &self.config)
    }

    /// What runs.
    pub(crate) fn plan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.plan
    }
}

impl fmt::Debug for QueryExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryExec").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl DisplayAs for QueryExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueryExec")
    }
}

impl ExecutionPlan for QueryExec {
    fn name(&self) -> &'static str {
        "QueryExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.plan]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(match children.pop() {
            Some(plan) => Arc::new(Self::new(Arc::clone(&self.cluster), plan, self.config.clone())),
            None => self,
        })
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let run = run(Arc::clone(&self.cluster), Arc::clone(&self.plan), self.config.clone(), context);
        let rows = futures::stream::once(run).try_flatten();
        let rows: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
        Ok(match self.config.get_extension::<MaxHeld>() {
            Some(max) => results::limited(rows, max.0),
            None => rows,
        })
    }
}

/// Runs every stage but the last, and gives the rows of the last as they come. Dropping the stream cancels the query.
async fn run(
    cluster: Arc<Cluster>,
    plan: Arc<dyn ExecutionPlan>,
    config: SessionConfig,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let (plan, held) = here::gathered(plan, &context).await?;
    let (top, mut plan) = cut::peel(plan);
    loop {
        plan = run_exchanges(&cluster, plan, &config, &mut Vec::new()).await?;
        let name = name::stage(&plan);
        let stage = StageTemplate::new(name.clone(), &plan, &End::Result, &config, &cluster.carrier)?;
        let job = stage.job(&*cluster.runner, format!("query: {name}"), Output::Result)?;
        let mut jobs = cluster.runner.stream(job).peekable();
        // As long as nobody has seen a row, the stage may still be run in another way.
        if let Some(Err(error)) = Pin::new(&mut jobs).peek().await {
            plan = again(wrap_job(error.clone()), &plan, &cluster)?;
            continue;
        }
        let results = if top.merges() {
            let equivalences = plan.equivalence_properties().clone();
            ResultsExec::by_partition(Box::pin(jobs), equivalences, stage.tasks() as usize).await?
        } else {
            ResultsExec::merged(Box::pin(jobs), plan.schema())
        };
        let rows = execute_stream(top.over(Arc::new(results))?, context)?;
        let schema = rows.schema();
        return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows.inspect(move |_| _ = &held))));
    }
}

/// A stage that has run, and what was measured.
pub(crate) struct Ran {
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    pub(crate) tasks: u32,
    pub(crate) took: Duration,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// What its tasks counted, if they told.
    pub(crate) metrics: Option<TaskMetrics>,
}

/// Runs all stages of a query, and drops its rows.
pub(crate) async fn run_measured(query: &QueryExec, context: &Arc<TaskContext>) -> Result<Vec<Ran>> {
    let (cluster, config) = query.parts();
    let (plan, _held) = here::gathered(Arc::clone(query.plan()), context).await?;
    let (_, plan) = cut::peel(plan);
    let mut ran = Vec::new();
    let plan = run_exchanges(cluster, plan, config, &mut ran).await?;
    let all = Exchange::new(plan, Partitioning::UnknownPartitioning(1));
    run_last_exchange(cluster, all, config, &mut ran).await?;
    Ok(ran)
}

/// The plan with joins that spill, if memory was refused to one that cannot.
///
/// # Errors
/// What went wrong, if that was something else or nothing can be spilled instead.
pub(crate) fn again(
    error: DataFusionError,
    plan: &Arc<dyn ExecutionPlan>,
    cluster: &Cluster,
) -> Result<Arc<dyn ExecutionPlan>> {
    let frugal = if wants_memory(&error) { adapt::frugal(plan, &cluster.limits)? } else { None };
    frugal.ok_or(error)
}

/// Runs one more exchange, over a plan in which all others have run. Adds what was measured to `ran`.
pub(crate) async fn run_last_exchange(
    cluster: &Cluster,
    mut exchange: Exchange,
    config: &SessionConfig,
    ran: &mut Vec<Ran>,
) -> Result<(Exchange, Arc<Shuffle>)> {
    loop {
        match run_exchange(cluster, exchange, config).await? {
            Run::Done(exchange, shuffle, measured) => {
                ran.push(measured);
                return Ok((exchange, shuffle));
            }
            Run::Again(before, frugal) => {
                exchange = Exchange::new(run_exchanges(cluster, frugal, config, ran).await?, before.partitioning);
            }
        }
    }
}

/// Runs exchanges until the rest of the plan has none. Adds what was measured to `ran`.
pub(crate) async fn run_exchanges(
    cluster: &Cluster,
    mut plan: Arc<dyn ExecutionPlan>,
    config: &SessionConfig,
    ran: &mut Vec<Ran>,
) -> Result<Arc<dyn ExecutionPlan>> {
    loop {
        let ready = cut::ready(&plan, cluster.adaptive);
        if ready.is_empty() {
            return if cluster.adaptive { adapt::coalesce(plan, &cluster.limits) } else { Ok(plan) };
        }
        let runs = ready.into_iter().map(|exchange| run_exchange(cluster, exchange, config));
        let done = futures::future::try_join_all(runs).await?;
        let mut replaced = Vec::with_capacity(done.len());
        for run in done {
            match run {
                Run::Done(exchange, shuffle, measured) => {
                    ran.push(measured);
                    replaced.push((exchange, shuffle));
                }
                Run::Again(exchange, frugal) => plan = cut::replace_input(plan, &exchange, &frugal)?,
            }
        }
        plan = cut::replace(plan, &replaced)?;
        if cluster.adaptive {
            plan = adapt::measured(plan, &cluster.limits)?;
        }
    }
}

/// How the run of an exchange ended.
enum Run {
    Done(Exchange, Arc<Shuffle>, Ran),
    /// Memory was refused: its input in another form, whose joins spill.
    Again(Exchange, Arc<dyn ExecutionPlan>),
}

async fn run_exchange(cluster: &Cluster, exchange: Exchange, config: &SessionConfig) -> Result<Run> {
    match try_exchange(cluster, &exchange, config).await {
        Ok((shuffle, ran)) => Ok(Run::Done(exchange, shuffle, ran)),
        Err(error) => {
            let frugal = again(error, &exchange.input, cluster)?;
            Ok(Run::Again(exchange, frugal))
        }
    }
}

async fn try_exchange(cluster: &Cluster, exchange: &Exchange, config: &SessionConfig) -> Result<(Arc<Shuffle>, Ran)> {
    let started = Instant::now();
    let input = Arc::clone(&exchange.input);
    let input = if cluster.adaptive { adapt::coalesce(input, &cluster.limits)? } else { input };
    let end = End::Shuffle(exchange.partitioning.clone());
    let partitions = u32::try_from(exchange.partitioning.partition_count()).unwrap_or(u32::MAX);
    let name = name::stage(&input);
    let stage = StageTemplate::new(name.clone(), &input, &end, config, &cluster.carrier)?;
    let id = Released::new(&cluster.runner);
    let output = Output::Shuffle { shuffle: id.id(), partitions };
    let job = stage.job(&*cluster.runner, format!("query: {name}"), output)?;
    let mut jobs = cluster.runner.run(job);
    let (mut sizes, mut metrics) = (Vec::new(), TaskMetrics::default());
    while let Some(item) = jobs.next().await {
        if let JobItem::Shuffled { sizes: of, metrics: counted } = item.map_err(wrap_job)? {
            (sizes, metrics) = (of, counted);
        }
    }
    let (rows, bytes) = sizes.iter().fold((0, 0), |(rows, bytes), size| (rows + size.rows, bytes + size.bytes));
    let ran = Ran { plan: input, tasks: stage.tasks(), took: started.elapsed(), rows, bytes, metrics: Some(metrics) };
    Ok((Arc::new(Shuffle::new(id, sizes, stage)), ran))
}
