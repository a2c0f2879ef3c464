//! What is a table of files?
//!
//! Files at one or more places, in one format, whose folders may give columns. What lies there is looked up for every query, so
//! that files that were added or replaced are seen.

use std::any::Any;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::stats::{NdvFallback, Precision};
use datafusion::common::{
    Constraints, DataFusionError, Result, ScalarValue, Statistics, plan_datafusion_err, plan_err, project_schema,
};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::helpers::expr_applicable_for_cols;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, PartitionedFile};
use datafusion::datasource::physical_plan::parquet::metadata::{DFParquetMetadata, ordering_from_parquet_metadata};
use datafusion::datasource::physical_plan::{FileGroup, FileOutputMode, FileScanConfigBuilder, FileSinkConfig};
use datafusion::datasource::provider::DefaultTableFactory;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::SessionState;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{CreateExternalTable, Expr, SortExpr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::prelude::SessionContext;
use datafusion_datasource::compute_all_files_statistics;
use datafusion_datasource::file_format::FileMeta;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};

use crate::csv;
use crate::error::{self, Error};
use crate::named;
use crate::partitions::{self, Named};
use crate::places::Place;
use crate::{text, write};

/// So many files are looked at to say which of them is another than the rest.
const LOOKED_AT: usize = 1_000;

/// Of more files than these, what each has is only added up: kept, it would have most of a driver's memory.
const KNOWN_APART: usize = 1_000;

/// So many footers of local files are read at once: more threads only take more memory, as nothing of theirs is far away.
const LOCAL_AT_ONCE: usize = 4;

/// The option that asks for the columns of all files together, as Spark spells it in lower case and as it is written here.
const MERGE_SCHEMA: [&str; 2] = ["format.merge_schema", "format.mergeschema"];

/// What is read, and how: see [`read_files`].
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// `parquet`, `csv`, `json`, `text`, `arrow` or `avro`.
    pub format: String,
    /// Files, folders and patterns: paths of this machine or URLs of one store.
    pub places: Vec<String>,
    /// Options of the format, by the names that `OPTIONS` of a table has.
    pub options: HashMap<String, String>,
    /// The columns, if they are not to be told from the files.
    pub schema: Option<SchemaRef>,
}

/// A DataFrame of the rows of files.
///
/// # Errors
/// Nothing is there, it is of another format, or files do not agree about their columns.
pub async fn read_files(session: &SessionContext, files: Files) -> Result<DataFrame> {
    let options = files.options.into_iter().map(|(key, value)| {
        let key = if key.contains('.') { key } else { format!("format.{key}") };
        (key.to_lowercase(), value)
    });
    let asked = Asked {
        format: files.format,
        places: files.places.iter().map(|place| Place::parse(place)).collect::<Result<_>>()?,
        options: options.collect(),
        schema: files.schema,
        folders: None,
        order: Vec::new(),
        constraints: Constraints::default(),
        defaults: HashMap::new(),
        definition: None,
    };
    session.read_table(Arc::new(FileTable::make(&session.state(), asked).await?))
}

/// Makes tables for `CREATE EXTERNAL TABLE`.
#[derive(Debug, Default)]
pub(crate) struct FileTables {
    unbounded: DefaultTableFactory,
}

impl FileTables {
    /// The formats that it knows, as statements spell them.
    pub(crate) const FORMATS: [&str; 7] = ["PARQUET", "CSV", "JSON", "NDJSON", "TEXT", "AVRO", "ARROW"];
}

#[async_trait]
impl TableProviderFactory for FileTables {
    async fn create(&self, state: &dyn Session, table: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let unbounded = |(key, value): (&String, &String)| {
            key.eq_ignore_ascii_case("unbounded") && value.eq_ignore_ascii_case("true")
        };
        if table.unbounded || table.options.iter().any(unbounded) {
            return self.unbounded.create(state, table).await;
        }
        let Some(state) = state.as_any().downcast_ref::<SessionState>() else {
            return plan_err!("make a table of files: the session is none of DataFusion's");
        };
        let told = &table.table_partition_cols;
        let infer = state.config_options().execution.listing_table_factory_infer_partitions;
        let columns = table.schema.inner();
        let schema = (!columns.fields().is_empty()).then(|| Arc::clone(columns));
        let folders = (schema.is_some() || !told.is_empty() || !infer).then(|| told.clone());
        let asked = Asked {
            format: table.file_type.clone(),
            places: table.locations.iter().map(|place| Place::parse(place)).collect::<Result<_>>()?,
            options: table.options.clone(),
            schema,
            folders,
            order: table.order_exprs.clone(),
            constraints: table.constraints.clone(),
            defaults: table.column_defaults.clone(),
            definition: table.definition.clone(),
        };
        Ok(Arc::new(FileTable::make(state, asked).await?))
    }
}

