//! How do rows go from functions to queries and back, without leaving the engine?
//!
//! Through a shuffle whose rows are Arrow's: each side writes it as its last stage and reads it as its first, and a job of
//! either brings the stages of the other, so that what is lost is made again.

use std::any::type_name;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use model::shuffle::{ReadRange, RowKind};
use rdd::chain::{Label, Lineage};
use rdd::codec::{BodyReader, BodyWriter, InputReader, InputWriter};
use rdd::compute::Task;
use rdd::stages::{FunctionOrigin, MapSide, ShuffleDependency, ShuffleWriter};
use rdd::wide::ShuffleSource;
use rdd::{Chain, Error, Rdd};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_arrow::schema::{SchemaLike, TracingOptions};
use sql::datafusion::arrow::array::RecordBatch;
use sql::datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use sql::datafusion::common::Result as QueryResult;
use sql::datafusion::dataframe::DataFrame;

use crate::Context;
use crate::queries::other;

/// Rows that become a batch at a time.
const BATCH_ROWS: usize = 4_096;

/// Datasets that can become DataFrames.
pub trait ToDataFrame {
    /// A DataFrame of the rows: a column for each field of their type; one column, `value`, for rows that have none. What
    /// may be missing is an `Option`.
    ///
    /// Computes the dataset now, and blocks until it is there. Its rows lie in the application's store (small ones in the
    /// driver) until the last DataFrame over them is dropped.
    ///
    /// # Errors
    /// The columns cannot be told from the type, or the job fails.
    ///
    /// # Examples
    /// ```
    /// use vonk::ToDataFrame;
    ///
    /// #[derive(Clone, serde::Serialize, serde::Deserialize)]
    /// struct Word { text: String, length: u64 }
    ///
    /// let ctx = vonk::Context::builder().master("local[2]").build()?;
    /// let words = ctx.parallelize(["to", "be", "or", "not"].map(str::to_owned));
    /// let words = words.map(|text| Word { length: text.len() as u64, text }).to_df(&ctx)?;
    /// ctx.session()?.register_table("words", words.into_view())?;
    /// let longest = ctx.block_on(async {
    ///     ctx.collect_as::<Word>(ctx.sql("SELECT * FROM words ORDER BY length DESC LIMIT 1").await?).await
    /// })??;
    /// assert_eq!(longest[0].text, "not");
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    fn to_df(&self, ctx: &Context) -> QueryResult<DataFrame>;
}

/// DataFrames that can become datasets.
pub trait ToRdd {
    /// A dataset of the rows: a field for each column of the same name; for a type without fields, of the only column.
    ///
    /// Computes the query now, into as many partitions as it has. The rows lie in the application's store (small ones in
    /// the driver) until the dataset and all that descend from it are dropped.
    ///
    /// # Errors
    /// The query fails. Whether columns are what the fields are is known when rows are read.
    ///
    /// # Examples
    /// ```
    /// use vonk::ToRdd;
    ///
    /// let ctx = vonk::Context::builder().master("local[2]").build()?;
    /// let numbers = ctx.block_on(async {
    ///     ctx.sql("SELECT value FROM range(1, 5)").await?.rdd::<i64>(&ctx).await
    /// })??;
    /// assert_eq!(numbers.map(|n| n * n).reduce(|a, b| a + b)?, Some(30));
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    fn rdd<T>(self, ctx: &Context) -> impl Future<Output = QueryResult<Rdd<T, FromBatches<T>>>> + Send
    where
        T: DeserializeOwned + 'static;
}

/// How a type's values are columns.
struct Columns {
    fields: Vec<FieldRef>,
    /// The type has no fields: its values are those of one column.
    single: bool,
}

/// A value as a row.
#[derive(Serialize, Deserialize)]
struct Single<T> {
    value: T,
}

fn columns<T: DeserializeOwned>() -> Result<Columns, serde_arrow::Error> {
    match Vec::<FieldRef>::from_type::<T>(TracingOptions::default()) {
        Ok(fields) => Ok(Columns { fields, single: false }),
        Err(error) => Vec::<FieldRef>::from_type::<Single<T>>(TracingOptions::default())
            .map(|fields| Columns { fields, single: true })
            .map_err(|_| error),
    }
}

impl<T, C> ToDataFrame for Rdd<T, C>
where
    T: Serialize + DeserializeOwned + 'static,
    C: Chain<Item = T>,
{
    #[track_caller]
    fn to_df(&self, ctx: &Context) -> QueryResult<DataFrame> {
        let columns = columns::<T>().map_err(other)?;
        let schema: SchemaRef = Arc::new(Schema::new(columns.fields.clone()));
        let session = ctx.session().map_err(other)?;
        if self.partitions() == 0 {
            return session.read_batch(RecordBatch::new_empty(schema));
        }
        let message = shuffle::schema_message(&schema)?;
        let write = IntoBatches { columns: Arc::new(columns), message, rows: PhantomData::<fn(T)> };
        let label = Label::here("to_df");
        let dependency = ShuffleDependency::new(self.context(), self.chain().clone(), write, self.partitions(), label);
        let sizes = dependency.run(self.context()).map_err(other)?;
        sql::read_shuffle(session, Arc::new(FunctionOrigin(dependency)), sizes, schema)
    }
}

/// Writes rows as batches. Partition `p` goes into partition `p`.
struct IntoBatches<T> {
    columns: Arc<Columns>,
    /// The schema, encoded. Only the driver wants it.
    message: bytes::Bytes,
    rows: PhantomData<fn(T)>,
}

