//! What can be set about datasets?

use model::setting::{Kind, Setting};

/// How many partitions a dataset gets.
pub const DEFAULT_PARALLELISM: Setting = Setting::new(
    "default_parallelism",
    Kind::Integer { min: 1, max: 1_000_000 },
    "",
    "Partitions of a dataset for which the program names no number; as many as tasks can run at once if empty.",
)
.aliases(&["spark.default.parallelism"]);

/// Every key of this crate.
pub const SETTINGS: &[Setting] = &[DEFAULT_PARALLELISM];