/// What somebody wants a table to be.
struct Asked {
    format: String,
    places: Vec<Place>,
    options: HashMap<String, String>,
    /// All columns, those from folders too, if they were told.
    schema: Option<SchemaRef>,
    /// Which columns come from folders, if that was told.
    folders: Option<Vec<String>>,
    order: Vec<Vec<SortExpr>>,
    constraints: Constraints,
    defaults: HashMap<String, Expr>,
    definition: Option<String>,
}

/// Files as a table.
pub(crate) struct FileTable {
    places: Vec<Place>,
    store: ObjectStoreUrl,
    format: Arc<dyn FileFormat>,
    names: Names,
    columns: SchemaRef,
    folders: Vec<FieldRef>,
    schema: SchemaRef,
    order: Vec<Vec<SortExpr>>,
    constraints: Constraints,
    defaults: HashMap<String, Expr>,
    definition: Option<String>,
}

/// The files of a scan.
struct Measured {
    files: Vec<PartitionedFile>,
    /// What all of these have together, if no file says itself what it has.
    total: Option<Statistics>,
    /// No file was left out because there are rows enough.
    all: bool,
}

/// A file, and what its folders say.
struct Found {
    meta: ObjectMeta,
    /// It is the place.
    named: bool,
    folders: Vec<Named>,
}

impl FileTable {
    async fn make(state: &SessionState, mut asked: Asked) -> Result<Self> {
        let store_url = one_store(&asked.places)?;
        let store = state.runtime_env().object_store(&store_url)?;
        let mut found = Vec::new();
        for place in &asked.places {
            let files = list(place, &store).await?;
            if files.is_empty() && asked.schema.is_none() {
                return Err(place.is_empty());
            }
            found.extend(files);
        }
        let names = Names::of(&asked.format, &store_url, &found, asked.options.contains_key("format.compression"))?;
        found.retain(|file| names.counts(file));
        if let Some(compression) = names.compression.filter(|compression| !compression.is_empty()) {
            let compression = compression.trim_start_matches('.').to_owned();
            asked.options.insert("format.compression".to_owned(), compression);
        }
        let merged = merges_schema(&asked.format, &mut asked.options)?;
        let format = state
            .get_file_format_factory(&asked.format)
            .ok_or_else(|| plan_datafusion_err!("read files as {}: there is no such format", asked.format))?;
        let format = format.create(state, &asked.options)?;

        let from_folders = match (&asked.folders, &asked.schema) {
            (Some(names), Some(schema)) => {
                let kind =
                    |name: &String| Ok(partitions::column(name, schema.field_with_name(name)?.data_type().clone()));
                names.iter().map(kind).collect::<Result<Vec<_>>>()?
            }
            (Some(names), None) => typed(names, &found),
            (None, _) => typed(&told_by_folders(&store_url, &found)?, &found),
        };
        let is_folder = |name: &str| from_folders.iter().any(|folder| folder.name() == name);
        let columns = match &asked.schema {
            Some(schema) => {
                let fields = schema.fields().iter().filter(|field| !is_folder(field.name())).cloned();
                Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
            }
            None => {
                let looked_at = if merged { found.len() } else { found.len().min(1) };
                let files: Vec<ObjectMeta> = found[..looked_at].iter().map(|file| file.meta.clone()).collect();
                let mut columns = columns(state, &store, &store_url, &format, &files).await?;
                if names_columns(&asked.format) && found.len() > 1 {
                    // What one file says of nulls is not what the others do, and one may lack the column.
                    let fields = columns.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
                    let fields = fields.collect::<Vec<_>>();
                    columns = Arc::new(Schema::new_with_metadata(fields, columns.metadata().clone()));
                }
                without_folders(&columns, &from_folders, format.get_ext() != "csv")?
            }
        };
        let columns = csv::relaxed(&format, columns)?;
        text::check(&format, &columns)?;
        let all = columns.fields().iter().chain(&from_folders).cloned();
        let schema = Arc::new(Schema::new_with_metadata(all.collect::<Vec<_>>(), columns.metadata().clone()));
        Ok(Self {
            places: asked.places,
            store: store_url,
            format,
            names,
            columns,
            folders: from_folders,
            schema,
            order: asked.order,
            constraints: asked.constraints,
            defaults: asked.defaults,
            definition: asked.definition,
        })
    }