impl<T> Clone for IntoBatches<T> {
    fn clone(&self) -> Self {
        Self { columns: Arc::clone(&self.columns), message: self.message.clone(), rows: PhantomData }
    }
}

impl<T: Serialize + DeserializeOwned + 'static> MapSide<T> for IntoBatches<T> {
    type Record = T;

    fn rows(&self) -> RowKind {
        RowKind::Arrow { schema: self.message.clone() }
    }

    fn encode(&self, _: &mut BodyWriter) -> Result<(), Error> {
        // Executors tell the columns from the type, as the driver does.
        Ok(())
    }

    fn decode(_: &mut BodyReader<'_>) -> Result<Self, Error> {
        let columns = Arc::new(columns::<T>().map_err(not_encoded::<T>)?);
        Ok(Self { columns, message: bytes::Bytes::new(), rows: PhantomData })
    }

    fn write<I: Iterator<Item = T>>(
        &self,
        task: &Task,
        partition: u32,
        rows: I,
        output: &mut ShuffleWriter,
    ) -> Result<(), Error> {
        let mut batch = Vec::with_capacity(BATCH_ROWS);
        let mut flush = |batch: &mut Vec<T>| {
            let written = self.columns.batch(batch).and_then(|rows| output.write_batch(partition, &rows));
            if let Err(error) = written {
                task.fail(error);
            }
            batch.clear();
        };
        for row in rows {
            batch.push(row);
            if batch.len() == BATCH_ROWS {
                flush(&mut batch);
                if task.ended() {
                    return Ok(());
                }
            }
        }
        if !batch.is_empty() {
            flush(&mut batch);
        }
        Ok(())
    }
}

impl Columns {
    fn batch<T: Serialize>(&self, rows: &[T]) -> Result<RecordBatch, Error> {
        let batch = if self.single {
            let rows: Vec<_> = rows.iter().map(|value| Single { value }).collect();
            serde_arrow::to_record_batch(&self.fields, &rows)
        } else {
            serde_arrow::to_record_batch(&self.fields, &rows)
        };
        batch.map_err(not_encoded::<T>)
    }
}

fn not_encoded<T>(source: serde_arrow::Error) -> Error {
    Error::Encode { type_name: type_name::<T>(), source: Box::new(source) }
}

impl ToRdd for DataFrame {
    async fn rdd<T>(self, ctx: &Context) -> QueryResult<Rdd<T, FromBatches<T>>>
    where
        T: DeserializeOwned + 'static,
    {
        let (origin, schema) = sql::shuffled(self).await?;
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let single = names.len() == 1 && columns::<T>().is_ok_and(|columns| columns.single);
        let names = if single { vec!["value".to_owned()] } else { names };
        let source = ShuffleSource::new(ShuffleDependency::of_query(origin, Label::remote("rdd of a query")));
        Ok(Rdd::new(ctx, FromBatches { source, names, single, rows: PhantomData }))
    }
}

/// Reads rows that a query has shuffled.
pub struct FromBatches<T> {
    source: ShuffleSource,
    /// What columns are called: executors may call them otherwise.
    names: Vec<String>,
    single: bool,
    rows: PhantomData<fn() -> T>,
}

impl<T> Clone for FromBatches<T> {
    fn clone(&self) -> Self {
        Self { source: self.source.clone(), names: self.names.clone(), single: self.single, rows: PhantomData }
    }
}

impl<T: DeserializeOwned + 'static> FromBatches<T> {
    fn rows(&self, batch: &RecordBatch) -> Result<Vec<T>, Error> {
        let wrong =
            |source: Box<dyn std::error::Error + Send + Sync>| Error::Decode { type_name: type_name::<T>(), source };
        let schema = batch.schema();
        let fields = schema.fields().iter().zip(&self.names);
        let fields: Vec<_> = fields.map(|(field, name)| field.as_ref().clone().with_name(name)).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec());
        let batch = batch.map_err(|error| wrong(error.into()))?;
        let rows = if self.single {
            let rows = serde_arrow::from_record_batch::<Vec<Single<T>>>(&batch);
            rows.map(|rows| rows.into_iter().map(|row| row.value).collect())
        } else {
            serde_arrow::from_record_batch(&batch)
        };
        rows.map_err(|error| wrong(error.into()))
    }
}

impl<T: DeserializeOwned + 'static> Chain for FromBatches<T> {
    type Item = T;

    fn partitions(&self) -> u32 {
        self.source.partitions()
    }

    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.source.encode(body)?;
        body.value(&(&self.names, self.single))
    }

    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error> {
        let source = ShuffleSource::decode(body)?;
        let (names, single) = body.value()?;
        Ok(Self { source, names, single, rows: PhantomData })
    }

    fn write_input(&self, _: u32, _: &mut InputWriter) -> Result<(), Error> {
        Ok(())
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.source.reads(partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        self.source.lineage(lineage);
    }

    fn compute<'a>(
        &'a self,
        task: &'a Task,
        partition: u32,
        _: &mut InputReader,
    ) -> Result<impl Iterator<Item = T> + use<'a, T>, Error> {
        let batches = self.source.batches(task, partition)?;
        Ok(batches.flat_map(move |batch| {
            self.rows(&batch).unwrap_or_else(|error| {
                task.fail(error);
                Vec::new()
            })
        }))
    }
}
