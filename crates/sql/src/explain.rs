//! What does a person see of a query's stages, before it runs and after?

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::display::{PlanType, StringifiedPlan};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties, displayable,
};
use model::metrics::TaskMetrics;

use crate::cut;
use crate::order;
use crate::query::{QueryExec, Ran, run_measured};
use crate::read::downcast;
use crate::sink::WriteExec;

/// The plan of an `EXPLAIN`, with the stages that the query will run as, if it will.
pub(crate) fn explained(explain: &Arc<dyn ExecutionPlan>, plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let (Some(of), Some(stages)) = (downcast::<ExplainExec>(explain), stages(plan)) else {
        return Arc::clone(explain);
    };
    let mut plans = of.stringified_plans().to_vec();
    plans.retain(|plan| of.verbose() || plan.plan_type != PlanType::FinalPhysicalPlan);
    plans.push(StringifiedPlan::new(PlanType::FinalPhysicalPlan, stages));
    Arc::new(ExplainExec::new(of.schema(), plans, of.verbose()))
}

/// A plan with its exchanges marked. Stages are numbered in the order in which they can run. None for a plan that runs whole.
fn stages(plan: &Arc<dyn ExecutionPlan>) -> Option<String> {
    if let Some(query) = downcast::<QueryExec>(plan) {
        return Some(of_query(query.plan()));
    }
    if let Some(write) = downcast::<WriteExec>(plan) {
        return Some(of_write(plan, write.rows().ok()?));
    }
    let sink = downcast::<DataSinkExec>(plan)?;
    let query = downcast::<QueryExec>(sink.input())?;
    let mut text = String::new();
    line(&mut text, 0, plan);
    for below in of_query(query.plan()).lines() {
        let _ = writeln!(text, "  {below}");
    }
    Some(text)
}

fn of_query(plan: &Arc<dyn ExecutionPlan>) -> String {
    let (top, below) = cut::peel(Arc::clone(plan));
    let mut text = String::new();
    let mut depth = 0;
    for node in top.nodes() {
        line(&mut text, depth, node);
        depth += 1;
    }
    let mut next = 1;
    let mut fragments = String::new();
    fragment(&below, depth + 1, &mut next, &mut fragments);
    let tasks = below.output_partitioning().partition_count();
    let _ = writeln!(text, "{:1$}stage {next}, to the driver: {tasks} tasks", "", depth * 2);
    text + &fragments
}

fn of_write(write: &Arc<dyn ExecutionPlan>, rows: &Arc<dyn ExecutionPlan>) -> String {
    let mut text = String::new();
    line(&mut text, 0, write);
    let (mut next, mut fragments) = (1, String::new());
    let tasks = match order::sorts(rows) {
        None => {
            fragment(rows, 2, &mut next, &mut fragments);
            rows.output_partitioning().partition_count()
        }
        Some(sort) => {
            let input = sort.input();
            let tasks = input.output_partitioning().partition_count();
            let mut below = String::new();
            fragment(input, 4, &mut next, &mut below);
            let by = sort.expr();
            let _ = writeln!(fragments, "    SortExec: expr=[{by}], of a range each");
            let _ = writeln!(fragments, "      stage {next}, by ranges of {by} into {tasks} partitions: {tasks} tasks");
            fragments.push_str(&below);
            next += 1;
            tasks
        }
    };
    let _ = writeln!(text, "  stage {next}, into files: {tasks} tasks");
    text + &fragments
}

fn fragment(plan: &Arc<dyn ExecutionPlan>, depth: usize, next: &mut u32, text: &mut String) {
    let Some(exchange) = cut::exchange(plan) else {
        line(text, depth, plan);
        plan.children().into_iter().for_each(|child| fragment(child, depth + 1, next, text));
        return;
    };
    let mut below = String::new();
    fragment(&exchange.input, depth + 1, next, &mut below);
    let tasks = exchange.input.output_partitioning().partition_count();
    let _ = writeln!(text, "{:2$}stage {next}, {}: {tasks} tasks", "", into(&exchange.partitioning), depth * 2);
    text.push_str(&below);
    *next += 1;
}

fn into(partitioning: &Partitioning) -> String {
    match partitioning {
        Partitioning::Hash(by, partitions) => {
            let by: Vec<_> = by.iter().map(ToString::to_string).collect();
            format!("by hash of {} into {partitions} partitions", by.join(", "))
        }
        other if other.partition_count() == 1 => "into 1 partition".to_owned(),
        other => format!("in turn into {} partitions", other.partition_count()),
    }
}