    /// The files that these filters over columns from folders let pass.
    async fn files(&self, session: &dyn Session, filters: &[Expr]) -> Result<Vec<PartitionedFile>> {
        let store = session.runtime_env().object_store(&self.store)?;
        let (mut seen, mut files, mut all_values) = (BTreeSet::new(), Vec::new(), Vec::new());
        for place in &self.places {
            let mut found = list(place, &store).await?;
            found.retain(|file| self.names.counts(file));
            self.names.check(&self.store, &found)?;
            for Found { meta, folders, .. } in found {
                // Files that lie elsewhere are not the table's, as in Hive.
                let Some(values) = partitions::values(&folders, &self.folders)? else { continue };
                if seen.insert(meta.location.clone()) {
                    // Nobody asks for a version of a file, and plans hold many copies of this.
                    files.push(ObjectMeta { e_tag: None, version: None, ..meta });
                    all_values.push(values);
                }
            }
        }
        let selected = partitions::select(session, &self.folders, &all_values, filters)?;
        let files = files.into_iter().zip(all_values).enumerate().filter(|(file, _)| selected.value(*file));
        let file = |(_, (meta, values)): (usize, (ObjectMeta, Vec<ScalarValue>))| {
            let mut file = PartitionedFile::from(meta);
            file.partition_values = values;
            file
        };
        Ok(files.map(file).collect())
    }

    /// Adds what the format knows of each file; stops when there are rows enough.
    async fn measured(
        &self,
        session: &dyn Session,
        files: Vec<PartitionedFile>,
        enough: Option<usize>,
    ) -> Result<Measured> {
        let store = session.runtime_env().object_store(&self.store)?;
        let wanted = files.len();
        let mut at_once = session.config_options().execution.meta_fetch_concurrency.get();
        if self.store.as_str().starts_with("file:") {
            at_once = at_once.min(LOCAL_AT_ONCE);
        }
        let parquet = (self.format.as_ref() as &dyn Any).downcast_ref::<ParquetFormat>();
        let footers = parquet.filter(|format| wanted > KNOWN_APART && !is_encrypted(format));
        let measure = |file: PartitionedFile| async {
            let (object, columns) = (&file.object_meta, &self.columns);
            let meta = match footers {
                Some(format) => from_footer(format, &store, columns, object).await,
                None => self.format.infer_stats_and_ordering(session, &store, Arc::clone(columns), object).await,
            };
            let meta = meta.map_err(|error| self.about(object, error))?;
            let statistics = partitions::with_values(meta.statistics, &file.partition_values);
            let mut file = file.with_ordering(meta.ordering);
            file.statistics = Some(Arc::new(statistics));
            Ok::<_, DataFusionError>(file)
        };
        let mut measured = futures::stream::iter(files).map(measure).buffered(at_once).boxed();
        let (mut looked_at, mut rows) = (Vec::with_capacity(wanted), Some(0));
        let mut total: Option<Statistics> = None;
        while let Some(mut file) = measured.try_next().await? {
            let known = file.statistics.as_ref().map(|statistics| statistics.num_rows);
            rows = match (rows, known) {
                (Some(rows), Some(Precision::Exact(more))) => Some(rows + more),
                _ => None,
            };
            if wanted > KNOWN_APART
                && let Some(known) = file.statistics.take()
            {
                let both = total.iter().chain([known.as_ref()]);
                total = Some(Statistics::try_merge_iter_with_ndv_fallback(both, &self.schema, NdvFallback::Max)?);
            }
            looked_at.push(file);
            if enough.zip(rows).is_some_and(|(enough, rows)| rows >= enough) {
                break;
            }
        }
        Ok(Measured { all: looked_at.len() == wanted, files: looked_at, total })
    }

    fn about(&self, file: &ObjectMeta, error: DataFusionError) -> DataFusionError {
        told(&self.store, file, error)
    }

    fn listing(&self) -> Result<ListingTable> {
        let folders = self.folders.iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
        let options = ListingOptions::new(Arc::clone(&self.format))
            .with_table_partition_cols(folders)
            .with_file_sort_order(self.order.clone());
        let places = self.places.iter().map(|place| place.url().clone()).collect();
        let config = ListingTableConfig::new_with_multi_paths(places);
        ListingTable::try_new(config.with_listing_options(options).with_schema(Arc::clone(&self.columns)))
    }
}

