//! The node through its HTTP interface: one binary, so that it is linked once.

mod api;
mod faults;
mod support;
