//! When does an executor drain, and when does it end itself?

/// The exit code of an executor that has not heard its driver for too long, or whose parent has gone.
pub const NO_DRIVER: i32 = 80;

/// The exit code of an executor that could not start: its birth is unreadable, or it cannot listen.
pub const CANNOT_START: i32 = 81;
