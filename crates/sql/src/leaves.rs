//! What does one task bring for the leaves of its fragment?
//!
//! A fragment is sent to an executor once and its plan is shared by all tasks, so a leaf of it knows only its number. Which
//! files, which range of a shuffle, or which rows that means is the task's own input: it never sees those of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use bytes::Bytes;
use datafusion::common::{Result, internal_err};
use datafusion::datasource::physical_plan::FileGroup;
use datafusion_proto::protobuf;
use model::shuffle::{ReadPlan, ReadRange, ReadReport, ShuffleSpec};
use prost::Message;
use shuffle::{Reader, ShuffleRuntime};

use crate::error::Error;
use crate::rows;

/// What a leaf gives in one task.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// A range of a shuffle.
    Range(ReadRange),
    /// Files, or parts of them.
    Files(FileGroup),
    /// Rows that came with the task.
    Rows(Vec<RecordBatch>),
}

/// A task's input, encoded.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TaskInput {
    /// Which partition of the fragment's plan the task computes.
    #[prost(uint32, tag = "1")]
    pub(crate) partition: u32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) leaves: Vec<LeafInput>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeafInput {
    #[prost(uint32, tag = "1")]
    pub(crate) leaf: u32,
    #[prost(message, optional, tag = "2")]
    range: Option<RangeInput>,
    #[prost(message, optional, tag = "3")]
    files: Option<protobuf::FileGroup>,
    /// An Arrow IPC stream.
    #[prost(bytes = "bytes", optional, tag = "4")]
    rows: Option<Bytes>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct RangeInput {
    #[prost(uint32, tag = "1")]
    shuffle: u32,
    #[prost(uint32, tag = "2")]
    start: u32,
    #[prost(uint32, tag = "3")]
    end: u32,
}

impl LeafInput {
    pub(crate) fn encode(leaf: u32, input: &Input) -> Result<Self, Error> {
        let mut encoded = Self { leaf, ..Self::default() };
        match input {
            Input::Range(range) => {
                encoded.range = Some(RangeInput { shuffle: range.shuffle.0, start: range.start, end: range.end });
            }
            Input::Files(files) => encoded.files = Some(files.try_into().map_err(Error::encode)?),
            Input::Rows(batches) => encoded.rows = Some(rows::encode(batches).map_err(Error::encode)?),
        }
        Ok(encoded)
    }

    fn decode(self) -> Result<Option<Input>, Error> {
        if let Some(range) = self.range {
            let shuffle = model::ids::ShuffleId(range.shuffle);
            return Ok(Some(Input::Range(ReadRange { shuffle, start: range.start, end: range.end })));
        }
        if let Some(files) = &self.files {
            return Ok(Some(Input::Files(files.try_into().map_err(Error::decode)?)));
        }
        if let Some(bytes) = self.rows {
            return Ok(Some(Input::Rows(rows::decode(bytes).map_err(Error::decode)?)));
        }
        Ok(None)
    }
}

/// What the leaves of a fragment give in one task. Travels with the task's `TaskContext`.
#[derive(Debug)]
pub(crate) struct Leaves {
    inputs: HashMap<u32, Input>,
    plans: Vec<ReadPlan>,
    specs: Vec<Arc<ShuffleSpec>>,
    shuffle: Runtime,
    reports: Mutex<Vec<ReadReport>>,
}

/// A shuffle runtime, without a debug format of its own.
struct Runtime(ShuffleRuntime);

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShuffleRuntime")
    }
}

impl Leaves {
    /// Decodes a task's input: which partition of the plan it computes, and what its leaves give.
    pub(crate) fn decode(
        input: Bytes,
        plans: Vec<ReadPlan>,
        specs: Vec<Arc<ShuffleSpec>>,
        shuffle: ShuffleRuntime,
    ) -> Result<(usize, Self), Error> {
        let input = TaskInput::decode(input).map_err(Error::decode)?;
        let mut inputs = HashMap::with_capacity(input.leaves.len());
        for leaf in input.leaves {
            let number = leaf.leaf;
            if let Some(input) = leaf.decode()? {
                inputs.insert(number, input);
            }
        }
        let leaves = Self { inputs, plans, specs, shuffle: Runtime(shuffle), reports: Mutex::default() };
        Ok((input.partition as usize, leaves))
    }

    pub(crate) fn input(&self, leaf: u32) -> Option<&Input> {
        self.inputs.get(&leaf)
    }

    /// Opens a range of a shuffle.
    pub(crate) fn open(&self, range: ReadRange) -> Result<Option<Reader>> {
        let plan = self.plans.iter().find(|plan| plan.range == range);
        let spec = self.specs.iter().find(|spec| spec.shuffle == range.shuffle);
        let (Some(plan), Some(spec)) = (plan, spec) else {
            return internal_err!(
                "the task was not told where partitions {}..{} of {} are",
                range.start,
                range.end,
                range.shuffle
            );
        };
        Ok(Some(self.shuffle.0.read(spec, plan.clone())))
    }

    pub(crate) fn report(&self, report: ReadReport) {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
    }

    /// What was read so far; each report once.
    pub(crate) fn take_reports(&self) -> Vec<ReadReport> {
        std::mem::take(&mut *self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
