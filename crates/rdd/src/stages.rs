//! Where is lineage cut?
//!
//! At every shuffle. A [`ShuffleDependency`] is the stage that writes one, as its readers hold it: the chain before it with
//! its type forgotten. [`cut`] walks from the chain of an action through all of them and makes the stages of a job.

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use bytes::Bytes;
use model::graph::{Body, BodyKind, Inputs, Origin, Output, Ranges, Stage, StageRead, StageShape};
use model::shuffle::{PartitionSize, ReadRange, RowKind};
use model::{Failure, JobRunner, PartitionId, RddId, ShuffleId};
use serde::Serialize;
use shuffle::Member;

use crate::chain::{Chain, Label, Lineage};
use crate::codec::{self, BodyReader, BodyWriter, Data, InputReader, InputWriter};
use crate::compute::{StageOutput, Task};
use crate::context::RddContext;
use crate::error::Error;
use crate::function::{Named, reference};
use crate::shared;

/// A decoded stage: computes any of its partitions.
pub(crate) trait RunStage: Send + Sync {
    fn run(&self, task: &Task, input: &mut InputReader) -> Result<StageOutput, Error>;
}

/// What the entry of a stage in the task table gives: how its body is decoded.
pub(crate) type DecodeStage = fn(&mut BodyReader<'_>) -> Result<Box<dyn RunStage>, Error>;

/// What an action computes of each partition, in the executor that computes its rows.
pub trait Action<T>: Clone + Send + Sync + 'static {
    /// What goes to the driver for each partition.
    type Output: Data;

    /// Writes its functions.
    ///
    /// # Errors
    /// When a captured variable cannot be encoded.
    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error>;

    /// Reads its functions.
    ///
    /// # Errors
    /// When the body is damaged or of another executable.
    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error>;

    /// Uses the rows of a partition. Prefer `for_each` and `fold` to `next`: they run as one loop.
    ///
    /// # Errors
    /// Whatever ends the task.
    fn run<I: Iterator<Item = T>>(&self, task: &Task, partition: u32, rows: I) -> Result<Self::Output, Error>;
}

/// How a stage's rows go into a shuffle.
pub trait MapSide<T>: Clone + Send + Sync + 'static {
    /// One record of the shuffle, for error messages.
    type Record;

    /// What the shuffle holds.
    fn rows(&self) -> RowKind {
        RowKind::Records { type_name: type_name::<Self::Record>().to_owned() }
    }

    /// Writes its functions.
    ///
    /// # Errors
    /// When a captured variable cannot be encoded.
    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error>;

    /// Reads its functions.
    ///
    /// # Errors
    /// When the body is damaged or of another executable.
    fn decode(body: &mut BodyReader<'_>) -> Result<Self, Error>;

    /// Writes the rows of a partition.
    ///
    /// # Errors
    /// Whatever ends the task.
    fn write<I: Iterator<Item = T>>(
        &self,
        task: &Task,
        partition: u32,
        rows: I,
        output: &mut ShuffleWriter,
    ) -> Result<(), Error>;
}

/// A map task's way into its shuffle.
pub struct ShuffleWriter {
    member: Member,
    partitions: u32,
    scratch: Vec<u8>,
    rows: u64,
}

impl ShuffleWriter {
    fn new(task: &Task) -> Result<Self, Error> {
        let Some(spec) = &task.env.writes else { return Err(Error::CorruptBody("a map stage without a shuffle")) };
        let member = task.env.shuffle.member(spec, task.env.attempt, task.env.stage_has_pending);
        Ok(Self { member, partitions: spec.partitions, scratch: Vec::new(), rows: 0 })
    }

    /// Into how many partitions rows are split.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Writes one record.
    ///
    /// # Errors
    /// When it cannot be encoded or stored.
    #[inline]
    pub fn write<R: Serialize + ?Sized>(&mut self, partition: u32, record: &R) -> Result<(), Error> {
        self.scratch.clear();
        codec::encode_into(record, &mut self.scratch)?;
        self.rows += 1;
        Ok(self.member.write_record(partition, &self.scratch)?)
    }

    /// Writes one record that is encoded already.
    ///
    /// # Errors
    /// When it cannot be stored.
    #[inline]
    pub fn write_encoded(&mut self, partition: u32, record: &[u8]) -> Result<(), Error> {
        self.rows += 1;
        Ok(self.member.write_record(partition, record)?)
    }

    /// Writes rows as Arrow has them, all into one partition, to a shuffle whose rows are of their schema.
    ///
    /// # Errors
    /// When they cannot be stored.
    pub fn write_batch(&mut self, partition: u32, batch: &RecordBatch) -> Result<(), Error> {
        self.rows += batch.num_rows() as u64;
        Ok(self.member.write_batch(batch, &vec![partition; batch.num_rows()])?)
    }
}

