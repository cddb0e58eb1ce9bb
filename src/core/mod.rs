//! The pure core: it takes facts and returns values. No I/O, no clock, no randomness, no async, no lock.
pub mod chain;
pub mod count;
pub mod elements;
pub mod export;
pub mod hash;
pub mod json;
pub mod merkle;
pub mod mirror;
pub mod note;
pub mod proof;
pub mod quant;
pub mod rules;
mod schema;
pub mod terms;
pub mod tile;
pub mod transaction;
pub mod verify;
pub mod witness;
