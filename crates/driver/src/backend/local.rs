//! How does this process act as a cluster?
