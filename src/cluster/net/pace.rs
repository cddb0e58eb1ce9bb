//! How fast a node that lags far is fed while others write: it takes the time that they leave, and still comes nearer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::limits;

/// Of the way from a leader to one other node of a group.
pub struct Pace {
    /// How far the group has agreed, and when it last came further.
    committed: u64,
    advanced: Instant,
    /// When the lag was compared last, and what it was.
    compared: Instant,
    lag: u64,
    /// The longest pause, as so many times what one request takes.
    pauses: f64,
    /// What the last request took.
    took: Duration,
}

impl Pace {
    pub fn new(now: Instant) -> Pace {
        Pace {
            committed: 0,
            advanced: now,
            compared: now,
            lag: u64::MAX,
            pauses: limits::FEEDING_PAUSES,
            took: Duration::ZERO,
        }
    }

    /// How long to wait before entries up to `last` are sent, where the group has agreed up to `committed`.
    ///
    /// There is no pause where the group agrees to nothing: nobody is in the way, or just this node is needed for a majority. And none
    /// for a node that keeps up. One that does not come nearer in spite of the pauses gets shorter ones.
    pub fn pause(&mut self, committed: u64, last: u64, now: Instant) -> Duration {
        if committed > self.committed {
            (self.committed, self.advanced) = (committed, now);
        }
        let lag = committed.saturating_sub(last);
        if now - self.compared > limits::FEEDING_COMPARED {
            let comes_nearer = lag < self.lag;
            let longer = (self.pauses + limits::FEEDING_PAUSES / 8.0).min(limits::FEEDING_PAUSES);
            self.pauses = if comes_nearer { longer } else { self.pauses / 2.0 };
            (self.compared, self.lag) = (now, lag);
        }
        if lag < limits::FEEDING_LAG || now - self.advanced > limits::FEEDING_COMPARED {
            return Duration::ZERO;
        }
        self.took.mul_f64(self.pauses).min(limits::HEARTBEAT)
    }

    /// A request has been answered in this time.
    pub fn answered(&mut self, took: Duration) {
        self.took = took;
    }
}

/// The turns of the nodes that are fed with pauses: one pauses at a time, so that several take no more from those who write than one does.
#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<()>>);

impl Turns {
    /// Waits for the turn, and then for the pause. It is no sign of life of the leader that is held up, so it waits for no longer than
    /// those are apart.
    pub async fn pause(&self, pause: Duration) {
        if !pause.is_zero() {
            let _turn = timeout(limits::HEARTBEAT, self.0.lock()).await;
            sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(4);

    /// A leader that agrees to `agreed` entries a step feeds a node `fed` of them a step, of 10 ms each; the pauses of each step.
    fn pauses(steps: u64, agreed: u64, fed: u64) -> Vec<Duration> {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.answered(TOOK);
        let pause =
            |step| pace.pause(100_000 + step * agreed, step * fed, start + Duration::from_millis(10) * step as u32);
        (1..steps).map(pause).collect()
    }

    #[test]
    fn who_comes_nearer_leaves_time_to_those_who_write() {
        let whole = TOOK.mul_f64(limits::FEEDING_PAUSES);
        assert!(pauses(500, 1, 20).iter().all(|pause| *pause == whole));
    }

    #[test]
    fn who_does_not_come_nearer_is_fed_faster() {
        let pauses = pauses(2_000, 20, 10);
        assert!(*pauses.last().unwrap() < TOOK / 100, "{:?}", pauses.last());
    }

    #[test]
    fn nobody_waits_for_a_group_that_agrees_to_nothing() {
        let pauses = pauses(500, 0, 20);
        assert!(pauses[200..].iter().all(Duration::is_zero));
    }

    #[test]
    fn a_node_that_keeps_up_is_sent_all_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.answered(TOOK);
        assert!((1..1_000).all(|step| pace.pause(step, step + 1, start + TOOK * step as u32).is_zero()));
    }
}
