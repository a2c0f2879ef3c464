//! What is counted while a task runs?

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

macro_rules! metrics {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Counters of one task attempt; summed per stage by whoever shows them. Bytes unless named otherwise.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub struct TaskMetrics { $($(#[$doc])* pub $field: u64,)* }

        impl AddAssign for TaskMetrics {
            fn add_assign(&mut self, other: Self) { $(self.$field += other.$field;)* }
        }
    };
}

metrics! {
    /// Wall time from start to end of the attempt, in microseconds.
    run_micros,
    /// Rows read from files or collections.
    input_rows,
    /// Bytes read from files.
    input_bytes,
    /// Requests for files.
    input_requests,
    /// Rows given to the driver or written to files.
    output_rows,
    /// Bytes given to the driver or written to files.
    output_bytes,
    /// Rows read from shuffles.
    shuffle_read_rows,
    /// Stored bytes read from shuffles.
    shuffle_read_bytes,
    /// GET requests for shuffles.
    shuffle_read_requests,
    /// Requests for shuffles that had to be repeated.
    shuffle_read_retries,
    /// Rows written to a shuffle.
    shuffle_write_rows,
    /// Stored bytes written to a shuffle.
    shuffle_write_bytes,
    /// Requests that stored objects of shuffles, without those that were repeated: counted with the first task whose rows an
    /// object holds.
    shuffle_write_requests,
    /// Bytes spilled to local disk.
    spilled_bytes,
    /// Times that the attempt spilled.
    spills,
    /// Rows of files that are broken, and were left out.
    broken_rows_dropped,
    /// Rows of files that are broken, and were read with nulls.
    broken_rows_mended,
}
