//! Which file was it, when one cannot be read?
//!
//! DataFusion's errors about what is in a file do not say which. [`Named`] stands around the source of a scan that is about to
//! run, and puts the file's name into them.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::{
    CsvSource, FileOpener, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::proto::ExecutionPlanEncodeCtx;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use datafusion_proto::protobuf;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::csv::CsvFilesSource;
use crate::error::{self, Error};
use crate::scan::{Content, content};

/// What a person calls an object of a store: a path for files of this machine, else a URL.
pub(crate) fn name(store: &str, location: &Path) -> String {
    match store.trim_end_matches('/') {
        "file:" => format!("/{location}"),
        store => format!("{store}/{location}"),
    }
}

/// A plan that is about to run, whose errors about what is in files name them.
pub(crate) fn over(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let named = |node: Arc<dyn ExecutionPlan>| {
        let Some(Content::Files(files)) = content(&node) else { return Ok(Transformed::no(node)) };
        let source = files.file_source();
        let named: Arc<dyn FileSource> = if source.is::<CsvFilesSource>() || source.is::<Named>() {
            return Ok(Transformed::no(node));
        } else if let Some(csv) = source.downcast_ref::<CsvSource>() {
            Arc::new(CsvFilesSource::over(csv)?)
        } else {
            Arc::new(Named(Arc::clone(source)))
        };
        let config = FileScanConfigBuilder::from(files.clone()).with_source(named).build();
        Ok(Transformed::yes(DataSourceExec::from_data_source(config) as _))
    };
    plan.transform_up(named).data()
}

/// Does so for plans that run in this process, when all else about them is decided.
#[derive(Debug)]
pub(crate) struct NameFiles;

impl PhysicalOptimizerRule for NameFiles {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        over(plan)
    }

    fn name(&self) -> &'static str {
        "name_files"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A source whose errors name the file.
struct Named(Arc<dyn FileSource>);

impl FileSource for Named {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        self.0.create_file_opener(store, config, partition)
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let teller = Teller {
            store: Arc::clone(&store),
            url: config.object_store_url.to_string(),
            columns: Arc::clone(config.file_schema()),
            parquet: self.0.is::<ParquetSource>(),
        };
        let inner = self.0.create_morselizer(store, config, partition)?;
        Ok(Box::new(Morsels { inner, teller: Arc::new(teller) }))
    }

    fn table_schema(&self) -> &TableSchema {
        self.0.table_schema()
    }

    fn with_batch_size(&self, rows: usize) -> Arc<dyn FileSource> {
        Arc::new(Self(self.0.with_batch_size(rows)))
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.0.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.0.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.0.metrics()
    }

    fn file_type(&self) -> &str {
        self.0.file_type()
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_extra(kind, f)
    }

    fn supports_repartitioning(&self) -> bool {
        self.0.supports_repartitioning()
    }

    fn repartitioned(
        &self,
        partitions: usize,
        min_bytes: usize,
        order: Option<LexOrdering>,
        config: &FileScanConfig,
    ) -> Result<Option<FileScanConfig>> {
        self.0.repartitioned(partitions, min_bytes, order, config)
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.0.reorder_files(files)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.0.apply_expressions(f)
    }

    fn try_to_proto(
        &self,
        base: &FileScanConfig,
        context: &ExecutionPlanEncodeCtx<'_>,
    ) -> Result<Option<protobuf::PhysicalPlanNode>> {
        self.0.try_to_proto(base, context)
    }
}

/// What telling of a file needs.
struct Teller {
    store: Arc<dyn ObjectStore>,
    url: String,
    /// The columns that the table expects in its files.
    columns: SchemaRef,
    parquet: bool,
}

impl Teller {
    /// An error, with the file in it if it is about what is in the file.
    fn tell(&self, file: &ObjectMeta, error: DataFusionError) -> DataFusionError {
        if !error::is_of_data(&error) || error::names_a_file(&error) {
            return error;
        }
        let Some(damaged) = error::is_of_file(&error) else { return error };
        let advice = if damaged { "; if it is damaged, write it again or take it away" } else { "" };
        let why = format!("{}{advice}", error::text(&error));
        Error::ReadFile { file: name(&self.url, &file.location), why }.into()
    }

    /// The same, where the file may be looked at once more: values that are none may be those of another type.
    async fn tell_types(&self, file: &ObjectMeta, error: DataFusionError) -> DataFusionError {
        if self.parquet
            && error::is_of_types(&error)
            && let Some(why) = self.other_types(file).await
        {
            return Error::ReadFile { file: name(&self.url, &file.location), why }.into();
        }
        self.tell(file, error)
    }

    /// The first column that the file has as another type.
    async fn other_types(&self, file: &ObjectMeta) -> Option<String> {
        let found = DFParquetMetadata::new(&*self.store, file).fetch_schema().await.ok()?;
        error::other_type(&found, &self.columns)
    }
}

/// Plans the reading of files as another does, and names them.
struct Morsels {
    inner: Box<dyn Morselizer>,
    teller: Arc<Teller>,
}

impl fmt::Debug for Morsels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Morselizer for Morsels {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let told = Told { teller: Arc::clone(&self.teller), file: file.object_meta.clone() };
        let inner = self.inner.plan_file(file).map_err(|error| told.error(error))?;
        Ok(Box::new(Planner { inner, told }))
    }
}

/// A file, and who tells of it.
#[derive(Clone)]
struct Told {
    teller: Arc<Teller>,
    file: ObjectMeta,
}

impl Told {
    fn error(&self, error: DataFusionError) -> DataFusionError {
        self.teller.tell(&self.file, error)
    }
}

struct Planner {
    inner: Box<dyn MorselPlanner>,
    told: Told,
}

impl fmt::Debug for Planner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl MorselPlanner for Planner {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let Self { inner, told } = *self;
        let Some(mut plan) = inner.plan().map_err(|error| told.error(error))? else { return Ok(None) };
        let again = |inner| Box::new(Planner { inner, told: told.clone() }) as Box<dyn MorselPlanner>;
        let morsels = plan.take_morsels().into_iter();
        let morsels = morsels.map(|inner| Box::new(NamedMorsel { inner, told: told.clone() }) as Box<dyn Morsel>);
        let mut named = MorselPlan::new()
            .with_morsels(morsels.collect())
            .with_planners(plan.take_ready_planners().into_iter().map(again).collect());
        if let Some(pending) = plan.take_pending_planner() {
            let told = told.clone();
            named.set_pending_planner(async move {
                match pending.await {
                    Ok(inner) => Ok(Box::new(Planner { inner, told }) as _),
                    Err(error) => Err(told.teller.tell_types(&told.file, error).await),
                }
            });
        }
        Ok(Some(named))
    }
}

struct NamedMorsel {
    inner: Box<dyn Morsel>,
    told: Told,
}

impl fmt::Debug for NamedMorsel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Morsel for NamedMorsel {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        let Self { inner, told } = *self;
        let batches = inner.into_stream().then(move |batch| {
            let told = told.clone();
            async move {
                match batch {
                    Ok(batch) => Ok(batch),
                    Err(error) => Err(told.teller.tell_types(&told.file, error).await),
                }
            }
        });
        batches.boxed()
    }
}
