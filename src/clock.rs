//! The clock: the one place that reads the time of day, which may be set back, be far ahead, or show what no calendar has.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::core::transaction::Timestamp;
use crate::limits::CLOCK_FIRST_MICROS;

/// What tells the time of day.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Default for Clock {
    /// The system's.
    fn default() -> Self {
        Clock::new(SystemTime::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

impl Clock {
    /// Another one than the system's, as a test needs it.
    pub fn new(read: impl Fn() -> SystemTime + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(read))
    }

    fn micros(&self) -> i64 {
        let since = (self.0)().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }

    /// This moment: 1970 where the clock shows an earlier year, and the last moment that can be written where it shows a later one.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.micros()).unwrap_or(Timestamp::LAST)
    }

    /// This moment, where the clock can be right.
    ///
    /// # Errors
    /// A sentence that says what it shows.
    pub fn plausible(&self) -> Result<Timestamp, String> {
        let micros = self.micros();
        match Timestamp::from_micros(micros).filter(|_| micros >= CLOCK_FIRST_MICROS) {
            Some(now) => Ok(now),
            None if micros < CLOCK_FIRST_MICROS => {
                Err(format!("the clock shows {}, which was before this program was written", self.now()))
            }
            None => Err("the clock shows a year after 9999".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn whatever_the_clock_shows_can_be_written() {
        let at = |seconds: i64| {
            let since = Duration::from_secs(seconds.unsigned_abs());
            Clock::new(move || if seconds < 0 { UNIX_EPOCH - since } else { UNIX_EPOCH + since })
        };
        let (year_2020, year_10000) = (1_577_836_800, 253_402_300_800);
        for (seconds, shown, detail) in [
            (-1, "1970-01-01T00:00:00.000000Z", "before"),
            (0, "1970-01-01T00:00:00.000000Z", "before"),
            (year_2020 - 1, "2019-12-31T23:59:59.000000Z", "before"),
            (year_2020, "2020-01-01T00:00:00.000000Z", ""),
            (year_10000 - 1, "9999-12-31T23:59:59.000000Z", ""),
            (year_10000, "9999-12-31T23:59:59.999999Z", "after 9999"),
            (i64::MAX / 1_000_000 + 1, "9999-12-31T23:59:59.999999Z", "after 9999"),
        ] {
            let clock = at(seconds);
            assert_eq!(clock.now().to_string(), shown);
            match clock.plausible() {
                Ok(now) => assert!(detail.is_empty() && now == clock.now(), "{seconds}"),
                Err(error) => assert!(!detail.is_empty() && error.contains(detail), "{seconds}: {error}"),
            }
        }
    }
}
