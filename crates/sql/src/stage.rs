//! How does a fragment of a plan become a stage of a job?
//!
//! The fragment's leaves are taken out of it: what they read is divided among the tasks. What remains is encoded once. A stage
//! remembers the shuffles it reads, and those their own stages, so that each job brings everything its result descends from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::config::SessionConfig;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning};
use model::graph::{Body, BodyKind, Inputs, Job, Origin, Output, Ranges, Stage, StageRead, StageShape};
use model::ids::{PartitionId, ShuffleId};
use model::shuffle::{PartitionSize, ReadRange, RowKind};
use model::{Failure, JobRunner};
use prost::Message;

use crate::error::Error;
use crate::fragment;
use crate::functions::Carrier;
use crate::hint;
use crate::leaves::{Input, LeafInput, TaskInput};
use crate::read::{EqualColumns, ShuffleReadExec, downcast};
use crate::route::Route;
use crate::scan::{self, ScanExec};

/// A shuffle that has run. When nothing reads it any more, its objects go.
pub(crate) struct Shuffle {
    sizes: Vec<PartitionSize>,
    made: Made,
}

/// What can make a shuffle again.
enum Made {
    /// A stage of a query.
    Here { id: Released, stage: StageTemplate },
    /// Stages of functions.
    Elsewhere(Arc<dyn Origin>),
}

/// The id of a shuffle, released when it is dropped: the query has ended, however it did.
pub(crate) struct Released {
    id: ShuffleId,
    runner: Arc<dyn JobRunner>,
}

impl Released {
    /// A new shuffle.
    pub(crate) fn new(runner: &Arc<dyn JobRunner>) -> Self {
        Self { id: runner.ids().shuffle(), runner: Arc::clone(runner) }
    }

    pub(crate) fn id(&self) -> ShuffleId {
        self.id
    }
}

impl Drop for Released {
    fn drop(&mut self) {
        self.runner.release_shuffle(self.id);
    }
}

impl Shuffle {
    pub(crate) fn new(id: Released, sizes: Vec<PartitionSize>, stage: StageTemplate) -> Self {
        Self { sizes, made: Made::Here { id, stage } }
    }

    /// One that functions have written, as rows of Arrow.
    pub(crate) fn of_functions(origin: Arc<dyn Origin>, sizes: Vec<PartitionSize>) -> Self {
        Self { sizes, made: Made::Elsewhere(origin) }
    }

    pub(crate) fn id(&self) -> ShuffleId {
        match &self.made {
            Made::Here { id, .. } => id.id,
            Made::Elsewhere(origin) => origin.shuffle(),
        }
    }

    pub(crate) fn partitions(&self) -> u32 {
        u32::try_from(self.sizes.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn sizes(&self) -> &[PartitionSize] {
        &self.sizes
    }
}

impl Origin for Shuffle {
    fn shuffle(&self) -> ShuffleId {
        self.id()
    }

    fn partitions(&self) -> u32 {
        Self::partitions(self)
    }

    fn stages(
        &self,
        runner: &dyn JobRunner,
        seen: &mut BTreeSet<ShuffleId>,
        stages: &mut Vec<Stage>,
    ) -> Result<(), Failure> {
        match &self.made {
            Made::Elsewhere(origin) => origin.stages(runner, seen, stages),
            Made::Here { id, stage } if seen.insert(id.id) => {
                stage.ancestors(runner, seen, stages)?;
                stages.push(stage.stage(runner, Output::Shuffle { shuffle: id.id, partitions: self.partitions() }));
                Ok(())
            }
            Made::Here { .. } => Ok(()),
        }
    }
}

impl fmt::Debug for Shuffle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shuffle").field("id", &self.id()).field("sizes", &self.sizes).finish_non_exhaustive()
    }
}

/// What a stage reads of one shuffle: a range for each of its partitions that reads any.
#[derive(Clone)]
struct Read {
    shuffle: Arc<Shuffle>,
    ranges: Vec<Vec<(u32, u32)>>,
}

