//! How is a map task's output published, all or none?

use arrow::record_batch::RecordBatch;
use model::ids::ShuffleId;
use model::shuffle::MapOutput;

use crate::Error;

/// The output of one running map task. Used from its compute thread, which it may block; dropping it aborts.
pub struct Member {}

const NOT_YET: Error = Error::Ended { shuffle: ShuffleId(0), what: "skeleton" };

impl Member {
    /// Adds a record.
    ///
    /// # Errors
    /// The record is too large, or earlier rows could not be stored.
    pub fn write_record(&mut self, partition: u32, record: &[u8]) -> Result<(), Error> {
        let _ = (partition, record);
        Err(NOT_YET)
    }

    /// Adds the rows of a batch, each to its partition.
    ///
    /// # Errors
    /// A row is too large, or earlier rows could not be stored.
    pub fn write_batch(&mut self, batch: &RecordBatch, partitions: &[u32]) -> Result<(), Error> {
        let _ = (batch, partitions);
        Err(NOT_YET)
    }

    /// Encodes and packs what is left: then the slot may be released.
    ///
    /// # Errors
    /// Rows could not be encoded or stored.
    pub fn finish(self) -> Result<HandedOver, Error> {
        Err(NOT_YET)
    }
}

/// An output that is encoded and packed, but perhaps not stored. Dropping it aborts.
pub struct HandedOver {}

impl HandedOver {
    /// Waits until every row is in the store or in the output itself: the task may report success.
    ///
    /// # Errors
    /// The store failed.
    ///
    /// # Cancellation
    /// Aborts the output.
    pub async fn stored(self) -> Result<MapOutput, Error> {
        Err(NOT_YET)
    }
}

/// Which objects a stream of statuses has already made known.
///
/// A [`MapOutput`] names every object that holds its rows, since only the sender knows which status goes first. The
/// sender keeps one of these per stream, begins anew after a reconnect, and strips what the driver has heard.
#[derive(Debug, Default)]
pub struct Announced {}

impl Announced {
    /// The output without objects that an earlier output of this stream named.
    #[must_use]
    pub fn strip(&mut self, output: MapOutput) -> MapOutput {
        output
    }
}
