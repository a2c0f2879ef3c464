//! How does a program run SQL and use DataFrames?
//!
//! [`Context::session`] is DataFusion's own `SessionContext`, whose plans run where the context's executors are. Its methods
//! are `async`; [`Context::block_on`] runs them from a program that is not.

use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use model::setting::Values;
use model::{Failure, FailureKind, JobRunner};
use rdd::function::{FunctionRef, Named, conjure, reference, resolve};
use sql::datafusion::common::{DataFusionError, Result};
use sql::datafusion::dataframe::DataFrame;
use sql::datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use sql::datafusion::prelude::SessionContext;
use sql::{Carrier, Function, FunctionKind};
use tokio::runtime::Runtime;

use crate::Context;
use crate::context::StartError;

/// What an application keeps for queries. Nothing is made before the first.
pub(crate) struct Queries {
    parts: Parts,
    carrier: Arc<Table>,
    session: OnceLock<SessionContext>,
    runtime: OnceLock<Runtime>,
}

/// What the session is made from.
pub(crate) struct Parts {
    pub(crate) runner: Arc<dyn JobRunner>,
    /// Whether executors are other processes.
    pub(crate) distributed: bool,
    /// How many tasks run at once.
    pub(crate) slots: u32,
    /// How many of them share an executor's memory.
    pub(crate) slots_per_executor: u32,
    /// Memory of one executor, in bytes.
    pub(crate) memory: u64,
    pub(crate) disk: PathBuf,
    pub(crate) store_url: String,
    pub(crate) settings: Values,
}

impl Queries {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts, carrier: Arc::default(), session: OnceLock::new(), runtime: OnceLock::new() }
    }

    fn session(&self) -> Result<&SessionContext, StartError> {
        if let Some(session) = self.session.get() {
            return Ok(session);
        }
        let parts = &self.parts;
        let settings = &parts.settings;
        let session = sql::session(sql::SessionParts {
            runner: Arc::clone(&parts.runner),
            stages: parts.distributed || sql::config::FORCE_STAGES.bool(settings)?,
            slots: parts.slots as usize,
            memory: (executor::memory::working_bytes(parts.memory), parts.slots_per_executor as usize),
            disk: parts.disk.clone(),
            store_url: parts.store_url.clone(),
            carrier: Arc::clone(&self.carrier) as Arc<dyn Carrier>,
            adaptive: sql::config::ADAPTIVE.bool(settings)?,
            broadcast_max: sql::config::BROADCAST_MAX.bytes(settings)?,
            partition_size: sql::config::PARTITION_SIZE.bytes(settings)?,
            max_result_size: driver::config::max_result_size(settings)?,
            spark: sql::config::DIALECT.value(settings) == "spark",
            partitions: usize::try_from(sql::config::PARTITIONS.integer(settings)?).unwrap_or(usize::MAX),
        })?;
        Ok(self.session.get_or_init(|| session))
    }

    fn runtime(&self) -> Result<&Runtime, StartError> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.parts.slots_per_executor.max(1) as usize)
            .thread_name("vonk-query")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        Ok(self.runtime.get_or_init(|| runtime))
    }

    /// Ends the threads of queries, without waiting for what blocks.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn other(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl Context {
    /// The session of queries: DataFusion's, with everything it can do. Tables, views and options stay until the context
    /// ends. Plans run as stages on the executors; with local masters, as one plan in this process.
    ///
    /// # Errors
    /// A setting of queries has a value that it does not take.
    pub fn session(&self) -> Result<&SessionContext, StartError> {
        self.queries().session()
    }

    /// Runs a future on the threads of queries, and waits for it.
    ///
    /// # Errors
    /// Threads cannot be started.
    ///
    /// # Panics
    /// Inside an async runtime, where nothing may block: await the future there.
    ///
    /// # Examples
    /// ```no_run
    /// let ctx = vonk::Context::builder().master("local[2]").build()?;
    /// ctx.block_on(async {
    ///     ctx.sql("SELECT 1 AS one").await?.show().await
    /// })??;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, StartError> {
        Ok(self.queries().runtime()?.block_on(future))
    }

    /// Plans a statement; statements that define or set something are carried out at once. The rows of the DataFrame are
    /// computed when it is collected, shown, streamed or written.
    ///
    /// # Errors
    /// The text does not parse, or names what does not exist.
    pub async fn sql(&self, text: &str) -> Result<DataFrame> {
        sql::plan(self.session().map_err(other)?, text).await
    }

    /// A table or view of the session.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn table(&self, name: &str) -> Result<DataFrame> {
        self.session().map_err(other)?.table(name).await
    }

    /// Registers a function of a row's values, in the session and for executors: they call `make` too, so it must not
    /// capture anything.
    ///
    /// # Errors
    /// A setting of queries has a value that it does not take.
    pub fn register_udf<F>(&self, make: F) -> Result<(), StartError>
    where
        F: Fn() -> ScalarUDF + Clone + Send + Sync + 'static,
    {
        let made = make();
        self.queries().carrier.keep::<Scalar<F>>(FunctionKind::Scalar, made.name(), made.aliases());
        self.session()?.register_udf(sql::guarded(&made));
        Ok(())
    }

    /// Registers a function of a group of rows, in the session and for executors: they call `make` too, so it must not
    /// capture anything.
    ///
    /// # Errors
    /// A setting of queries has a value that it does not take.
    pub fn register_udaf<F>(&self, make: F) -> Result<(), StartError>
    where
        F: Fn() -> AggregateUDF + Clone + Send + Sync + 'static,
    {
        let made = make();
        self.queries().carrier.keep::<Aggregate<F>>(FunctionKind::Aggregate, made.name(), made.aliases());
        self.session()?.register_udaf(sql::guarded_aggregate(&made));
        Ok(())
    }

    /// Registers a window function, in the session and for executors: they call `make` too, so it must not capture anything.
    ///
    /// # Errors
    /// A setting of queries has a value that it does not take.
    pub fn register_udwf<F>(&self, make: F) -> Result<(), StartError>
    where
        F: Fn() -> WindowUDF + Clone + Send + Sync + 'static,
    {
        let made = make();
        self.queries().carrier.keep::<Window<F>>(FunctionKind::Window, made.name(), made.aliases());
        self.session()?.register_udwf(sql::guarded_window(&made));
        Ok(())
    }
}