/// A stage without the ids that each job gives anew.
#[derive(Clone)]
pub(crate) struct StageTemplate {
    name: String,
    tasks: u32,
    reads: Vec<Read>,
    /// What the rows are, if they go into a shuffle.
    rows: Option<RowKind>,
    body: Bytes,
    inputs: Arc<TaskInputs>,
}

/// What the tasks of a stage bring, each for its leaves.
struct TaskInputs {
    leaves: Vec<Arc<dyn ExecutionPlan>>,
    route: Route,
}

impl TaskInputs {
    /// What the leaves of one partition are given; and which partition of the executor's plan it is.
    fn of(&self, partition: usize) -> (usize, Vec<(u32, Input)>) {
        let mut wanted = Vec::new();
        let at = self.route.follow(partition, &mut wanted);
        let inputs = wanted.into_iter().filter_map(|(leaf, partition)| {
            let plan = self.leaves.get(leaf as usize)?;
            let input = match downcast::<ShuffleReadExec>(plan) {
                Some(read) => {
                    let (shuffle, ranges) = read.shuffle()?;
                    let &(start, end) = ranges.get(partition)?;
                    Input::Range(ReadRange { shuffle: shuffle.id(), start, end })
                }
                None => scan::input(&scan::content(plan)?, partition)?,
            };
            Some((leaf, input))
        });
        (at, inputs.collect())
    }
}

impl Inputs for TaskInputs {
    fn input(&self, partition: PartitionId) -> Bytes {
        let (at, inputs) = self.of(partition.0 as usize);
        let leaves = inputs.iter().map(|(leaf, input)| LeafInput::encode(*leaf, input)).collect::<Result<_, _>>();
        match leaves {
            Ok(leaves) => {
                let partition = u32::try_from(at).unwrap_or(u32::MAX);
                TaskInput { partition, leaves }.encode_to_vec().into()
            }
            Err(error) => {
                // The task then fails to find what its leaves are to read.
                tracing::error!(%partition, error = &error as &dyn std::error::Error, "encode the input of a task");
                Bytes::from_static(&[0xff])
            }
        }
    }
}

/// Where a fragment's rows go.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// Into a shuffle, divided so.
    Shuffle(Partitioning),
    /// To the driver.
    Result,
    /// Into files, by the sink of a plan.
    Write { sink: Arc<dyn ExecutionPlan>, destination: fragment::Destination },
}

impl StageTemplate {
    /// Makes a stage of a plan in which every exchange has run.
    pub(crate) fn new(
        name: String,
        plan: &Arc<dyn ExecutionPlan>,
        end: &End,
        config: &SessionConfig,
        carrier: &Arc<dyn Carrier>,
    ) -> Result<Self, Error> {
        let plan = &hint::without(Arc::clone(plan)).map_err(Error::encode)?;
        let mut next = 0;
        let route = Route::of(plan, &mut next)?;
        let tasks = plan.output_partitioning().partition_count();

        let mut leaves = Vec::new();
        let stripped = strip(plan, &mut leaves)?;
        let body = fragment::encode(&stripped, end, config, carrier)?;
        let inputs = TaskInputs { leaves, route };

        let mut reads: BTreeMap<ShuffleId, Read> = BTreeMap::new();
        for task in 0..tasks {
            for (leaf, input) in inputs.of(task).1 {
                let Input::Range(range) = input else { continue };
                let Some((shuffle, _)) =
                    downcast::<ShuffleReadExec>(&inputs.leaves[leaf as usize]).and_then(|r| r.shuffle())
                else {
                    continue;
                };
                let read = reads
                    .entry(range.shuffle)
                    .or_insert_with(|| Read { shuffle: Arc::clone(shuffle), ranges: vec![Vec::new(); tasks] });
                if !read.ranges[task].contains(&(range.start, range.end)) {
                    read.ranges[task].push((range.start, range.end));
                }
            }
        }
        let rows = match end {
            End::Shuffle(_) => {
                Some(RowKind::Arrow { schema: shuffle::schema_message(&plan.schema()).map_err(Error::encode)? })
            }
            End::Result | End::Write { .. } => None,
        };
        let tasks = u32::try_from(tasks).unwrap_or(u32::MAX);
        Ok(Self { name, tasks, reads: reads.into_values().collect(), rows, body, inputs: Arc::new(inputs) })
    }

