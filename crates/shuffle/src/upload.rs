//! How does an object get into the store?
