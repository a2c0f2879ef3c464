//! Which ranges are asked for, when, and when again?
