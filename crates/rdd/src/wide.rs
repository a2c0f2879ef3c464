//! Which operations need a shuffle?