struct ResultStage<C, A> {
    chain: C,
    action: A,
}

impl<C: Chain, A: Action<C::Item>> RunStage for ResultStage<C, A> {
    fn run(&self, task: &Task, input: &mut InputReader) -> Result<StageOutput, Error> {
        let partition = task.partition().0;
        let rows = self.chain.compute(task, partition, input)?;
        let output = self.action.run(task, partition, rows)?;
        task.check()?;
        Ok(StageOutput { result: Some(codec::encode(&output)?.into()), written: None })
    }
}

impl<C: Chain, A: Action<C::Item>> Named for ResultStage<C, A> {
    type Value = DecodeStage;

    fn value() -> DecodeStage {
        |body| Ok(Box::new(Self { chain: C::decode(body)?, action: A::decode(body)? }))
    }
}

struct MapStage<C, W> {
    chain: C,
    write: W,
}

impl<C: Chain, W: MapSide<C::Item>> RunStage for MapStage<C, W> {
    fn run(&self, task: &Task, input: &mut InputReader) -> Result<StageOutput, Error> {
        let partition = task.partition().0;
        let rows = self.chain.compute(task, partition, input)?;
        let mut output = ShuffleWriter::new(task)?;
        self.write.write(task, partition, rows, &mut output)?;
        // Looked for before the output is sealed: dropping the member takes everything back.
        task.check()?;
        task.count(|m| m.shuffle_write_rows += output.rows);
        Ok(StageOutput { result: None, written: Some(output.member.finish()?) })
    }
}

impl<C: Chain, W: MapSide<C::Item>> Named for MapStage<C, W> {
    type Value = DecodeStage;

    fn value() -> DecodeStage {
        |body| Ok(Box::new(Self { chain: C::decode(body)?, write: W::decode(body)? }))
    }
}

/// A stage before it has an id: its chain with the type forgotten.
trait Cuttable: Send + Sync {
    fn partitions(&self) -> u32;
    fn body(&self) -> Result<Bytes, Error>;
    fn input(&self, partition: u32) -> Result<Bytes, Error>;
    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>);
    fn lineage(&self, lineage: &mut Lineage);
}

struct Cut<C, E, N> {
    chain: C,
    end: E,
    stage: PhantomData<fn() -> N>,
}

/// The end of a stage, whichever it is.
trait End: Send + Sync + 'static {
    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error>;
}

struct ActionEnd<T, A>(A, PhantomData<fn() -> T>);

impl<T: 'static, A: Action<T>> End for ActionEnd<T, A> {
    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.0.encode(body)
    }
}

struct MapEnd<T, W>(W, PhantomData<fn() -> T>);

impl<T: 'static, W: MapSide<T>> End for MapEnd<T, W> {
    fn encode(&self, body: &mut BodyWriter) -> Result<(), Error> {
        self.0.encode(body)
    }
}

impl<C: Chain, E: End, N: Named<Value = DecodeStage>> Cuttable for Cut<C, E, N> {
    fn partitions(&self) -> u32 {
        self.chain.partitions()
    }

    fn body(&self) -> Result<Bytes, Error> {
        shared::with_attached(|body| {
            body.value(&reference::<N>())?;
            self.chain.encode(body)?;
            self.end.encode(body)
        })
    }

    fn input(&self, partition: u32) -> Result<Bytes, Error> {
        let mut input = InputWriter::default();
        self.chain.write_input(partition, &mut input)?;
        Ok(input.finish())
    }

    fn reads(&self, partition: u32, ranges: &mut Vec<ReadRange>) {
        self.chain.reads(partition, ranges);
    }

    fn lineage(&self, lineage: &mut Lineage) {
        self.chain.lineage(lineage);
    }
}

/// A shuffle, as those hold it that read it. When the last of them is gone, no lineage can ask for it, and its objects go.
pub struct ShuffleDependency {
    shuffle: ShuffleId,
    partitions: u32,
    label: Label,
    made: Made,
}

/// What makes a shuffle.
enum Made {
    /// A stage of functions.
    Here(Written),
    /// Stages of a query.
    Elsewhere(Arc<dyn Origin>),
}

/// The stage of functions that writes a shuffle, which goes when this does.
struct Written {
    shuffle: ShuffleId,
    rows: RowKind,
    stage: Arc<dyn Cuttable>,
    body: OnceLock<Bytes>,
    runner: Arc<dyn JobRunner>,
}

