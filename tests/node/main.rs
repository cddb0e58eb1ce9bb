//! The node through its HTTP interface: one binary, so that it is linked once.

mod api;
mod cache;
mod clients;
mod clock;
mod cluster;
mod cluster_faults;
mod discovery;
mod erasure;
mod events;
mod faults;
mod frozen;
mod healing;
mod hostile;
mod import;
mod inject;
mod mirrors;
mod origin;
mod process;
mod proofs;
mod readme;
mod retries;
mod rules;
mod scrub;
mod support;
mod tls;
mod witness;