impl fmt::Debug for FileTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileTable").field("places", &self.places).field("format", &self.format).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.constraints)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.definition.as_deref()
    }

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        self.defaults.get(column)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let exact = |filter: &&Expr| match self.is_of_folders(filter) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(exact).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (of_folders, others): (Vec<_>, Vec<_>) =
            filters.iter().cloned().partition(|filter| self.is_of_folders(filter));
        let files = self.files(session, &of_folders).await?;
        let collect = session.config().collect_statistics();
        let Measured { files, total, all } = match collect {
            true => self.measured(session, files, limit.filter(|_| others.is_empty())).await?,
            false => Measured { files, total: None, all: true },
        };
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(project_schema(&self.schema, projection)?)));
        }
        let groups = FileGroup::new(files).split_files(session.config().target_partitions());
        let (groups, statistics) = match total {
            Some(total) => (groups, if all { total } else { total.to_inexact() }),
            None => compute_all_files_statistics(groups, self.schema(), collect, !all)?,
        };
        let statistics = if collect { statistics } else { Statistics::new_unknown(&self.schema) };
        let ordering = self.listing()?.try_create_output_ordering(session.execution_props(), &groups)?;
        let table = TableSchema::builder(Arc::clone(&self.columns)).with_table_partition_cols(self.folders.clone());
        let config = FileScanConfigBuilder::new(self.store.clone(), self.format.file_source(table.build()))
            .with_file_groups(groups)
            .with_constraints(self.constraints.clone())
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .with_output_ordering(ordering);
        self.format.create_physical_plan(session, config.build()).await
    }

    async fn insert_into(
        &self,
        session: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        op: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        datafusion::common::SchemaExt::logically_equivalent_names_and_types(self.schema.as_ref(), &input.schema())?;
        let [place] = &self.places[..] else {
            return plan_err!(
                "insert rows into a table of several places: make one of the folder that is to have them"
            );
        };
        if !place.is_folder() {
            return plan_err!(
                "insert rows into `{}`: it is no folder; the location of a table that is to have more files ends with `/`",
                place.text()
            );
        }
        let config = FileSinkConfig {
            original_url: String::new(),
            object_store_url: self.store.clone(),
            file_group: FileGroup::default(),
            table_paths: vec![place.url().clone()],
            output_schema: self.schema(),
            table_partition_cols: self
                .folders
                .iter()
                .map(|field| (field.name().clone(), field.data_type().clone()))
                .collect(),
            // Formats refuse any other, as they do not know who commits what is written.
            insert_op: InsertOp::Append,
            keep_partition_by_columns: session.config_options().execution.keep_partition_by_columns,
            file_extension: self.format.get_ext(),
            file_output_mode: FileOutputMode::Automatic,
        };
        let order = self.listing()?.try_create_output_ordering(session.execution_props(), &[])?;
        let order = order.into_iter().next().map(Into::into);
        let plan = self.format.create_writer_physical_plan(input, session, config, order).await?;
        if op == InsertOp::Append { Ok(plan) } else { write::replacing(plan, op) }
    }
}

impl FileTable {
    /// Whether a filter can be decided by what folders say.
    fn is_of_folders(&self, filter: &Expr) -> bool {
        let names: Vec<&str> = self.folders.iter().map(|folder| folder.name().as_str()).collect();
        !names.is_empty() && expr_applicable_for_cols(&names, filter)
    }
}

fn one_store(places: &[Place]) -> Result<ObjectStoreUrl> {
    let Some(first) = places.first() else { return plan_err!("read files: no path was given") };
    let store = first.url().object_store();
    match places.iter().find(|place| place.url().object_store() != store) {
        Some(other) => plan_err!(
            "read `{}` and `{}` together: they lie in two stores; read each, and unite them",
            first.text(),
            other.text()
        ),
        None => Ok(store),
    }
}

/// The files at a place. A folder may have none.
async fn list(place: &Place, store: &Arc<dyn ObjectStore>) -> Result<Vec<Found>> {
    let files = place.list(store).await?;
    if files.is_empty() && place.is_file() {
        return Err(place.is_empty());
    }
    let found = files.into_iter().map(|meta| Found {
        folders: partitions::of(&place.folders(&meta)),
        named: meta.location == *place.url().prefix(),
        meta,
    });
    Ok(found.collect())
}

