//! What must every backend keep?
