//! How does a fragment of a plan travel to executors?
//!
//! As DataFusion's own encoding of its plan, with two leaves of ours, and the session's options that are not at their
//! default. What its rows are divided by is the plan's root, a `RepartitionExec`.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{GetExt, Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{CsvSource, FileScanConfigBuilder};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::execution::config::SessionConfig;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning, replace_children_if_necessary};
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf;
use model::ids::ShuffleId;
use prost::Message;

use crate::arrow_files::ArrowSink;
use crate::csv::{CsvFilesSource, CsvMessage};
use crate::error::Error;
use crate::functions::{BuiltIn, Carrier, Function, FunctionKind, Prefer};
use crate::read::{EqualColumns, ShuffleReadExec, downcast};
use crate::scan::{Content, ScanExec, content};
use crate::stage::End;
use crate::stores::OwnStore;
use crate::text::TextSource;
use crate::window::{Filtered, Told};

/// Where a fragment's files go. In which format is the plan's root, a `DataSinkExec`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Destination {
    /// The write, as it is in file names.
    #[prost(string, tag = "1")]
    pub(crate) write: String,
    /// The destination folder's URL.
    #[prost(string, tag = "2")]
    pub(crate) url: String,
}

#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(bytes = "bytes", tag = "1")]
    plan: Bytes,
    #[prost(map = "string, string", tag = "2")]
    options: HashMap<String, String>,
    #[prost(message, optional, tag = "3")]
    write: Option<Destination>,
    /// Spark's functions go before DataFusion's of the same name.
    #[prost(bool, tag = "4")]
    spark: bool,
    /// The URL of the application's store.
    #[prost(string, tag = "5")]
    store: String,
}

/// A decoded fragment.
pub(crate) struct Fragment {
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    /// How rows are divided among the partitions of a shuffle that has more than one.
    pub(crate) partitioning: Option<Partitioning>,
    /// Where files go, and the sink that says which.
    pub(crate) write: Option<(Destination, Arc<dyn ExecutionPlan>)>,
    pub(crate) config: SessionConfig,
    /// The application's store.
    pub(crate) store: OwnStore,
}

/// Encodes a fragment whose leaves have been taken out.
pub(crate) fn encode(
    plan: &Arc<dyn ExecutionPlan>,
    end: &End,
    config: &SessionConfig,
    carrier: &Arc<dyn Carrier>,
) -> Result<Bytes, Error> {
    let (plan, write) = match end {
        End::Shuffle(partitioning) if partitioning.partition_count() > 1 => {
            let divided = RepartitionExec::try_new(Arc::clone(plan), partitioning.clone()).map_err(Error::encode)?;
            (Arc::new(divided) as Arc<dyn ExecutionPlan>, None)
        }
        End::Shuffle(_) | End::Result => (Arc::clone(plan), None),
        End::Write { sink, destination } => {
            let sink =
                replace_children_if_necessary(Arc::clone(sink), vec![Arc::clone(plan)]).map_err(Error::encode)?;
            (sink, Some(destination.clone()))
        }
    };
    let prefer = Prefer::of(config);
    let codec = Codec { carrier: Arc::clone(carrier), prefer };
    let plan = physical_plan_to_bytes_with_extension_codec(plan, &codec).map_err(Error::encode)?;
    let spark = prefer == Prefer::Spark;
    let store = OwnStore::of(config).0.clone();
    Ok(Body { plan, options: changed(config.options()), write, spark, store }.encode_to_vec().into())
}