/// Entries of the task table that make functions.
struct Scalar<F>(PhantomData<F>);
struct Aggregate<F>(PhantomData<F>);
struct Window<F>(PhantomData<F>);

type Make = fn() -> Function;

impl<F: Fn() -> ScalarUDF + Clone + Send + Sync + 'static> Named for Scalar<F> {
    type Value = Make;

    fn value() -> Make {
        || Function::Scalar(Arc::new(sql::guarded(&conjure::<F>()())))
    }
}

impl<F: Fn() -> AggregateUDF + Clone + Send + Sync + 'static> Named for Aggregate<F> {
    type Value = Make;

    fn value() -> Make {
        || Function::Aggregate(Arc::new(sql::guarded_aggregate(&conjure::<F>()())))
    }
}

impl<F: Fn() -> WindowUDF + Clone + Send + Sync + 'static> Named for Window<F> {
    type Value = Make;

    fn value() -> Make {
        || Function::Window(Arc::new(sql::guarded_window(&conjure::<F>()())))
    }
}

/// Functions that were registered, by the entry of the task table that makes each.
#[derive(Debug, Default)]
pub(crate) struct Table {
    known: RwLock<HashMap<(FunctionKind, String), FunctionRef>>,
}

impl Table {
    fn keep<N: Named<Value = Make>>(&self, kind: FunctionKind, name: &str, aliases: &[String]) {
        let entry = reference::<N>();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for name in std::iter::once(name).chain(aliases.iter().map(String::as_str)) {
            known.insert((kind, name.to_owned()), entry);
        }
    }
}

impl Carrier for Table {
    fn encode(&self, kind: FunctionKind, name: &str) -> Option<Bytes> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let entry = known.get(&(kind, name.to_owned()))?;
        rdd::codec::encode(entry).ok().map(Into::into)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Function, Failure> {
        let wrong = |error: rdd::Error| Failure::from_error(FailureKind::Internal, &error);
        let entry: FunctionRef = rdd::codec::decode(bytes).map_err(wrong)?;
        let make: Make = resolve(entry).map_err(wrong)?;
        Ok(make())
    }
}
