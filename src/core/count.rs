//! The three numbers of a chain, which must not be taken for each other. They convert by named methods only.
//!
//! The Merkle tree of RFC 9162 has words of its own for two of them, leaf index and tree size, and stays with plain numbers.

use std::{fmt, num::ParseIntError, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// From the number that stands in JSON and in keys.
            pub const fn new(number: u64) -> $name {
                $name(number)
            }

            /// The number that stands in JSON and in keys.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<$name, ParseIntError> {
                text.parse().map($name)
            }
        }
    };
}

number! {
    /// The place of a transaction in its chain, counted from 0. It never changes.
    Index
}

number! {
    /// The place of a quant in its chain, counted from 0.
    Height
}

number! {
    /// How many transactions a chain has, or had at some moment.
    Size
}

impl Index {
    /// The size of a chain of which this is the last transaction.
    pub const fn size(self) -> Size {
        Size(self.0 + 1)
    }
}

impl Height {
    /// Of a chain's first quant.
    pub const FIRST: Height = Height(0);

    /// That of the quant that follows.
    pub const fn next(self) -> Height {
        Height(self.0 + 1)
    }
}

impl Size {
    /// That of nothing.
    pub const ZERO: Size = Size(0);

    /// The index that the next transaction gets.
    pub const fn next_index(self) -> Index {
        Index(self.0)
    }

    /// The newest transaction, if there is any.
    pub fn last(self) -> Option<Index> {
        self.0.checked_sub(1).map(Index)
    }

    /// Whether a chain of this size has a transaction.
    pub const fn has(self, index: Index) -> bool {
        index.0 < self.0
    }
}