/// Decodes a fragment.
pub(crate) fn decode(
    body: Bytes,
    context: impl FnOnce(SessionConfig, &OwnStore) -> DfResult<TaskContext>,
    carrier: &Arc<dyn Carrier>,
) -> Result<Fragment, Error> {
    let body = Body::decode(body).map_err(Error::decode)?;
    let mut options = ConfigOptions::new();
    for (key, value) in &body.options {
        options.set(key, value).map_err(Error::decode)?;
    }
    let prefer = if body.spark { Prefer::Spark } else { Prefer::DataFusion };
    let config = SessionConfig::from(options).with_extension(Arc::new(prefer));
    let store = OwnStore(body.store);
    let context = context(config.clone(), &store).map_err(Error::decode)?;
    let codec = Codec { carrier: Arc::clone(carrier), prefer };
    let mut plan =
        physical_plan_from_bytes_with_extension_codec(&body.plan, &context, &codec).map_err(Error::decode)?;
    let mut partitioning = None;
    if let Some(root) = downcast::<RepartitionExec>(&plan) {
        partitioning = Some(root.partitioning().clone());
        plan = Arc::clone(root.input());
    }
    let write = body.write.map(|destination| (destination, Arc::clone(&plan)));
    if let Some(root) = downcast::<DataSinkExec>(&plan) {
        plan = Arc::clone(root.input());
    }
    Ok(Fragment { plan, partitioning, write, config, store })
}

/// Options that are not at their default.
fn changed(options: &ConfigOptions) -> HashMap<String, String> {
    let defaults: HashMap<_, _> = ConfigOptions::new().entries().into_iter().map(|e| (e.key, e.value)).collect();
    let changed = options.entries().into_iter().filter(|entry| defaults.get(&entry.key) != Some(&entry.value));
    changed.filter_map(|entry| Some((entry.key, entry.value?))).collect()
}

/// A leaf of ours, or what writes Arrow files.
#[derive(Clone, PartialEq, Message)]
struct Leaf {
    #[prost(uint32, tag = "1")]
    leaf: u32,
    /// The rows' schema and the shuffle, if it reads one; otherwise the source is its child.
    #[prost(message, optional, tag = "2")]
    schema: Option<protobuf::Schema>,
    #[prost(uint32, tag = "3")]
    shuffle: u32,
    /// Columns that are equal to each other, class by class.
    #[prost(message, repeated, tag = "4")]
    equal: Vec<Columns>,
    /// Columns with one value.
    #[prost(uint32, repeated, tag = "5")]
    constant: Vec<u32>,
    /// What DataFusion's encoding leaves out of a scan of files.
    #[prost(message, optional, tag = "6")]
    files: Option<Files>,
    /// Where Arrow files go; what goes there is its child.
    #[prost(message, optional, tag = "7")]
    arrow: Option<protobuf::FileSinkConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct Files {
    /// How they are compressed, by the ending of their names; empty if they are not.
    #[prost(string, tag = "1")]
    compression: String,
    #[prost(message, optional, tag = "2")]
    csv: Option<CsvMessage>,
    /// They are lines of text, though the scan is encoded as one of CSV files.
    #[prost(bool, tag = "3")]
    text: bool,
}

impl Files {
    fn of(scan: &ScanExec) -> Option<Self> {
        let Some(Content::Files(files)) = content(scan.source()) else { return None };
        let csv = files.file_source().downcast_ref::<CsvFilesSource>().map(CsvFilesSource::message);
        let text = files.file_source().is::<TextSource>();
        Some(Self { compression: files.file_compression_type.get_ext(), csv, text })
    }