impl ShuffleDependency {
    /// A shuffle of a chain's rows into so many partitions.
    pub fn new<C: Chain, W: MapSide<C::Item>>(
        context: &RddContext,
        chain: C,
        write: W,
        partitions: u32,
        label: Label,
    ) -> Arc<Self> {
        let (shuffle, rows) = (context.runner().ids().shuffle(), write.rows());
        let end = MapEnd(write, PhantomData::<fn() -> C::Item>);
        let stage = Arc::new(Cut { chain, end, stage: PhantomData::<fn() -> MapStage<C, W>> });
        let runner = Arc::clone(context.runner());
        let made = Made::Here(Written { shuffle, rows, stage, body: OnceLock::new(), runner });
        Arc::new(Self { shuffle, partitions, label, made })
    }

    /// A shuffle that stages of a query have written.
    #[must_use]
    pub fn of_query(origin: Arc<dyn Origin>, label: Label) -> Arc<Self> {
        let (shuffle, partitions) = (origin.shuffle(), origin.partitions());
        Arc::new(Self { shuffle, partitions, label, made: Made::Elsewhere(origin) })
    }

    /// The shuffle.
    #[must_use]
    pub fn shuffle(&self) -> ShuffleId {
        self.shuffle
    }

    /// Into how many partitions it splits.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    pub(crate) fn describe(&self, lineage: &mut Lineage) {
        match &self.made {
            Made::Here(written) => {
                lineage.operation(self.label, written.stage.partitions());
                written.stage.lineage(lineage);
            }
            Made::Elsewhere(_) => lineage.operation(self.label, self.partitions),
        }
    }

    /// The shuffles that the stage of this one reads.
    fn parents(&self) -> Vec<Arc<Self>> {
        match &self.made {
            Made::Here(written) => ancestors(&*written.stage).0,
            Made::Elsewhere(_) => Vec::new(),
        }
    }

    /// Runs the stages that write it, as far as they have not run. Blocks.
    ///
    /// # Errors
    /// The job does not succeed.
    pub fn run(self: &Arc<Self>, context: &RddContext) -> Result<Vec<PartitionSize>, Error> {
        let mut stages = Vec::new();
        add_stages(vec![Arc::clone(self)], &**context.runner(), &mut BTreeSet::new(), &mut stages)?;
        let maps = stages.last().map_or(0, |stage| stage.shape.partitions);
        context.shuffle(context.job(self.label, stages, (0..maps).map(PartitionId).collect()))
    }
}

/// A shuffle of functions, to a query that reads it.
pub struct FunctionOrigin(pub Arc<ShuffleDependency>);

impl Origin for FunctionOrigin {
    fn shuffle(&self) -> ShuffleId {
        self.0.shuffle
    }

    fn partitions(&self) -> u32 {
        self.0.partitions
    }

    fn stages(
        &self,
        runner: &dyn JobRunner,
        seen: &mut BTreeSet<ShuffleId>,
        stages: &mut Vec<Stage>,
    ) -> Result<(), Failure> {
        add_stages(vec![Arc::clone(&self.0)], runner, seen, stages).map_err(Error::into_failure)
    }
}

impl Written {
    /// Encoded once: every job whose lineage has the shuffle brings it again.
    fn body(&self) -> Result<Bytes, Error> {
        if let Some(body) = self.body.get() {
            return Ok(body.clone());
        }
        let body = self.stage.body()?;
        Ok(self.body.get_or_init(|| body).clone())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.runner.release_shuffle(self.shuffle);
    }
}

/// Inputs of a stage. Holds what the stage descends from, so that no shuffle is released while a job needs it.
struct StageInputs {
    stage: Arc<dyn Cuttable>,
    _dependencies: Vec<Arc<ShuffleDependency>>,
}

impl Inputs for StageInputs {
    fn input(&self, partition: PartitionId) -> Bytes {
        self.stage.input(partition.0).unwrap_or_else(|error| {
            // The task then fails to decode its input, which is never empty where something is read from it.
            tracing::error!(%partition, error = &error as &dyn std::error::Error, "encode the input of a task");
            Bytes::new()
        })
    }
}

/// The stages of a job that ends with an action, ancestors first.
pub(crate) fn cut<C: Chain, A: Action<C::Item>>(
    context: &RddContext,
    chain: C,
    action: A,
    label: Label,
    output: Output,
) -> Result<Vec<Stage>, Error> {
    let end = ActionEnd(action, PhantomData::<fn() -> C::Item>);
    let last: Arc<dyn Cuttable> = Arc::new(Cut { chain, end, stage: PhantomData::<fn() -> ResultStage<C, A>> });
    let (dependencies, cached) = ancestors(&*last);

    let (mut stages, mut seen) = (Vec::new(), BTreeSet::new());
    let runner = &**context.runner();
    add_stages(dependencies.clone(), runner, &mut seen, &mut stages)?;
    let body = last.body()?;
    stages.push(stage(runner, &last, body, label, output, None, dependencies, cached));
    Ok(stages)
}