/// What the names of a table's files say.
struct Names {
    endings: &'static [&'static str],
    /// Files in folders count only if their names end so. Where no file's does, all count.
    only: bool,
    /// How all are compressed, if that is told by their names.
    compression: Option<&'static str>,
}

impl Names {
    /// Looks at the files that there are. `compression` says that their names need not tell it.
    fn of(format: &str, store: &ObjectStoreUrl, found: &[Found], compression: bool) -> Result<Self> {
        let (endings, compressed): (&[&str], bool) = match format.to_lowercase().as_str() {
            "json" | "ndjson" => (&[".json", ".ndjson", ".jsonl"], true),
            "csv" => (&[".csv", ".tsv"], true),
            "arrow" => (&[".arrow", ".ipc", ".feather"], false),
            "avro" => (&[".avro"], false),
            // Lines are those of any file, and each is decompressed as its name says.
            "text" => (&[], false),
            _ => (&[".parquet"], false),
        };
        let mut names = Self { endings, only: false, compression: None };
        names.only = found.iter().any(|file| names.ends(file));
        if compressed
            && !compression
            && let Some(first) = found.iter().find(|file| names.counts(file))
        {
            names.compression = Some(compression_of(first));
        }
        names.check(store, found)?;
        Ok(names)
    }

    fn ends(&self, file: &Found) -> bool {
        let name = file.meta.location.as_ref();
        let stem = &name[..name.len() - compression_of(file).len()];
        self.endings.iter().any(|ending| stem.ends_with(ending))
    }

    fn counts(&self, file: &Found) -> bool {
        !self.only || file.named || self.ends(file)
    }

    /// Files that count are compressed alike.
    fn check(&self, store: &ObjectStoreUrl, found: &[Found]) -> Result<()> {
        let Some(compression) = self.compression else { return Ok(()) };
        match found.iter().find(|file| self.counts(file) && compression_of(file) != compression) {
            Some(other) => plan_err!(
                "read `{}` with files that are {}: a table has files of one compression; read them apart",
                named::name(store.as_str(), &other.meta.location),
                match compression.trim_start_matches('.') {
                    "" => "not compressed",
                    ending => ending,
                }
            ),
            None => Ok(()),
        }
    }
}

fn compression_of(file: &Found) -> &'static str {
    text::compression_of(&file.meta.location)
}

/// The columns that folders give to all files alike.
fn told_by_folders(store: &ObjectStoreUrl, found: &[Found]) -> Result<Vec<String>> {
    let names = |file: &Found| file.folders.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let Some((first, rest)) = found.split_first() else { return Ok(Vec::new()) };
    let columns = names(first);
    match rest.iter().find(|file| names(file) != columns) {
        Some(other) => {
            let said = |file: &Found| match names(file) {
                names if names.is_empty() => "no columns".to_owned(),
                names => format!("columns {}", names.join(", ")),
            };
            let name = |file: &Found| named::name(store.as_str(), &file.meta.location);
            plan_err!(
                "tell columns from folders: those of `{}` give {}, those of `{}` {}; read them apart, or by a pattern that \
                 leaves some out",
                name(first),
                said(first),
                name(other),
                said(other)
            )
        }
        None => Ok(columns),
    }
}

/// Columns from folders, with the types that their values have.
fn typed(names: &[String], found: &[Found]) -> Vec<FieldRef> {
    let column = |(at, name): (usize, &String)| {
        let values = found.iter().filter_map(|file| file.folders.get(at)?.1.as_deref());
        partitions::column(name, partitions::kind(values))
    };
    names.iter().enumerate().map(column).collect()
}

/// The columns of files without those that folders give: a folder's word counts more.
fn without_folders(columns: &SchemaRef, folders: &[FieldRef], by_name: bool) -> Result<SchemaRef> {
    let Some(twice) = folders.iter().find(|folder| columns.column_with_name(folder.name()).is_some()) else {
        return Ok(Arc::clone(columns));
    };
    if !by_name {
        return plan_err!(
            "read CSV files with a column `{0}` in folders that give a column `{0}`: one of them needs another name",
            twice.name()
        );
    }
    let twice = |field: &&FieldRef| folders.iter().any(|folder| folder.name() == field.name());
    let fields: Vec<FieldRef> = columns.fields().iter().filter(|field| !twice(field)).cloned().collect();
    Ok(Arc::new(Schema::new_with_metadata(fields, columns.metadata().clone())))
}

