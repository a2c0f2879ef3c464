//! What can be set about queries?

use model::setting::{Kind, Setting};

/// Whether plans are cut into stages where one process would not need it.
pub const FORCE_STAGES: Setting = Setting::new(
    "sql.force_stages",
    Kind::Bool,
    "false",
    "Run queries as stages of tasks with local masters too, where they otherwise run as one plan in the process.",
);

/// Whether the rest of a plan is looked at again after each stage.
pub const ADAPTIVE: Setting = Setting::new(
    "sql.adaptive",
    Kind::Bool,
    "true",
    "Choose joins and the number of partitions anew when the rows of a stage have been measured.",
)
.aliases(&["spark.sql.adaptive.enabled"]);

/// The largest side of a join that is broadcast.
pub const BROADCAST_MAX: Setting = Setting::new(
    "sql.broadcast_max",
    Kind::Bytes,
    "32m",
    "A side of a join that was measured at most so large is sent to every executor, instead of dividing the other side.",
)
.aliases(&["spark.sql.autoBroadcastJoinThreshold"]);

/// How large a partition should be.
pub const PARTITION_SIZE: Setting = Setting::new(
    "sql.partition_size",
    Kind::Bytes,
    "128m",
    "How many bytes of input a task should read: decides how many partitions tables and exchanges have.",
)
.aliases(&["spark.sql.files.maxPartitionBytes", "spark.sql.adaptive.advisoryPartitionSizeInBytes"]);

/// How many partitions exchanges have.
pub const PARTITIONS: Setting = Setting::new(
    "sql.partitions",
    Kind::Integer { min: 0, max: 65_536 },
    "0",
    "How many partitions tables and exchanges have; 0 for what their size and the number of slots suggest.",
)
.aliases(&["spark.sql.shuffle.partitions"]);

/// Which SQL is spoken.
pub const DIALECT: Setting = Setting::new(
    "sql.dialect",
    Kind::OneOf(&["datafusion", "spark"]),
    "datafusion",
    "Whose SQL statements are: with `spark`, backquotes quote names, double quotes text, and functions that DataFusion and \
     Spark both have are Spark's.",
);

/// Every key of this crate.
pub const SETTINGS: &[Setting] = &[FORCE_STAGES, ADAPTIVE, BROADCAST_MAX, PARTITION_SIZE, PARTITIONS, DIALECT];