    /// The source as it was before it was encoded.
    fn restore(self, source: &Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
        let Some(Content::Files(files)) = content(source) else { return internal_err!("a scan of files reads none") };
        let compression = self.compression.trim_start_matches('.').parse::<FileCompressionType>()?;
        let mut restored = FileScanConfigBuilder::from(files.clone()).with_file_compression_type(compression);
        if let Some(message) = self.csv {
            let Some(csv) = files.file_source().downcast_ref::<CsvSource>() else {
                return internal_err!("a scan of CSV files reads others");
            };
            restored = restored.with_source(Arc::new(CsvFilesSource::decode(csv, message)?));
        }
        if self.text {
            let Some(csv) = files.file_source().downcast_ref::<CsvSource>() else {
                return internal_err!("a scan of lines of text reads others");
            };
            restored = restored.with_source(Arc::new(TextSource::over(csv)));
        }
        Ok(DataSourceExec::from_data_source(restored.build()))
    }
}

/// A function: by the plan's name for it, if it is one that every executable has.
#[derive(Clone, PartialEq, Message)]
struct FunctionMessage {
    /// The program's own.
    #[prost(bytes = "bytes", optional, tag = "1")]
    own: Option<Bytes>,
    /// Its last argument is a condition.
    #[prost(bool, tag = "2")]
    filtered: bool,
    /// What its evaluator is told.
    #[prost(message, optional, tag = "3")]
    told: Option<ToldMessage>,
    /// It is DataFusion's, although Spark has a namesake.
    #[prost(bool, tag = "4")]
    datafusions: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ToldMessage {
    #[prost(bool, tag = "1")]
    ignore_nulls: bool,
    #[prost(bool, tag = "2")]
    reversed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Columns {
    #[prost(uint32, repeated, tag = "1")]
    columns: Vec<u32>,
}

fn arrow_sink(node: &Arc<dyn ExecutionPlan>) -> Option<&ArrowSink> {
    let sink: &dyn DataSink = downcast::<DataSinkExec>(node)?.sink();
    sink.downcast_ref()
}

struct Codec {
    carrier: Arc<dyn Carrier>,
    prefer: Prefer,
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Codec")
    }
}

impl Codec {
    /// The program's own function; none if it is one that every executable has.
    fn own(&self, built_in: bool, kind: FunctionKind, name: &str) -> DfResult<Option<Bytes>> {
        match self.carrier.encode(kind, name) {
            None if !built_in => Err(Error::UnknownFunction { name: name.to_owned() }.into()),
            own => Ok(own),
        }
    }

