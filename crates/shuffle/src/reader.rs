//! How is a range of partitions read, and what is blamed if some is missing?

use std::pin::Pin;
use std::task::{Context, Poll};

use arrow::record_batch::RecordBatch;
use futures::Stream;
use model::ids::ShuffleId;
use model::shuffle::ReadReport;

use crate::Error;

/// The rows of a range of partitions: a stream, or blocking from a compute thread.
pub struct Reader {}

impl Reader {
    /// The next block, or none when every promised row has come. Blocks: never call it on a runtime's thread.
    ///
    /// # Errors
    /// Rows are missing or damaged, or the store failed.
    pub fn next_block(&mut self) -> Result<Option<Block>, Error> {
        Err(Error::Ended { shuffle: ShuffleId(0), what: "skeleton" })
    }

    /// What was read, for the task's status: complete after the end.
    #[must_use]
    pub fn report(&self) -> ReadReport {
        unimplemented!()
    }
}

impl Stream for Reader {
    type Item = Result<Block, Error>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(None)
    }
}

/// Rows of one partition, checked.
#[derive(Debug, Clone)]
pub struct Block {}

impl Block {
    /// The partition.
    #[must_use]
    pub fn partition(&self) -> u32 {
        0
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        0
    }

    /// The records, in the order they were written; none for Arrow rows.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records { rest: &[] }
    }

    /// The rows as a batch.
    ///
    /// # Panics
    /// If the shuffle holds records.
    #[must_use]
    pub fn batch(&self) -> RecordBatch {
        unimplemented!()
    }
}

/// The records of a block, each a slice of it.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let _ = self.rest;
        None
    }
}