/// Adds the stages of these shuffles and of all that they descend from, ancestors first, but for those seen before.
fn add_stages(
    roots: Vec<Arc<ShuffleDependency>>,
    runner: &dyn JobRunner,
    seen: &mut BTreeSet<ShuffleId>,
    stages: &mut Vec<Stage>,
) -> Result<(), Error> {
    for dependency in in_order(roots) {
        match &dependency.made {
            Made::Elsewhere(origin) => origin.stages(runner, seen, stages)?,
            Made::Here(written) if seen.insert(dependency.shuffle) => {
                let (dependencies, cached) = ancestors(&*written.stage);
                stages.push(stage(
                    runner,
                    &written.stage,
                    written.body()?,
                    dependency.label,
                    Output::Shuffle { shuffle: dependency.shuffle, partitions: dependency.partitions },
                    Some(written.rows.clone()),
                    [dependencies, vec![Arc::clone(&dependency)]].concat(),
                    cached,
                ));
            }
            Made::Here(_) => {}
        }
    }
    Ok(())
}

/// Every shuffle that a stage reads, once, and the persisted datasets that it uses.
fn ancestors(stage: &dyn Cuttable) -> (Vec<Arc<ShuffleDependency>>, Vec<RddId>) {
    let mut lineage = Lineage::default();
    stage.lineage(&mut lineage);
    let mut seen = BTreeSet::new();
    lineage.dependencies.retain(|dependency| seen.insert(dependency.shuffle));
    (lineage.dependencies, lineage.cached)
}

/// All shuffles that these descend from and these themselves: a shuffle comes after those that its stage reads.
fn in_order(roots: Vec<Arc<ShuffleDependency>>) -> Vec<Arc<ShuffleDependency>> {
    // An explicit stack: an iterative program may have thousands of shuffles in a row.
    let mut order = Vec::new();
    let mut done: HashMap<ShuffleId, bool> = HashMap::new();
    let mut stack: Vec<_> = roots.into_iter().rev().map(|root| (root, false)).collect();
    while let Some((dependency, expanded)) = stack.pop() {
        if expanded {
            done.insert(dependency.shuffle, true);
            order.push(dependency);
        } else if let std::collections::hash_map::Entry::Vacant(new) = done.entry(dependency.shuffle) {
            new.insert(false);
            let parents = dependency.parents();
            stack.push((dependency, true));
            stack.extend(parents.into_iter().rev().map(|parent| (parent, false)));
        }
    }
    order
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call for each of the two kinds of stage; a struct would only rename them"
)]
fn stage(
    runner: &dyn JobRunner,
    stage: &Arc<dyn Cuttable>,
    body: Bytes,
    label: Label,
    output: Output,
    rows: Option<RowKind>,
    dependencies: Vec<Arc<ShuffleDependency>>,
    cached: Vec<RddId>,
) -> Stage {
    let partitions = stage.partitions();
    Stage {
        name: label.to_string(),
        shape: StageShape {
            id: runner.ids().stage(),
            partitions,
            reads: reads(&**stage, partitions, &dependencies),
            output,
            cached,
        },
        rows,
        body: Body { kind: BodyKind::Function, bytes: body },
        inputs: Arc::new(StageInputs { stage: Arc::clone(stage), _dependencies: dependencies }),
    }
}

/// What each partition reads, by shuffle; a range that is read at two places is planned once.
fn reads(stage: &dyn Cuttable, partitions: u32, dependencies: &[Arc<ShuffleDependency>]) -> Vec<StageRead> {
    if dependencies.is_empty() {
        return Vec::new();
    }
    let mut lists: BTreeMap<ShuffleId, Vec<Vec<(u32, u32)>>> = BTreeMap::new();
    let mut ranges = Vec::new();
    for partition in 0..partitions {
        ranges.clear();
        stage.reads(partition, &mut ranges);
        for range in &ranges {
            let lists = lists.entry(range.shuffle).or_insert_with(|| vec![Vec::new(); partitions as usize]);
            let list = &mut lists[partition as usize];
            if !list.contains(&(range.start, range.end)) {
                list.push((range.start, range.end));
            }
        }
    }
    let same = |lists: &[Vec<(u32, u32)>]| (0..partitions).zip(lists).all(|(p, list)| list[..] == [(p, p + 1)]);
    lists
        .into_iter()
        .map(|(shuffle, lists)| StageRead {
            shuffle,
            ranges: if same(&lists) { Ranges::Same } else { Ranges::Listed(lists.into()) },
        })
        .collect()
}