/// What a Parquet file's footer says of its rows. It is not remembered, and what else it leads to is not read: of so many files,
/// one would drive out another.
async fn from_footer(
    format: &ParquetFormat,
    store: &Arc<dyn ObjectStore>,
    columns: &SchemaRef,
    file: &ObjectMeta,
) -> Result<FileMeta> {
    let footer = DFParquetMetadata::new(store, file).with_metadata_size_hint(format.metadata_size_hint());
    let footer = footer.fetch_metadata().await?;
    let statistics = DFParquetMetadata::statistics_from_parquet_metadata(&footer, columns)?;
    Ok(FileMeta::new(statistics).with_ordering(ordering_from_parquet_metadata(&footer, columns)?))
}

/// Whether a footer may need keys.
fn is_encrypted(format: &ParquetFormat) -> bool {
    let crypto = &format.options().crypto;
    crypto.file_decryption.is_some() || crypto.factory_id.is_some()
}

/// Whether files of a format say what their columns are. Those of others are told from the rows of all.
fn names_columns(format: &str) -> bool {
    matches!(format.to_lowercase().as_str(), "parquet" | "arrow" | "avro")
}

/// Whether a table has the columns of all its files, and not those of the first.
fn merges_schema(format: &str, options: &mut HashMap<String, String>) -> Result<bool> {
    if !names_columns(format) {
        return Ok(true);
    }
    match MERGE_SCHEMA.into_iter().filter_map(|key| options.remove(key)).next_back() {
        None => Ok(false),
        Some(value) => match value.to_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => plan_err!("read files with merge_schema `{value}`: want true or false"),
        },
    }
}

/// The columns of these files together.
async fn columns(
    state: &SessionState,
    store: &Arc<dyn ObjectStore>,
    url: &ObjectStoreUrl,
    format: &Arc<dyn FileFormat>,
    files: &[ObjectMeta],
) -> Result<SchemaRef> {
    let error = match format.infer_schema(state, store, files).await {
        Ok(columns) => return Ok(columns),
        Err(error) => error,
    };
    // All files were asked at once, so that which of them it was is asked again.
    let mut first: Option<(&ObjectMeta, SchemaRef)> = None;
    for file in files.iter().take(LOOKED_AT) {
        let columns = match format.infer_schema(state, store, std::slice::from_ref(file)).await {
            Ok(columns) => columns,
            Err(error) => return Err(told(url, file, error)),
        };
        match &first {
            None => first = Some((file, columns)),
            Some((other, wanted)) => {
                let merged = Schema::try_merge([wanted.as_ref().clone(), columns.as_ref().clone()]);
                if merged.is_err()
                    && let Some((name, one, two)) = disagreement(wanted, &columns)
                {
                    let (other, file) =
                        (named::name(url.as_str(), &other.location), named::name(url.as_str(), &file.location));
                    let why = format!("column `{name}` is {two} in this file, and {one} in `{other}`; read them apart");
                    return Err(Error::ReadFile { file, why }.into());
                }
            }
        }
    }
    Err(error)
}

/// A column that two files have as types that are not one.
fn disagreement(one: &Schema, two: &Schema) -> Option<(String, DataType, DataType)> {
    one.fields().iter().find_map(|field: &Arc<Field>| {
        let (_, other) = two.column_with_name(field.name())?;
        let kinds = (field.data_type().clone(), other.data_type().clone());
        (kinds.0 != kinds.1).then(|| (field.name().clone(), kinds.0, kinds.1))
    })
}

/// An error with the file that it is about.
fn told(store: &ObjectStoreUrl, file: &ObjectMeta, error: DataFusionError) -> DataFusionError {
    let name = named::name(store.as_str(), &file.location);
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(inner) => match *inner {
                Error::BrokenRow { place, what, .. } => Error::BrokenRow { file: name, place, what }.into(),
                other => other.into(),
            },
            Err(inner) => damaged(name, DataFusionError::External(inner)),
        },
        other => damaged(name, other),
    }
}

fn damaged(file: String, error: DataFusionError) -> DataFusionError {
    if !error::is_of_data(&error) || error::names_a_file(&error) {
        return error;
    }
    let why = format!("{}; if it is damaged or of another format, take it away", error::text(&error));
    Error::ReadFile { file, why }.into()
}
