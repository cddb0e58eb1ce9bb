//! QBC
pub mod core;
pub mod limits;
pub mod store;
pub mod writer;
