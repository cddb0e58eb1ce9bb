//! Hard tests: what a node promises, while everything below it breaks.
//!
//! | test | breaks |
//! | --- | --- |
//! | `faults` | each write-side system call in turn: it fails with EIO or ENOSPC, or the node is killed there |
//! | `power` | the power: what was not synced is dropped, kept or torn, from any moment of a recorded run on |
//! | `readers` | the node, again and again, while clients verify every proof that it ever gave them |
//! | `load` | nothing: it asks for too much, in every way there is, beside a client that means well |
//! | `simulation` | the network between nodes of one cluster, and the nodes |
//! | `fuzz` | the input of all that reads what strangers send |
//!
//! `cargo test` runs a part of each, chosen by a seed that it prints. All of it:
//!
//! ```sh
//! cargo test --release --test hard -- --include-ignored --nocapture --test-threads 1
//! ```
//!
//! - `QBC_SEED` repeats a run.
//! - `QBC_TRIALS`: faults, and cuts of the power: 24 and 32 where it is not said; in the long runs one in each call and at each moment, of
//!   a kind that is drawn, for each folder that they start with. Other seeds draw other kinds.
//! - `QBC_ROUNDS`: kills under readers, 6 where it is not said, 200 in the long run.
//! - `QBC_STEPS`, `QBC_SIMULATIONS`: faults of one simulation, 24 where it is not said, 100 in the long run; how many there are in that, 60.
//! - `QBC_LOAD`: only the hostile loads with this text in their names; `QBC_SECONDS`: how long each is measured, with it and without, 4
//!   where it is not said, in `QBC_ROUNDS` rounds, 3. Their times mean something in a release build on an idle machine only:
//!   `cargo test --release --test hard load -- --ignored --nocapture --test-threads 1` prints a row of a table for each.
//! - `QBC_FUZZ`: mutants of each target, 40,000 where it is not said, 1,000,000 in the long run.
//!
//! What needs strace says that it is skipped where that is missing or may not trace.

mod faults;
mod fuzz;
mod load;
mod power;
mod readers;
mod script;
mod simulation;
#[path = "../node/support.rs"]
#[expect(dead_code, reason = "the tests of the node use the rest of it")]
mod support;
mod trace;

use std::time::{SystemTime, UNIX_EPOCH};

use support::setting;

/// The seed of this run, printed, so that `QBC_SEED` repeats it.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_micros() as u64;
    let seed = setting("QBC_SEED", now);
    println!("QBC_SEED={seed}");
    seed
}