    fn decode_own(&self, own: &[u8]) -> DfResult<Function> {
        self.carrier.decode(own).map_err(crate::error::wrap)
    }
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let leaf = Leaf::decode(bytes).map_err(Error::decode)?;
        if let (Some(config), [input]) = (&leaf.arrow, inputs) {
            let sink = Arc::new(ArrowSink(config.try_into()?));
            return Ok(Arc::new(DataSinkExec::new(Arc::clone(input), sink, None)));
        }
        match (leaf.schema.as_ref(), inputs) {
            (Some(schema), []) => {
                let schema = Arc::new(Schema::try_from(schema)?);
                let classes = leaf.equal.into_iter().map(|class| class.columns).collect();
                let equal = EqualColumns { classes, constants: leaf.constant };
                if equal.classes.iter().flatten().chain(&equal.constants).any(|&c| c as usize >= schema.fields().len())
                {
                    return internal_err!("a leaf of a fragment names a column that it does not have");
                }
                Ok(Arc::new(ShuffleReadExec::leaf(leaf.leaf, ShuffleId(leaf.shuffle), schema, &equal)?))
            }
            (None, [source]) => {
                let source = match leaf.files {
                    Some(files) => files.restore(source)?,
                    None => Arc::clone(source),
                };
                Ok(Arc::new(ScanExec::new(leaf.leaf, source)))
            }
            _ => internal_err!("a leaf of a fragment is neither a shuffle nor a source"),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        out: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> DfResult<()> {
        let leaf = if let Some(scan) = downcast::<ScanExec>(&node) {
            Leaf { leaf: scan.leaf(), files: Files::of(scan), ..Leaf::default() }
        } else if let Some((leaf, shuffle)) = downcast::<ShuffleReadExec>(&node).and_then(ShuffleReadExec::as_leaf) {
            let EqualColumns { classes, constants } = EqualColumns::of(&node);
            let equal = classes.into_iter().map(|columns| Columns { columns }).collect();
            let schema = Some(node.schema().as_ref().try_into()?);
            Leaf { leaf, schema, shuffle: shuffle.0, equal, constant: constants, ..Leaf::default() }
        } else if let Some(ArrowSink(config)) = arrow_sink(&node) {
            Leaf { arrow: Some(config.try_into()?), ..Leaf::default() }
        } else {
            let name = node.name();
            return Err(internal_datafusion_err!("executors do not know how to run `{name}`"));
        };
        leaf.encode(out).map_err(|error| Error::encode(error).into())
    }

    fn try_encode_udf(&self, function: &ScalarUDF, out: &mut Vec<u8>) -> DfResult<()> {
        let name = function.name();
        let kind = |function: &ScalarUDF| (function.inner().as_ref() as &dyn Any).type_id();
        let is = |prefer| BuiltIn::get(prefer).scalar.get(name).is_some_and(|known| kind(known) == kind(function));
        let message = if is(Prefer::DataFusion) && !is(Prefer::Spark) {
            // Spark's may plan to call DataFusion's of the same name.
            FunctionMessage { datafusions: true, ..FunctionMessage::default() }
        } else {
            let built_in = BuiltIn::get(Prefer::DataFusion).scalar.contains_key(name);
            FunctionMessage { own: self.own(built_in, FunctionKind::Scalar, name)?, ..FunctionMessage::default() }
        };
        message.encode(out).map_err(|error| Error::encode(error).into())
    }

    fn try_decode_udf(&self, name: &str, bytes: &[u8]) -> DfResult<Arc<ScalarUDF>> {
        let message = FunctionMessage::decode(bytes).map_err(Error::decode)?;
        if message.datafusions {
            return match BuiltIn::get(Prefer::DataFusion).scalar.get(name) {
                Some(function) => Ok(Arc::clone(function)),
                None => internal_err!("there is no function `{name}`"),
            };
        }
        match self.decode_own(&message.own.unwrap_or_default())? {
            Function::Scalar(function) => Ok(function),
            other => internal_err!("function `{name}` is another kind of function: {other:?}"),
        }
    }

    fn try_encode_udaf(&self, function: &AggregateUDF, out: &mut Vec<u8>) -> DfResult<()> {
        let filtered = (function.inner().as_ref() as &dyn Any).downcast_ref::<Filtered>();
        let name = filtered.map_or(function, |filtered| filtered.function().as_ref()).name();
        let built_in = BuiltIn::get(Prefer::DataFusion).aggregate.contains_key(name);
        let own = self.own(built_in, FunctionKind::Aggregate, name)?;
        let message = FunctionMessage { own, filtered: filtered.is_some(), ..FunctionMessage::default() };
        message.encode(out).map_err(|error| Error::encode(error).into())
    }

    fn try_decode_udaf(&self, name: &str, bytes: &[u8]) -> DfResult<Arc<AggregateUDF>> {
        let message = FunctionMessage::decode(bytes).map_err(Error::decode)?;
        let function = match message.own {
            Some(own) => match self.decode_own(&own)? {
                Function::Aggregate(function) => function,
                other => return internal_err!("function `{name}` is another kind of function: {other:?}"),
            },
            None => match BuiltIn::get(self.prefer).aggregate.get(name) {
                Some(function) => Arc::clone(function),
                None => return internal_err!("there is no function `{name}`"),
            },
        };
        Ok(if message.filtered { Arc::new(Filtered::of(function)) } else { function })
    }

    fn try_encode_udwf(&self, function: &WindowUDF, out: &mut Vec<u8>) -> DfResult<()> {
        let told = (function.inner().as_ref() as &dyn Any).downcast_ref::<Told>();
        let name = told.map_or(function, |told| told.function.as_ref()).name();
        let built_in = BuiltIn::get(Prefer::DataFusion).window.contains_key(name);
        let own = self.own(built_in, FunctionKind::Window, name)?;
        let told = told.map(|told| ToldMessage { ignore_nulls: told.ignore_nulls, reversed: told.reversed });
        let message = FunctionMessage { own, told, ..FunctionMessage::default() };
        message.encode(out).map_err(|error| Error::encode(error).into())
    }

    fn try_decode_udwf(&self, name: &str, bytes: &[u8]) -> DfResult<Arc<WindowUDF>> {
        let message = FunctionMessage::decode(bytes).map_err(Error::decode)?;
        let function = match message.own {
            Some(own) => match self.decode_own(&own)? {
                Function::Window(function) => function,
                other => return internal_err!("function `{name}` is another kind of function: {other:?}"),
            },
            None => match BuiltIn::get(self.prefer).window.get(name) {
                Some(function) => Arc::clone(function),
                None => return internal_err!("there is no function `{name}`"),
            },
        };
        let Some(ToldMessage { ignore_nulls, reversed }) = message.told else { return Ok(function) };
        Ok(Arc::new(Told { function, ignore_nulls, reversed }.into()))
    }
}