fn line(text: &mut String, depth: usize, node: &Arc<dyn ExecutionPlan>) {
    let _ = write!(text, "{:1$}{2}", "", depth * 2, displayable(node.as_ref()).one_line());
}

/// Runs a query or a write for what can be measured of it: `EXPLAIN ANALYZE`.
pub(crate) struct AnalyzeExec {
    plan: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl AnalyzeExec {
    /// Whether a plan runs in stages, which can be measured.
    pub(crate) fn measures(plan: &Arc<dyn ExecutionPlan>) -> bool {
        downcast::<QueryExec>(plan).is_some() || downcast::<WriteExec>(plan).is_some()
    }

    pub(crate) fn new(plan: Arc<dyn ExecutionPlan>, schema: SchemaRef) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { plan, properties: Arc::new(properties) }
    }
}

async fn run(plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>) -> Result<Vec<Ran>> {
    if let Some(query) = downcast::<QueryExec>(plan) {
        return run_measured(query, context).await;
    }
    let Some(write) = downcast::<WriteExec>(plan) else { return internal_err!("what is measured runs in stages") };
    let mut ran = Vec::new();
    write.run(context, &mut ran).await?;
    Ok(ran)
}

impl std::fmt::Debug for AnalyzeExec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnalyzeExec").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl DisplayAs for AnalyzeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnalyzeExec")
    }
}

impl ExecutionPlan for AnalyzeExec {
    fn name(&self) -> &'static str {
        "AnalyzeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.plan]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(plan) = children.pop() else { return internal_err!("an analysis has one plan") };
        Ok(Arc::new(Self::new(plan, self.schema())))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let (plan, batch_schema) = (Arc::clone(&self.plan), Arc::clone(&schema));
        let run = async move {
            let ran = run(&plan, &context).await?;
            let (kind, text) = (StringArray::from(vec!["Plan with Metrics"]), StringArray::from(vec![measured(&ran)]));
            Ok(RecordBatch::try_new(batch_schema, vec![Arc::new(kind), Arc::new(text)])?)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::once(run))))
    }
}

/// Every stage that ran, in order, with what was measured.
fn measured(ran: &[Ran]) -> String {
    let mut text = String::new();
    for (number, stage) in (1..).zip(ran) {
        let TaskMetrics {
            input_rows,
            input_bytes,
            input_requests,
            shuffle_read_rows,
            shuffle_read_bytes,
            shuffle_read_requests,
            shuffle_write_rows,
            shuffle_write_bytes,
            shuffle_write_requests,
            spilled_bytes,
            spills,
            run_micros,
            broken_rows_dropped,
            broken_rows_mended,
            ..
        } = stage.metrics.unwrap_or_default();
        let _ = write!(text, "stage {number}: {} tasks in {}", stage.tasks, time(stage.took));
        if stage.metrics.is_some() {
            let _ = write!(text, ", {} of task time", time(Duration::from_micros(run_micros)));
        }
        let out = if stage.metrics.is_some() { "out" } else { "into files" };
        let _ = writeln!(text, "; {} rows, {} {out}", stage.rows, size(stage.bytes));
        if input_rows + input_bytes > 0 {
            let bytes = size(input_bytes);
            let _ = writeln!(text, "  read {input_rows} rows, {bytes} in {input_requests} requests from tables");
        }
        if shuffle_read_rows > 0 {
            let bytes = size(shuffle_read_bytes);
            let _ = writeln!(
                text,
                "  read {shuffle_read_rows} rows, {bytes} in {shuffle_read_requests} requests from shuffles"
            );
        }
        if shuffle_write_rows > 0 {
            let bytes = size(shuffle_write_bytes);
            let _ = writeln!(
                text,
                "  wrote {shuffle_write_rows} rows, {bytes} in {shuffle_write_requests} requests to a shuffle"
            );
        }
        if spills > 0 {
            let _ = writeln!(text, "  spilled {} in {spills} files", size(spilled_bytes));
        }
        if broken_rows_dropped > 0 {
            let _ = writeln!(text, "  left out {broken_rows_dropped} broken rows");
        }
        if broken_rows_mended > 0 {
            let _ = writeln!(text, "  read {broken_rows_mended} broken rows with nulls");
        }
        fragment(&stage.plan, 1, &mut 1, &mut text);
    }
    text
}

fn time(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
