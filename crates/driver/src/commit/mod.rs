//! How does a write appear all at once?
