//! Whose memory does a task use?

/// Working memory of an executor, as one of its tasks may use it.
pub trait WorkingMemory: Send + Sync {
    /// Takes so many more bytes, or says no: then the caller spills.
    fn try_grow(&self, bytes: u64) -> bool;

    /// Gives bytes back, at most what is held.
    fn shrink(&self, bytes: u64);
}
