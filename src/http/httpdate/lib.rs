//! What hyper needs of the crate `httpdate`: a moment as the header `Date` has it (RFC 9110 section 5.6.7).
//!
//! The published crate panics where the clock shows a year before 1970 or after 9999, and hyper asks it on every connection, even
//! where the header is turned off. So a clock that is wrong broke off each request. This one shows the nearest moment that can be
//! written.
#![forbid(unsafe_code)]

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

/// The last second of the year 9999.
const LAST: u64 = 253_402_300_799;

/// A moment in whole seconds since 1970, which are at most those of the year 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpDate(u64);

impl From<SystemTime> for HttpDate {
    fn from(time: SystemTime) -> Self {
        HttpDate(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().min(LAST))
    }
}

impl fmt::Display for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] =
            ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
        let (days, seconds) = (self.0 / 86_400, self.0 % 86_400);
        // Years that begin in March have their leap day at the end, and 400 of them have always the same length. The first such
        // span here begins in the year 0.
        let day = days + 719_468;
        let (era, of_era) = (day / 146_097, day % 146_097);
        let of_year_start = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * of_year_start + of_year_start / 4 - of_year_start / 100);
        let month = (5 * of_year + 2) / 153;
        let day_of_month = of_year - (153 * month + 2) / 5 + 1;
        let year = 400 * era + of_year_start + u64::from(month >= 10);
        write!(
            f,
            "{}, {day_of_month:02} {} {year:04} {:02}:{:02}:{:02} GMT",
            DAYS[(days % 7) as usize],
            MONTHS[month as usize],
            seconds / 3_600,
            seconds / 60 % 60,
            seconds % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_written_as_rfc_9110_has_them() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_475_419_451, "Sun, 02 Oct 2016 14:44:11 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (LAST, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (LAST + 1, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(HttpDate::from(UNIX_EPOCH + Duration::from_secs(seconds)).to_string(), text);
        }
        assert_eq!(HttpDate::from(UNIX_EPOCH - Duration::from_secs(1)), HttpDate(0));
    }
}
