//! Who hears what happened, and when?

use model::events::Record;

/// Hears every record of an application, in order.
///
/// The event loop calls [`observe`](Observer::observe) at the end of a turn, before it tells anybody that a job of that
/// turn has ended: what a terminal shows of a job is gone before the program prints the job's result. The call must not
/// block; whoever does I/O hands the records on through a bounded queue and counts what did not fit.
pub trait Observer: Send {
    /// What happened in this turn; never empty.
    fn observe(&mut self, records: &[Record]);
}
