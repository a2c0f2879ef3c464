//! Does it all work? Real programs, in one process and over executor processes, under faults and wrong input.

mod faults;
mod harness;
mod input;
mod store_faults;
mod works;
