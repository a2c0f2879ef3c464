//! Who may use how much of an executor's memory?

/// One task's share of the working pool.
#[derive(Clone)]
pub struct WorkingPool {}

impl WorkingPool {
    /// Takes so many bytes more; `false` if the task must spill or do without.
    #[must_use]
    pub fn try_grow(&self, bytes: u64) -> bool {
        let _ = bytes;
        false
    }

    /// Gives so many bytes back.
    pub fn shrink(&self, bytes: u64) {
        let _ = bytes;
    }
}