    pub(crate) fn tasks(&self) -> u32 {
        self.tasks
    }

    fn stage(&self, runner: &dyn JobRunner, output: Output) -> Stage {
        let reads = self
            .reads
            .iter()
            .map(|read| StageRead { shuffle: read.shuffle.id(), ranges: Ranges::Listed(read.ranges.clone().into()) });
        let shape = StageShape {
            id: runner.ids().stage(),
            partitions: self.tasks,
            reads: reads.collect(),
            output,
            cached: Vec::new(),
        };
        Stage {
            name: self.name.clone(),
            shape,
            rows: self.rows.clone(),
            body: Body { kind: BodyKind::Plan, bytes: self.body.clone() },
            inputs: Arc::clone(&self.inputs) as Arc<dyn Inputs>,
        }
    }

    /// A job that ends with this stage.
    ///
    /// # Errors
    /// A stage of functions before it cannot be encoded.
    pub(crate) fn job(&self, runner: &dyn JobRunner, name: String, output: Output) -> Result<Job, Error> {
        let mut stages = Vec::new();
        self.ancestors(runner, &mut BTreeSet::new(), &mut stages).map_err(Error::encode)?;
        stages.push(self.stage(runner, output));
        let wanted = (0..self.tasks).map(PartitionId).collect();
        Ok(Job { id: runner.ids().job(), name, group: None, stages, wanted })
    }

    /// Stages that have run, ancestors first: what they made can be made again if it is lost.
    fn ancestors(
        &self,
        runner: &dyn JobRunner,
        seen: &mut BTreeSet<ShuffleId>,
        stages: &mut Vec<Stage>,
    ) -> Result<(), Failure> {
        self.reads.iter().try_for_each(|read| read.shuffle.stages(runner, seen, stages))
    }
}

/// Takes the leaves out of a plan, from left to right, and leaves their numbers.
fn strip(
    plan: &Arc<dyn ExecutionPlan>,
    leaves: &mut Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>, Error> {
    let stripped = Arc::clone(plan).transform_down(|node| {
        if !node.children().is_empty() {
            return Ok(Transformed::no(node));
        }
        let leaf = u32::try_from(leaves.len()).unwrap_or(u32::MAX);
        leaves.push(Arc::clone(&node));
        if let Some((shuffle, _)) = downcast::<ShuffleReadExec>(&node).and_then(ShuffleReadExec::shuffle) {
            let read = ShuffleReadExec::leaf(leaf, shuffle.id(), node.schema(), &EqualColumns::of(&node))?;
            return Ok(Transformed::yes(Arc::new(read) as Arc<dyn ExecutionPlan>));
        }
        if downcast::<EmptyExec>(&node).is_some() {
            // One partition, as every leaf has in an executor.
            return Ok(Transformed::yes(Arc::new(EmptyExec::new(node.schema())) as Arc<dyn ExecutionPlan>));
        }
        let Some(content) = scan::content(&node) else { return Ok(Transformed::no(node)) };
        let source = scan::with_content(&content, None)?;
        // Looked at once only: the scan's own source must not become a leaf in turn.
        let scan = Arc::new(ScanExec::new(leaf, source)) as Arc<dyn ExecutionPlan>;
        Ok(Transformed::new(scan, true, datafusion::common::tree_node::TreeNodeRecursion::Jump))
    });
    debug_assert!(leaves.iter().all(|leaf| leaf.children().is_empty()));
    Ok(stripped.map_err(Error::encode)?.data)
}
