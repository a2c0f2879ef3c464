//! How do processes of this machine act as a cluster?
