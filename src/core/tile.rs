//! How a tile is named in a URL: C2SP [tlog-tiles](https://c2sp.org/tlog-tiles).

use std::{fmt, str::FromStr};

use super::merkle::TILE_WIDTH;

/// The number of a tile in its level and how many of its hashes are meant: `x001/x234/067`, or `x001/x234/067.p/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilePath {
    number: u64,
    width: usize,
}

/// A path that names no tile.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a tile is named like x001/x234/067, or where it is not complete like x001/x234/067.p/8, with a width of 1 to 255"
)]
pub struct NotATile;

impl TilePath {
    /// The first `width` hashes of a tile.
    ///
    /// # Panics
    /// Unless `width` is 1 to 256.
    pub fn new(number: u64, width: usize) -> TilePath {
        assert!((1..=TILE_WIDTH).contains(&width), "a tile has 1 to 256 hashes, not {width}");
        TilePath { number, width }
    }

    /// The place of the tile in its level, from 0.
    pub fn number(self) -> u64 {
        self.number
    }

    /// How many of its hashes are meant: 1 to 256.
    pub fn width(self) -> usize {
        self.width
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.number.to_string().len().next_multiple_of(3);
        let padded = format!("{:0digits$}", self.number);
        let (last, others) = (&padded[digits - 3..], &padded[..digits - 3]);
        for at in (0..others.len()).step_by(3) {
            write!(f, "x{}/", &others[at..at + 3])?;
        }
        f.write_str(last)?;
        if self.width < TILE_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

impl FromStr for TilePath {
    type Err = NotATile;

    /// Only what [`TilePath`] writes is a path: one tile has one URL.
    fn from_str(text: &str) -> Result<Self, NotATile> {
        let (groups, width) = match text.split_once(".p/") {
            Some((groups, width)) => (groups, width.parse().map_err(|_| NotATile)?),
            None => (text, TILE_WIDTH),
        };
        let mut number = 0u64;
        for group in groups.split('/') {
            let group: u64 = group.strip_prefix('x').unwrap_or(group).parse().map_err(|_| NotATile)?;
            number = number.checked_mul(1000).and_then(|number| number.checked_add(group)).ok_or(NotATile)?;
        }
        let path = TilePath { number, width };
        if width > 0 && path.to_string() == text { Ok(path) } else { Err(NotATile) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_is_groups_of_three_digits() {
        for (number, width, text) in [
            (0, 256, "000"),
            (5, 1, "005.p/1"),
            (999, 256, "999"),
            (1000, 255, "x001/000.p/255"),
            (1_234_067, 256, "x001/x234/067"),
            (u64::MAX, 256, "x018/x446/x744/x073/x709/x551/615"),
        ] {
            assert_eq!(TilePath::new(number, width).to_string(), text);
            assert_eq!(text.parse(), Ok(TilePath::new(number, width)));
        }
    }

    #[test]
    fn one_tile_has_one_path() {
        for text in [
            "",
            "/",
            "0",
            "00",
            "0000",
            "x000",
            "x000/067",
            "x001",
            "001/067",
            "x001/x067",
            "x1/067",
            "X001/067",
            "x001//067",
            "/067",
            "067/",
            "x001/067/",
            "+67",
            "-67",
            " 67",
            "06a",
            "067.p",
            "067.p/",
            "067.p/0",
            "067.p/01",
            "067.p/256",
            "067.p/+1",
            "067.p/-1",
            "067.p/1/",
            "067.p/1.p/1",
            "x001.p/1/067",
            "067.P/1",
            "067p/1",
            "..",
            "../000",
            "000/..",
            "x018/x446/x744/x073/x709/x551/616",
            "x999/x999/x999/x999/x999/x999/x999/999",
            "٠٠٠",
            "xx00",
            "x-01/067",
            "x+01/067",
        ] {
            assert_eq!(text.parse::<TilePath>(), Err(NotATile), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number: u64, shift in 0..64u32, width in 1..=256usize) {
            let path = TilePath::new(number >> shift, width);
            prop_assert_eq!(path.to_string().parse(), Ok(path));
        }

        #[test]
        fn hostile_paths_are_refused_or_read_as_written(text in "[x0-9./p+]{0,40}") {
            prop_assert!(text.parse::<TilePath>().is_ok_and(|path| path.to_string() == text) || text.parse::<TilePath>().is_err());
        }
    }
}
