//! The node through its HTTP interface: one binary, so that it is linked once.

mod api;
mod discovery;
mod erasure;
mod faults;
mod hostile;
mod inject;
mod process;
mod readme;
mod retries;
mod rules;
mod scrub;
mod support;
mod witness;
