//! What is the hash of a row?
