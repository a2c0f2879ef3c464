//! How does a task read only its own files?
//!
//! [`ScanExec`] stands above a source in a fragment. The source itself was sent without files or rows: those of one task come
//! with the task.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::datasource::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSource;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, EmptyRecordBatchStream, ExecutionPlan, PlanProperties};

use crate::leaves::{Input, Leaves};
use crate::read::downcast;

/// A source as a leaf of a fragment: one partition, whose content the task brings.
#[derive(Debug)]
pub(crate) struct ScanExec {
    leaf: u32,
    source: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl ScanExec {
    pub(crate) fn new(leaf: u32, source: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(source.schema()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { leaf, source, properties: Arc::new(properties) }
    }

    pub(crate) fn leaf(&self) -> u32 {
        self.leaf
    }

    pub(crate) fn source(&self) -> &Arc<dyn ExecutionPlan> {
        &self.source
    }
}

/// What a source reads.
pub(crate) enum Content<'a> {
    /// Files, a group for each partition.
    Files(&'a FileScanConfig),
    /// Rows in memory.
    Rows(&'a MemorySourceConfig),
}

/// What a plan's leaf reads, if it is a source that can be divided among tasks.
pub(crate) fn content(plan: &Arc<dyn ExecutionPlan>) -> Option<Content<'_>> {
    let source: &dyn DataSource = downcast::<DataSourceExec>(plan)?.data_source().as_ref();
    if let Some(files) = source.downcast_ref::<FileScanConfig>() {
        return Some(Content::Files(files));
    }
    source.downcast_ref::<MemorySourceConfig>().map(Content::Rows)
}

/// What a source gives for one of its partitions.
pub(crate) fn input(content: &Content<'_>, partition: usize) -> Option<Input> {
    match content {
        Content::Files(files) => files.file_groups.get(partition).cloned().map(Input::Files),
        Content::Rows(rows) => rows.partitions().get(partition).cloned().map(Input::Rows),
    }
}

/// The source with other content: with none, as it is sent; with that of a task, as it is run.
pub(crate) fn with_content(content: &Content<'_>, input: Option<&Input>) -> Result<Arc<dyn ExecutionPlan>> {
    match (content, input) {
        (Content::Files(files), None) => Ok(with_files(files, FileGroup::default())),
        (Content::Files(files), Some(Input::Files(group))) => Ok(with_files(files, group.clone())),
        (Content::Rows(rows), None) => with_rows(rows, Vec::new()),
        (Content::Rows(rows), Some(Input::Rows(batches))) => with_rows(rows, batches.clone()),
        _ => internal_err!("a source was given what it does not read"),
    }
}

fn with_files(files: &FileScanConfig, group: FileGroup) -> Arc<dyn ExecutionPlan> {
    // Statistics of all files say nothing of one task's.
    let one = FileScanConfigBuilder::from(files.clone())
        .with_file_groups(vec![group])
        .with_output_ordering(files.output_ordering.clone())
        .build();
    DataSourceExec::from_data_source(one)
}

fn with_rows(rows: &MemorySourceConfig, batches: Vec<arrow::array::RecordBatch>) -> Result<Arc<dyn ExecutionPlan>> {
    let one = MemorySourceConfig::try_new(&[batches], rows.original_schema(), rows.projection().clone())?;
    Ok(DataSourceExec::from_data_source(one.with_limit(rows.fetch())))
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScanExec: leaf={}", self.leaf)
    }
}

impl ExecutionPlan for ScanExec {
    fn name(&self) -> &'static str {
        "ScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn schema(&self) -> SchemaRef {
        self.source.schema()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.source]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(source), true) => Ok(Arc::new(Self::new(self.leaf, source))),
            _ => internal_err!("a scan has one source"),
        }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(leaves) = context.session_config().get_extension::<Leaves>() else {
            return internal_err!("a source was read without a task");
        };
        let Some(input) = leaves.input(self.leaf) else {
            return Ok(Box::pin(EmptyRecordBatchStream::new(self.schema())));
        };
        let Some(content) = content(&self.source) else {
            return internal_err!("a source reads neither files nor rows");
        };
        crate::named::over(with_content(&content, Some(input))?)?.execute(0, context)
    }

    // Filters that are known only while the fragment runs (of a join's build side, of the first rows of a sort) pass.
    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(result))
    }
}
