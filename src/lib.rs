//! QBC, the Quantum blockchain: a node that keeps many tamper-evident, append-only chains behind plain HTTP.
pub mod cli;
pub mod core;
pub mod http;
pub mod leap;
pub mod limits;
pub mod mine;
pub mod node;
pub mod peers;
pub mod store;
pub mod writer;
