//! How do Arrow batches become blocks and batches again?
