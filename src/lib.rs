//! QBC, the Quantum blockchain: a node that keeps many tamper-evident, append-only chains behind plain HTTP.
//!
//! The README and the [guide] say what a node promises and how to use it; this is the map of the code. A pure core decides, and a thin shell
//! makes decisions durable and then visible, in that order. Everything derived (Merkle tiles, indexes, counters) can be
//! rebuilt from transactions and quants.
//!
//! | module | owns | uses |
//! | --- | --- | --- |
//! | [`core`] | the format: hashes, JSON, Merkle tree, transactions, rules, quants, chains, notes, verification. Pure | |
//! | [`limits`] | every bound, with its reason | |
//! | [`access`] | who may do what: tokens, their roles and chains | `core` |
//! | [`metrics`] | what is counted, for whoever watches the node |  |
//! | [`log`] | the durable log: segments, batches, recovery, erasure in place. Knows nothing of chains | |
//! | [`store`] | the log's contents in terms of chains, and the index over it; the only place that names the index's engine | `core`, `log` |
//! | [`writer`] | the writers, one for each group of chains: commands in one order are decided and applied, one commit with one sync for all that waits | `store` |
//! | [`clock`] | the time of day | `core` |
//! | [`tls`] | certificates, and encrypted connections; the only place that names what does them | `core` |
//! | [`threads`] | threads of lower priorities | |
//! | [`mine`] | proof of work, on threads of its own | `core`, `threads` |
//! | [`node`] | the handle that everyone clones, and what one can do with a node | `writer`, `mine`, `clock`, `threads` |
//! | [`cluster`] | chains on several nodes: who keeps what, and agreement on it, by an engine that only this names | `node`, `writer`, `store`, `tls` |
//! | [`leap`] | automatic leaps | `node` |
//! | [`scrub`] | all data read again and compared with the roots | `node` |
//! | [`witness`] | cosignatures, asked of witnesses for each new quant | `node`, `peers` |
//! | [`peers`] | discovery and liveness of other nodes | `clock`, `tls` |
//! | [`mirror`] | chains of others that are followed without trust | `node`, `cluster`, `peers` |
//! | [`guide`] | the guide for users: it is text | |
//! | [`http`] | routes, and what holds for each of them | `access`, `node`, `cluster`, `peers`, `mirror`, `guide` |
//! | [`cli`] | the program: a node, and the client commands | all |
//!
//! A write goes from a handler, which makes canonical JSON and hashes, as a [`writer::Command`] down one bounded channel. The
//! writer takes what waits. It *decides* each command on the newest state of the chains ([`core::chain`]): that refuses it, or makes a
//! [`store::Effect`], which cannot fail any more. It *applies* the effects, makes them durable as one batch of the log
//! ([`store::Store::commit`]), publishes the new heads, and only then answers. Readers never wait for it: they read published heads
//! and the store. All that is not deterministic (time, salt, proof of work) is in the command, so the same effects make the same
//! chains, byte by byte, wherever they are applied.
//!
//! Where several nodes keep a chain, the step between deciding and applying is another one: the effects are an entry of the chain's
//! group ([`store::Entry`]), the nodes of the group agree on it, and each applies it ([`writer::Core::apply`]). All other parts are the same.
//!
//! To check a receipt in a program of your own, see [`core::verify::receipt`].

pub mod access;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod core;
pub mod guide;
pub mod http;
pub mod leap;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod mine;
pub mod mirror;
pub mod node;
pub mod peers;
pub mod scrub;
pub mod store;
pub mod threads;
pub mod tls;
pub mod witness;
pub mod writer;
