//! With which exit code does an application end, and what does each say?
//!
//! The same codes for a driver, for the command that submits it, and for every other command.

/// All is done.
pub const DONE: u8 = 0;

/// The program failed.
pub const FAILED: u8 = 1;

/// The command or the configuration is wrong.
pub const WRONG: u8 = 2;

/// Infrastructure was lost: the driver, the store, the API server. The same command may succeed later.
pub const LOST: u8 = 69;

/// There was no room in time. The same command may succeed later.
pub const NO_ROOM: u8 = 75;

/// The cluster refuses: rights, admission, image, manifest.
pub const REFUSED: u8 = 78;

/// It ran longer than it was allowed to.
pub const TIMED_OUT: u8 = 124;

/// Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// It was killed: by `vonk kill`, or by SIGTERM.
pub const KILLED: u8 = 143;

/// What a code says, for people.
#[must_use]
pub fn meaning(code: u8) -> &'static str {
    match code {
        DONE => "done",
        FAILED => "the program failed",
        WRONG => "wrong command or configuration",
        LOST => "infrastructure was lost",
        NO_ROOM => "no room in time",
        REFUSED => "the cluster refuses",
        TIMED_OUT => "ran longer than --timeout",
        INTERRUPTED => "interrupted",
        KILLED => "killed",
        _ => "the program's own exit code",
    }
}
