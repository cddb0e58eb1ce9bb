//! The elements of one JSON array, found by its brackets and commas alone, wherever its bytes are cut: what stands between them is for
//! others to judge.

use std::ops::Range;

/// Why an array cannot be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArrayFault {
    /// It does not begin with a bracket.
    #[error("the JSON is no array")]
    NoArray,
    /// A bracket is closed that was not opened.
    #[error("the JSON cannot be read")]
    Unbalanced,
    /// There is more than the array.
    #[error("something stands behind the JSON array")]
    Behind,
}

/// An array that is taken apart.
#[derive(Default)]
pub struct Elements(Place);

/// Where in the array the reading stands.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Before,
    /// In front of the first element, which may be missing.
    First,
    Element {
        depth: usize,
        in_string: bool,
        escaped: bool,
    },
    Behind,
}

const ELEMENT: Place = Place::Element { depth: 0, in_string: false, escaped: false };

/// What the next bytes are.
#[derive(Debug)]
pub struct Part {
    /// How many bytes were looked at.
    pub used: usize,
    /// Those of them that go on with an element.
    pub element: Range<usize>,
    /// Whether the element ends with them.
    pub is_end: bool,
}

impl Elements {
    /// Looks at the bytes that follow, up to the end of one element at most.
    ///
    /// # Errors
    /// They are not those of an array.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Part, ArrayFault> {
        let mut from = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if byte.is_ascii_whitespace() && !matches!(self.0, Place::Element { .. }) {
                continue;
            }
            match (self.0, byte) {
                (Place::Before, b'[') => self.0 = Place::First,
                (Place::Before, _) => return Err(ArrayFault::NoArray),
                (Place::First, b']') => self.0 = Place::Behind,
                (Place::Behind, _) => return Err(ArrayFault::Behind),
                (Place::First, _) => (self.0, from) = (ELEMENT, at),
                (Place::Element { .. }, _) => {}
            }
            let Place::Element { depth, in_string, escaped } = &mut self.0 else { continue };
            match byte {
                _ if *escaped => *escaped = false,
                b'\\' if *in_string => *escaped = true,
                b'"' => *in_string = !*in_string,
                _ if *in_string => {}
                b'{' | b'[' => *depth += 1,
                b',' | b']' if *depth == 0 => {
                    self.0 = if byte == b',' { ELEMENT } else { Place::Behind };
                    return Ok(Part { used: at + 1, element: from..at, is_end: true });
                }
                b'}' | b']' => *depth = depth.checked_sub(1).ok_or(ArrayFault::Unbalanced)?,
                _ => {}
            }
        }
        let element = if matches!(self.0, Place::Element { .. }) { from..bytes.len() } else { 0..0 };
        Ok(Part { used: bytes.len(), element, is_end: false })
    }

    /// Whether the array has come to its end.
    pub fn is_complete(&self) -> bool {
        self.0 == Place::Behind
    }
}
