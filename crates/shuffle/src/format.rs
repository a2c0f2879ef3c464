//! What are the bytes of an object?
