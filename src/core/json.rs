//! The one gate from client JSON to canonical bytes: I-JSON in (RFC 7493), RFC 8785 out.
//!
//! Nothing that passes the gate is changed silently: what is read back denotes the value that was sent. Whatever cannot
//! keep that promise is refused with its place and its cure: a name twice in one object, a lone surrogate, bytes that
//! are not UTF-8, and a number that a double, and so the canonical form, cannot hold. Noncharacters such as U+FFFE are refused
//! because I-JSON has none (RFC 7493 section 2.1), so that a strict reader takes all that is recorded.

use std::{io::Write, ops::RangeInclusive};

use jiter::{Jiter, JiterError, JiterErrorType, JsonErrorType, Peek};
use serde_json::{Map, Number, Value, map::Entry};

/// How deep arrays and objects may nest: a scalar has depth 0, an empty array depth 1.
pub const MAX_DEPTH: usize = 100;

/// Up to 2^53 each integer is a double of its own, and a `Value` made here holds it as an integer.
const INTEGERS: RangeInclusive<i64> = -(1 << 53)..=1 << 53;

const TOO_MANY_DIGITS: &str = "the number has more digits than a double can hold: send such a number as a string";
/// What is wrong with a text that has a noncharacter.
pub const NONCHARACTER: &str =
    "a noncharacter, such as U+FFFE, which I-JSON does not allow (RFC 7493 section 2.1): send the text without it";
const EXPECTED_VALUE: &str = "expected a value: null, true, false, a number, a string, an array or an object";

/// Why a text was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail} (line {line}, column {column}, pointer {pointer:?})")]
pub struct JsonError {
    /// The JSON Pointer (RFC 6901) of the faulty value, or of the innermost one that holds the fault: `""` is the root.
    pub pointer: String,
    /// The line of the fault, from 1.
    pub line: usize,
    /// The column of the fault in characters, from 1.
    pub column: usize,
    /// What is wrong and what to do instead, without the place.
    pub detail: String,
}

/// Reads a text that is one I-JSON value (RFC 7493) in the grammar of RFC 8259.
///
/// Integers up to 2^53 come as `i64`, all other numbers as `f64`, so that equal numbers are equal values.
///
/// # Errors
/// The first fault: bytes that are not UTF-8, a byte order mark, bad syntax, a name that its object has already, a lone
/// surrogate, a noncharacter, nesting beyond [`MAX_DEPTH`], a number whose canonical form denotes another decimal value than its text,
/// or one with more than 4300 digits before its point, whatever its exponent.
pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
    whole(text).map_err(|fault| fault.locate(text))
}

/// The canonical form of a value by RFC 8785, in UTF-8.
pub fn canonical(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write_canonical(value, &mut out);
    out
}

/// Appends the canonical form of a value (RFC 8785) to `out`.
///
/// Numbers are doubles there: a `u64` or `i64` beyond 2^53, which [`parse`] never makes, is rounded to the nearest one.
/// It recurses once a level, which [`MAX_DEPTH`] bounds for what [`parse`] made.
pub fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(elements) => {
            out.push(b'[');
            for (position, element) in elements.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write_canonical(element, out);
            }
            out.push(b']');
        }
        Value::Object(members) => write_object(members, out),
    }
}

/// Containers around the innermost value.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Whether a text has one of the 66 code points that Unicode keeps from ever being characters: U+FDD0 to U+FDEF, and the last
/// two of each plane.
pub fn has_noncharacter(text: &str) -> bool {
    // All of them begin with one of the last bytes in UTF-8, which most texts do not have. Many bytes are compared at one time.
    let largest = |bytes: &[u8]| bytes.iter().fold(0, |largest, &byte| byte.max(largest));
    text.as_bytes().chunks(256).any(|bytes| largest(bytes) >= FIRST_OF_NONCHARACTERS)
        && text.chars().any(|char| is_noncharacter(char.into()))
}

const FIRST_OF_NONCHARACTERS: u8 = 0xef;

fn is_noncharacter(code: u32) -> bool {
    matches!(code, 0xfdd0..=0xfdef) || code & 0xfffe == 0xfffe
}

/// Where the first noncharacter stands in a JSON text, raw or escaped, from `start` on, which is not within a character.
fn find_noncharacter(text: &[u8], start: usize) -> Option<usize> {
    let text = text.get(start..)?.utf8_chunks().next()?.valid();
    let unit = |at: usize| {
        let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let mut at = 0;
    while let Some(char) = text[at..].chars().next() {
        let (code, length) = match (char, unit(at)) {
            ('\\', Some(high @ 0xd800..=0xdbff)) => {
                (0x10000 + ((high - 0xd800) << 10) + unit(at + 6)?.checked_sub(0xdc00)?, 12)
            }
            ('\\', Some(code)) => (code, 6),
            // An escape of one character, which may be another backslash.
            ('\\', None) => (0, 2),
            (char, _) => (char.into(), char.len_utf8()),
        };
        if is_noncharacter(code) {
            return Some(start + at);
        }
        at += length;
    }
    None
}

/// The length of the canonical value (RFC 8785) that a text starts with, found without making a value of it.
///
/// It is never wrong but not complete: `None` where the value is no I-JSON, is not canonical, nests deeper than `depth`
/// containers, or has a form that is too rare to be known here (names with escapes or with characters beyond U+FFFF). Then
/// [`parse`] decides. The text must be UTF-8, which is not checked here.
pub fn canonical_length(text: &[u8], depth: usize) -> Option<usize> {
    match text.first()? {
        b'"' => string_length(text),
        b'{' => members_length(text, depth.checked_sub(1)?),
        b'[' => elements_length(text, depth.checked_sub(1)?),
        b'n' => text.starts_with(b"null").then_some(4),
        b't' => text.starts_with(b"true").then_some(4),
        b'f' => text.starts_with(b"false").then_some(5),
        _ => number_length(text),
    }
}

/// Each name is behind the one before it, so none stands twice either.
fn members_length(text: &[u8], depth: usize) -> Option<usize> {
    if text.get(1) == Some(&b'}') {
        return Some(2);
    }
    let (mut at, mut previous) = (1, None);
    loop {
        let name = string_length(&text[at..]).map(|length| &text[at + 1..at + length - 1])?;
        // Bytes have the order of UTF-16 but for what begins with 0xF0 and more.
        let is_known = name.iter().all(|&byte| byte != b'\\' && byte < 0xf0);
        if !is_known || previous.is_some_and(|previous| previous >= name) {
            return None;
        }
        previous = Some(name);
        at += name.len() + 2;
        if text.get(at) != Some(&b':') {
            return None;
        }
        at += 1;
        at += canonical_length(&text[at..], depth)?;
        match text.get(at)? {
            b',' => at += 1,
            b'}' => return Some(at + 1),
            _ => return None,
        }
    }
}

fn elements_length(text: &[u8], depth: usize) -> Option<usize> {
    if text.get(1) == Some(&b']') {
        return Some(2);
    }
    let mut at = 1;
    loop {
        at += canonical_length(&text[at..], depth)?;
        match text.get(at)? {
            b',' => at += 1,
            b']' => return Some(at + 1),
            _ => return None,
        }
    }
}

fn string_length(text: &[u8]) -> Option<usize> {
    if text.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        at += plain_length(&text[at..])?;
        match text[at] {
            // Canonical escapes denote control characters only.
            b'"' => return (!may_be_noncharacter(&text[..at])).then_some(at + 1),
            b'\\' => at += escape_length(&text[at..])?,
            _ => return None,
        }
    }
}

fn may_be_noncharacter(text: &[u8]) -> bool {
    text.iter().any(|&byte| byte >= FIRST_OF_NONCHARACTERS) && str::from_utf8(text).is_ok_and(has_noncharacter)
}

/// Only the escape that [`write_escape`] would write is canonical.
fn escape_length(text: &[u8]) -> Option<usize> {
    let short = match text.get(1)? {
        b'"' | b'\\' | b'b' | b't' | b'n' | b'f' | b'r' => return Some(2),
        b'u' => text.get(..6)?,
        _ => return None,
    };
    let code = std::str::from_utf8(&short[2..]).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok())?;
    let mut canonical = Vec::with_capacity(6);
    (code < 0x20).then(|| write_escape(code, &mut canonical))?;
    (canonical == short).then_some(6)
}

fn number_length(text: &[u8]) -> Option<usize> {
    let is_part = |byte: &u8| byte.is_ascii_digit() || b"-+.eE".contains(byte);
    let length = text.iter().position(|byte| !is_part(byte)).unwrap_or(text.len());
    let number = &text[..length];
    let digits = number.strip_prefix(b"-").unwrap_or(number);
    let is_short = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if is_short && (digits[0] != b'0' || number == b"0") {
        return Some(length);
    }
    let mut canonical = Vec::with_capacity(32);
    write_canonical(&parse(number).ok()?, &mut canonical);
    (canonical == number).then_some(length)
}

/// Appends a string in the one form that RFC 8785 section 3.2.2.2 allows, quotes included.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(plain) = plain_length(rest) {
        out.extend_from_slice(&rest[..plain]);
        write_escape(rest[plain], out);
        rest = &rest[plain + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// How many bytes stand before the first one that needs an escape; `None` when none does.
fn plain_length(bytes: &[u8]) -> Option<usize> {
    let needs_escape = |&byte: &u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    // Looking at a whole block without stopping early lets the compiler compare its bytes all at once.
    let (blocks, _) = bytes.as_chunks::<16>();
    let plain_blocks =
        blocks.iter().take_while(|block| !block.iter().fold(false, |any, byte| any | needs_escape(byte)));
    let start = 16 * plain_blocks.count();
    bytes[start..].iter().position(needs_escape).map(|offset| start + offset)
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        control => {
            let digits = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            return out.extend([control >> 4, control & 15].map(|digit| digits[usize::from(digit)]));
        }
    };
    out.extend([b'\\', short]);
}

fn write_object(members: &Map<String, Value>, out: &mut Vec<u8>) {
    // A map iterates in the order of UTF-8 bytes, which is that of code points; RFC 8785 section 3.2.3 sorts by UTF-16
    // code units. The two differ only where some name has a code point beyond U+FFFF, and in UTF-8 those alone have
    // bytes from 0xF0 on.
    if members.keys().all(|name| name.bytes().all(|byte| byte < 0xf0)) {
        write_members(members.iter(), out);
    } else {
        let mut sorted: Vec<_> = members.iter().collect();
        sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        write_members(sorted.into_iter(), out);
    }
}

fn write_members<'a>(members: impl Iterator<Item = (&'a String, &'a Value)>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (position, (name, value)) in members.enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        write_canonical(value, out);
    }
    out.push(b'}');
}

fn write_number(number: &Number, out: &mut Vec<u8>) {
    // ECMAScript prints small integers as Rust does, which is several times as fast.
    if let Some(integer) = number.as_i64().filter(|integer| INTEGERS.contains(integer)) {
        return write!(out, "{integer}").expect("writing to memory cannot fail");
    }
    let double = number.as_f64().expect("a serde_json number is finite");
    out.extend_from_slice(ryu_js::Buffer::new().format_finite(double).as_bytes());
}

/// Where a fault is.
enum Place {
    /// At this byte.
    Byte(usize),
    /// At the first byte of the text that is not UTF-8.
    NotUtf8,
    /// At the first noncharacter from this byte on.
    NoncharacterFrom(usize),
}

/// A fault on its way out of the recursion, which names its place only when somebody needs it.
struct Fault {
    place: Place,
    detail: String,
    /// The parts of the pointer, innermost first.
    path: Vec<String>,
}

impl Fault {
    fn new(index: usize, detail: impl Into<String>) -> Box<Self> {
        Box::new(Fault { place: Place::Byte(index), detail: detail.into(), path: Vec::new() })
    }

    /// The same fault as seen from the array or object that holds its value at `part`.
    fn within(mut self: Box<Self>, part: impl ToString) -> Box<Self> {
        self.path.push(part.to_string());
        self
    }

    fn locate(self, text: &[u8]) -> JsonError {
        let index = match self.place {
            Place::Byte(index) => index,
            Place::NotUtf8 => str::from_utf8(text).map_or_else(|error| error.valid_up_to(), str::len),
            Place::NoncharacterFrom(start) => find_noncharacter(text, start).unwrap_or(start),
        };
        let before = &text[..index.min(text.len())];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let starts_character = |&&byte: &&u8| byte & 0xc0 != 0x80;
        let mut pointer = String::new();
        for part in self.path.iter().rev() {
            pointer.push('/');
            pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
        }
        JsonError {
            pointer,
            line: 1 + before.iter().filter(|&&byte| byte == b'\n').count(),
            column: 1 + before[line_start..].iter().filter(starts_character).count(),
            detail: self.detail,
        }
    }
}

impl From<JiterError> for Box<Fault> {
    fn from(error: JiterError) -> Self {
        use JsonErrorType::*;
        let JiterErrorType::JsonError(kind) = error.error_type else {
            return Fault::new(error.index, error.error_type.to_string());
        };
        let detail = match kind {
            EofWhileParsingList | EofWhileParsingObject | EofWhileParsingString | EofWhileParsingValue => {
                "the text ends before its value does"
            }
            ExpectedColon => "expected a colon after the name",
            ExpectedListCommaOrEnd => "expected a comma or ]",
            ExpectedObjectCommaOrEnd => "expected a comma or }",
            ExpectedSomeIdent | ExpectedSomeValue => EXPECTED_VALUE,
            InvalidEscape => {
                "not an escape of JSON: those are \\\" \\\\ \\/ \\b \\f \\n \\r \\t and \\u with four hex digits"
            }
            InvalidNumber => "not a number as JSON writes it, such as -1, 0.5 or 2e9",
            NumberOutOfRange => TOO_MANY_DIGITS,
            InvalidUnicodeCodePoint => "the bytes are not UTF-8: send the text in UTF-8",
            ControlCharacterWhileParsingString => {
                "a raw control character in a string: escape it, such as \\n or \\u0000"
            }
            KeyMustBeAString => "expected a name in double quotes",
            LoneLeadingSurrogateInHexEscape | UnexpectedEndOfHexEscape => {
                "a lone surrogate is no character: send both halves of the pair, or the character itself"
            }
            TrailingComma => "a comma with nothing after it: remove it",
            TrailingCharacters => "more text after the value: send one value alone",
            other => return Fault::new(error.index, other.to_string()),
        };
        let mut fault = Fault::new(error.index, detail);
        if kind == InvalidUnicodeCodePoint {
            // The tokenizer counts decoded bytes here, which is off after an escape.
            fault.place = Place::NotUtf8;
        }
        fault
    }
}

fn whole(text: &[u8]) -> Result<Value, Box<Fault>> {
    if text.starts_with(b"\xef\xbb\xbf") {
        return Err(Fault::new(0, "a byte order mark: send the text without it"));
    }
    let mut tokens = Jiter::new(text);
    let first = tokens.peek()?;
    let value = read_value(&mut tokens, first, 0)?;
    tokens.finish()?;
    Ok(value)
}

/// Reads the value that starts with `first`, inside of `depth` arrays and objects.
fn read_value(tokens: &mut Jiter, first: Peek, depth: usize) -> Result<Value, Box<Fault>> {
    match first {
        Peek::String => {
            let start = tokens.current_index();
            without_noncharacter(tokens.known_str()?.to_owned(), start).map(Value::String)
        }
        Peek::Object | Peek::Array if depth == MAX_DEPTH => Err(Fault::new(
            tokens.current_index(),
            format!("more than {MAX_DEPTH} levels deep: nest less, or send the inner levels as a string"),
        )),
        Peek::Object => read_object(tokens, depth + 1),
        Peek::Array => read_array(tokens, depth + 1),
        Peek::Null => Ok(tokens.known_null().map(|()| Value::Null)?),
        Peek::True | Peek::False => Ok(tokens.known_bool(first).map(Value::Bool)?),
        Peek::NaN | Peek::Infinity => {
            Err(Fault::new(tokens.current_index(), "JSON has no NaN and no Infinity: send null or a string"))
        }
        number if number.is_num() => {
            let start = tokens.current_index();
            let text = tokens.known_number_bytes(number)?;
            read_number(text).map(Value::Number).map_err(|detail| Fault::new(start, detail))
        }
        _ => Err(Fault::new(tokens.current_index(), EXPECTED_VALUE)),
    }
}

fn read_array(tokens: &mut Jiter, depth: usize) -> Result<Value, Box<Fault>> {
    let mut elements = Vec::new();
    let mut next = tokens.known_array()?;
    while let Some(first) = next {
        let element = read_value(tokens, first, depth).map_err(|fault| fault.within(elements.len()))?;
        elements.push(element);
        next = tokens.array_step()?;
    }
    Ok(Value::Array(elements))
}

fn read_object(tokens: &mut Jiter, depth: usize) -> Result<Value, Box<Fault>> {
    let mut members = Map::new();
    let mut start = tokens.current_index();
    let mut next = tokens.known_object()?.map(str::to_owned);
    while let Some(name) = next {
        match members.entry(without_noncharacter(name, start)?) {
            Entry::Vacant(entry) => {
                let value = read_member(tokens, depth).map_err(|fault| fault.within(entry.key()))?;
                entry.insert(value);
            }
            Entry::Occupied(entry) => {
                let detail = "the object has this name already: names must differ within an object";
                return Err(Fault::new(tokens.current_index(), detail).within(entry.key()));
            }
        }
        start = tokens.current_index();
        next = tokens.next_key()?.map(str::to_owned);
    }
    Ok(Value::Object(members))
}

/// A string that was read from `start` on.
fn without_noncharacter(text: String, start: usize) -> Result<String, Box<Fault>> {
    if has_noncharacter(&text) {
        let place = Place::NoncharacterFrom(start);
        return Err(Box::new(Fault { place, detail: NONCHARACTER.into(), path: Vec::new() }));
    }
    Ok(text)
}

fn read_member(tokens: &mut Jiter, depth: usize) -> Result<Value, Box<Fault>> {
    let first = tokens.peek()?;
    read_value(tokens, first, depth)
}

/// Reads a number in JSON's grammar, or tells why its canonical form would denote another decimal value.
fn read_number(text: &[u8]) -> Result<Number, String> {
    if let Some(integer) = short_integer(text) {
        return Ok(integer.into());
    }
    let sent = Decimal::read(text).ok_or(TOO_MANY_DIGITS)?;
    let magnitude = sent.nearest_double();
    let double = if text.starts_with(b"-") { -magnitude } else { magnitude };
    if !sent.keeps_its_value_as(magnitude) {
        let mut nearest = ryu_js::Buffer::new();
        let nearest = nearest.format(double);
        return Err(format!("the number would become {nearest}, the nearest double: send such a number as a string"));
    }
    let integer = double as i64;
    if INTEGERS.contains(&integer) && integer as f64 == double {
        return Ok(integer.into());
    }
    Ok(Number::from_f64(double).expect("what equals a decimal is finite"))
}

/// The integer that a text of at most 15 digits denotes, which are too few to pass 2^53.
fn short_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.len() > 15 {
        return None;
    }
    let magnitude =
        digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| 10 * sum + i64::from(digit - b'0')))?;
    Some(if digits.len() == text.len() { magnitude } else { -magnitude })
}

/// The magnitude of a decimal text: `digits` · 10^`exponent`, with `digits` no multiple of ten, and zero as 0 · 10^0.
/// So two texts denote one magnitude exactly when their decimals are equal.
#[derive(PartialEq, Eq)]
struct Decimal {
    digits: u64,
    exponent: i64,
}

impl Decimal {
    /// Reads a number as JSON or ECMAScript write it, in linear time however large its exponent is. `None` when it has
    /// more significant digits than `u64` holds, while a double's canonical form has at most 17, and for infinity.
    fn read(text: &[u8]) -> Option<Self> {
        let text = text.strip_prefix(b"-").unwrap_or(text);
        let (mantissa, exponent) = split_before(text, |byte| byte.eq_ignore_ascii_case(&b'e'));
        let (integer, fraction) = split_before(mantissa, |&byte| byte == b'.');
        let fraction = fraction.strip_prefix(b".").unwrap_or_default();
        let places = integer.iter().chain(fraction);
        let trailing_zeros = places.clone().rev().take_while(|&&place| place == b'0').count();
        let mut significant = places.take(integer.len() + fraction.len() - trailing_zeros);
        let digits = significant
            .try_fold(0u64, |sum, &place| sum.checked_mul(10)?.checked_add(char::from(place).to_digit(10)?.into()))?;
        let shift = trailing_zeros as i64 - fraction.len() as i64;
        Some(Decimal { digits, exponent: if digits == 0 { 0 } else { read_exponent(exponent).saturating_add(shift) } })
    }

    /// The double nearest to it: infinity where it is beyond all of them.
    fn nearest_double(&self) -> f64 {
        match u32::try_from(self.exponent.saturating_neg()) {
            // Both operands are exact, and a division of doubles rounds to the nearest one.
            Ok(places @ 0..=15) if self.digits <= 1 << 53 => self.digits as f64 / 10u64.pow(places) as f64,
            _ => format!("{}e{}", self.digits, self.exponent).parse().expect("a number as Rust writes it"),
        }
    }

    /// Whether the canonical form of `double`, the nearest to this decimal, denotes this very decimal.
    fn keeps_its_value_as(&self, double: f64) -> bool {
        // Two decimals of at most 15 digits never share a normal double, and the canonical form is the shortest text
        // that denotes the double: so it is no other decimal than this one.
        self.digits < 10u64.pow(15) && double.is_normal()
            || Decimal::read(ryu_js::Buffer::new().format(double).as_bytes()).as_ref() == Some(self)
    }
}

/// The exponent in `e5`, `E-05` or nothing, clipped to `i64`.
fn read_exponent(text: &[u8]) -> i64 {
    let digits = text.iter().filter(|byte| byte.is_ascii_digit()).map(|digit| i64::from(digit - b'0'));
    let magnitude = digits.fold(0i64, |sum, digit| sum.saturating_mul(10).saturating_add(digit));
    if text.contains(&b'-') { -magnitude } else { magnitude }
}

fn split_before(text: &[u8], is_mark: impl FnMut(&u8) -> bool) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(is_mark).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// The canonical text of a text that must be accepted.
    fn gate(text: &str) -> String {
        let value = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        String::from_utf8(canonical(&value)).unwrap()
    }

    fn refusal(text: impl AsRef<[u8]>) -> JsonError {
        parse(text.as_ref()).expect_err("must be refused")
    }

    #[test]
    fn refusals_name_place_and_cure() {
        let cases: &[(&[u8], &str, usize, usize, &str)] = &[
            (b"", "", 1, 1, "ends before"),
            (b" \n ", "", 2, 2, "ends before"),
            (b"\xef\xbb\xbf{}", "", 1, 1, "byte order mark"),
            (b"[1, 2] 3", "", 1, 8, "one value alone"),
            (b"{\"a\":1}}", "", 1, 8, "one value alone"),
            (b"{\"a\":[true,\nnul]}", "/a/1", 2, 4, "expected a value"),
            (b"{\"a\":", "/a", 1, 6, "ends before"),
            (b"{\"a\":1,}", "", 1, 8, "remove it"),
            (b"[1,]", "", 1, 4, "remove it"),
            (b"[1 2]", "", 1, 4, "comma or ]"),
            (b"{\"a\":1 \"b\":2}", "", 1, 8, "comma or }"),
            (b"{\"a\" 1}", "", 1, 6, "colon"),
            (b"{a:1}", "", 1, 2, "double quotes"),
            (b"[NaN]", "/0", 1, 2, "no NaN"),
            (b"[Infinity]", "/0", 1, 2, "no Infinity"),
            (b"[-Infinity]", "/0", 1, 3, "not a number"),
            (b"[+1]", "/0", 1, 2, "expected a value"),
            (b"[01]", "/0", 1, 3, "not a number"),
            (b"[1.]", "/0", 1, 4, "not a number"),
            (b"[\"a\nb\"]", "/0", 1, 4, "escape it"),
            (b"[\"\\x\"]", "/0", 1, 4, "not an escape"),
            (b"[\"\\u12g4\"]", "/0", 1, 7, "not an escape"),
            (b"[0,\"\\n\\n\xff\"]", "/1", 1, 9, "not UTF-8"),
            (b"[\"\xed\xa0\x80\"]", "/0", 1, 3, "not UTF-8"),
            ("[\"äöü\", 1e400]".as_bytes(), "/1", 1, 9, "Infinity"),
            (b"{\"a\":{\"b\":1, \"b\" : 2}}", "/a/b", 1, 19, "already"),
            (b"{\"a\":1,\"\\u0061\":1}", "/a", 1, 17, "already"),
            (b"{\"m~n/o\":[[],[18446744073709551615]]}", "/m~0n~1o/1/0", 1, 15, "18446744073709552000"),
        ];
        for &(text, pointer, line, column, detail) in cases {
            let error = refusal(text);
            let text = String::from_utf8_lossy(text);
            assert_eq!((&*error.pointer, error.line, error.column), (pointer, line, column), "{text}: {error}");
            assert!(error.detail.contains(detail), "{text}: {error}");
        }
    }

    #[test]
    fn lone_surrogates_are_refused() {
        for text in [
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\ud800""#,
            r#""\ud800x""#,
            r#""\ud800\n""#,
            r#""\udbff\u0041""#,
            r#""\udc00\ud800""#,
        ] {
            assert!(refusal(format!("[{text}]")).detail.contains("surrogate"), "{text}");
            assert_eq!(refusal(format!("[{text}]")).pointer, "/0");
            assert_eq!(refusal(format!("{{{text}:1}}")).pointer, "");
        }
        assert_eq!(gate(r#""\ud83d\ude02""#), "\"\u{1f602}\"");
    }

    /// Symptom: `"\uffff"` was recorded, and strict readers of I-JSON could not read the chain. Cause: RFC 7493 section 2.1 was
    /// kept for surrogates alone. Cure: all 66 noncharacters are refused in every string and name, raw or escaped.
    #[test]
    fn noncharacters_are_refused_at_their_place() {
        let planes = (0..=16).flat_map(|plane| [plane << 16 | 0xfffe, plane << 16 | 0xffff]);
        let all: Vec<char> = (0xfdd0..=0xfdef).chain(planes).map(|code| char::from_u32(code).unwrap()).collect();
        assert_eq!(all.len(), 66);
        for char in all {
            let escaped: String = char.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04X}")).collect();
            for form in [char.to_string(), escaped] {
                let error = refusal(format!("{{\"a\":[1,\n\"é\\\\\\n\\ud83d\\ude02{form}x\"]}}"));
                assert_eq!((&*error.pointer, error.line), ("/a/1", 2), "{form}");
                assert_eq!((&*error.detail, error.column), (NONCHARACTER, 19), "{form}");
                for name in [format!("{{\"x{form}\":1}}"), format!("{{\"a\":1, \"{form}\":1}}")] {
                    let error = refusal(&name);
                    assert_eq!((&*error.pointer, &*error.detail), ("", NONCHARACTER), "{name}");
                }
            }
            assert_eq!(canonical_length(format!("\"{char}\"").as_bytes(), 1), None);
        }
        for char in ['\u{fdcf}', '\u{fdf0}', '\u{fffd}', '\u{10000}', '\u{1fffd}', '\u{10fffd}', '\u{feff}'] {
            assert_eq!(gate(&format!("\"{char}\"")), format!("\"{char}\""));
            assert!(canonical_length(format!("\"{char}\"").as_bytes(), 1).is_some());
        }
    }

    #[test]
    fn an_error_reads_as_a_sentence_with_its_place() {
        assert_eq!(
            refusal("{\"total\":\n 12345678901234567890}").to_string(),
            "the number would become 12345678901234567000, the nearest double: send such a number as a string \
             (line 2, column 2, pointer \"/total\")"
        );
    }

    #[test]
    fn numbers_that_keep_their_value_become_canonical() {
        for (text, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0e99999999999999999999", "0"),
            ("0.000", "0"),
            ("1.0", "1"),
            ("1e2", "100"),
            ("1E+02", "100"),
            ("10e-1", "1"),
            ("-1.50", "-1.5"),
            ("123456789012345", "123456789012345"),
            ("9007199254740991", "9007199254740991"),
            ("9007199254740992", "9007199254740992"),
            ("-9007199254740992", "-9007199254740992"),
            ("9007199254740994", "9007199254740994"),
            ("12345678901234567000", "12345678901234567000"),
            ("100000000000000000000000", "1e+23"),
            ("1e21", "1e+21"),
            ("1e20", "100000000000000000000"),
            ("0.1", "0.1"),
            ("1e-7", "1e-7"),
            ("0.000001", "0.000001"),
            // The nearest double is as far from its neighbour …0.3: the even digit wins.
            ("600000000000000.2", "600000000000000.2"),
            ("5e-324", "5e-324"),
            ("2.2250738585072014e-308", "2.2250738585072014e-308"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
            ("0.00000000000000000000000000000000000000000001e44", "1"),
        ] {
            assert_eq!(gate(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_that_would_change_are_refused() {
        for text in [
            "12345678901234567890",
            "9007199254740993",
            "-9007199254740993",
            "18446744073709551615",
            "0.1000000000000000055511151231257827",
            "333333333.33333329",
            "600000000000000.3",
            "1e400",
            "-1e400",
            "1e309",
            "1e-400",
            "4.9e-324",
            "3e-324",
            "1e99999999999999999999",
            "1e-99999999999999999999",
            "1.00000000000000000000000000000000001",
            "123456789012345678901234567890e400",
            "0.30000000000000001",
            "9007199254740992.5",
        ] {
            assert!(refusal(text).detail.ends_with("send such a number as a string"), "{text}");
        }
    }

    #[test]
    fn equal_numbers_are_equal_values() {
        assert_eq!(parse(b"[1, 1.0, 10e-1, 0.1e1]").unwrap(), json!([1, 1, 1, 1]));
        assert_eq!(parse(b"[-0.0, 1e300, 9007199254740992.0]").unwrap(), json!([0, 1e300, INTEGERS.end()]));
    }

    #[test]
    fn values_made_elsewhere_are_rounded_as_doubles() {
        let value = json!([u64::MAX, i64::MIN, INTEGERS.end() + 1, -0.0, 1.0]);
        assert_eq!(canonical(&value), b"[18446744073709552000,-9223372036854776000,9007199254740992,0,1]");
    }

    #[test]
    fn strings_have_one_form() {
        assert_eq!(
            gate(r#""\u0000\u0008\u0009\u000a\u000b\u000c\u000d\u001F\u0020\"\\\/\u007f\u20AC\u2028\ufffd""#),
            "\"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f \\\"\\\\/\u{7f}\u{20ac}\u{2028}\u{fffd}\""
        );
        // An escape at each place around the blocks of 16 bytes.
        for before in 0..40 {
            let text = format!("{}\n{}", "x".repeat(before), "é".repeat(20));
            assert_eq!(canonical(&json!(text)), format!("\"{}\"", text.replace('\n', "\\n")).into_bytes());
        }
    }

    #[test]
    fn names_are_sorted_by_utf16_code_units() {
        // U+FB33 comes before U+1F602 in UTF-8, and after its surrogates in UTF-16.
        assert_eq!(
            gate("{\"\u{fb33}\":1,\"\u{1f602}\":2,\"b\":3,\"a\":4,\"\":5,\"aa\":6}"),
            "{\"\":5,\"a\":4,\"aa\":6,\"b\":3,\"\u{1f602}\":2,\"\u{fb33}\":1}"
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(gate(&nested(MAX_DEPTH)), nested(MAX_DEPTH));
        let error = refusal(nested(MAX_DEPTH + 1));
        assert_eq!((error.pointer, error.column), ("/0".repeat(MAX_DEPTH), MAX_DEPTH + 1));
        assert!(error.detail.contains("100 levels"), "{}", error.detail);
        assert_eq!(refusal("[".repeat(4_000_000)).pointer, "/0".repeat(MAX_DEPTH));
        assert_eq!(refusal("{\"a\":".repeat(100_000)).pointer, "/a".repeat(MAX_DEPTH));
    }

    #[test]
    fn long_numbers_cost_no_more_than_their_length() {
        let many = 1_000_000;
        let (zeros, nines) = ("0".repeat(many), "9".repeat(many));
        assert_eq!(gate(&format!("1.{zeros}")), "1");
        assert_eq!(gate(&format!("0.{zeros}1e{}", many + 1)), "1");
        for text in
            [format!("1{zeros}"), nines.clone(), format!("0.{nines}"), format!("1e{nines}"), format!("1e-{nines}")]
        {
            assert!(refusal(text).detail.ends_with("as a string"));
        }
    }

    /// A character of each kind that matters: to escaping, to the order of names, to the length in UTF-8.
    fn character() -> impl Strategy<Value = char> {
        let range = prop::char::range;
        prop_oneof![range('\0', '\x7f'), any::<char>(), range('\u{e000}', '\u{ffff}'), range('\u{10000}', '\u{10ffff}')]
            .prop_filter("no character of I-JSON", |char| !is_noncharacter((*char).into()))
    }

    fn text() -> impl Strategy<Value = String> {
        prop::collection::vec(character(), 0..24).prop_map(String::from_iter)
    }

    /// The values that `parse` makes: integers up to 2^53, doubles for all other numbers.
    fn value() -> impl Strategy<Value = Value> {
        let double = any::<f64>().prop_filter("an integer's value", |d| d.fract() != 0.0 || d.abs() > 2f64.powi(53));
        let short = (-99_999i64..99_999, 1..6).prop_map(|(digits, places)| digits as f64 / 10f64.powi(places));
        let short = short.prop_filter("an integer's value", |short| short.fract() != 0.0);
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            INTEGERS.prop_map(Value::from),
            (-1000i64..1000).prop_map(Value::from),
            double.prop_map(Value::from),
            short.prop_map(Value::from),
            text().prop_map(Value::from),
        ];
        scalar.prop_recursive(5, 60, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
                prop::collection::btree_map(text(), inner, 0..8)
                    .prop_map(|members| Value::Object(Map::from_iter(members))),
            ]
        })
    }

    /// The significant digits of a decimal text, and the exponent of the first of them, by nothing but moving text.
    fn scientific(text: &str) -> (String, i64) {
        let (mantissa, exponent) =
            text.trim_start_matches('-').split_once(['e', 'E']).unwrap_or((text.trim_start_matches('-'), "0"));
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let places = format!("{integer}{fraction}");
        let digits = places.trim_start_matches('0');
        let first = integer.len() as i64 - 1 - (places.len() - digits.len()) as i64 + exponent.parse::<i64>().unwrap();
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() { (String::new(), 0) } else { (digits.to_owned(), first) }
    }

    proptest! {
        #[test]
        fn canonical_agrees_with_another_implementation(value in value(), large in any::<u64>(), low in any::<i64>()) {
            prop_assert_eq!(canonical(&value), serde_json_canonicalizer::to_vec(&value).unwrap());
            let numbers = json!([large, low]);
            prop_assert_eq!(canonical(&numbers), serde_json_canonicalizer::to_vec(&numbers).unwrap());
        }

        #[test]
        fn a_canonical_value_has_its_length(value in value(), behind in "[,}\\]]{0,2}") {
            let canonical = canonical(&value);
            let text = [&canonical, behind.as_bytes()].concat();
            let rare = canonical.iter().any(|&byte| byte >= 0xf0 || byte == b'\\');
            match canonical_length(&text, MAX_DEPTH) {
                Some(length) => prop_assert_eq!(length, canonical.len()),
                None => prop_assert!(rare, "{}", String::from_utf8_lossy(&text)),
            }
        }

        #[test]
        fn only_a_canonical_value_has_a_length(
            value in value(), place in any::<prop::sample::Index>(), byte in any::<u8>(), depth in 0..6usize,
        ) {
            let mut text = canonical(&value);
            let place = place.index(text.len());
            text[place] = byte;
            is_never_wrong(&text, MAX_DEPTH)?;
            is_never_wrong(&canonical(&value), depth)?;
        }

        #[test]
        fn pieces_have_a_length_only_if_canonical(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..12)) {
            is_never_wrong(&pieces.concat(), MAX_DEPTH)?;
        }

        #[test]
        fn what_is_read_back_is_what_was_sent(value in value()) {
            prop_assert_eq!(&parse(&canonical(&value)).unwrap(), &value);
            prop_assert_eq!(&parse(&serde_json::to_vec_pretty(&value).unwrap()).unwrap(), &value);
        }

        /// The other implementation prints the nearest double, and knows nothing of our decimals.
        #[test]
        fn a_number_is_accepted_exactly_when_it_keeps_its_value(
            text in r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?",
        ) {
            let double: f64 = text.parse().unwrap();
            let nearest = serde_json_canonicalizer::to_string(&double).unwrap_or_default();
            let keeps = double.is_finite() && scientific(&text) == scientific(&nearest);
            prop_assert_eq!(parse(text.as_bytes()).is_ok(), keeps, "{}", text);
        }

        #[test]
        fn a_short_number_is_accepted_as_the_nearest_double(
            text in r"-?(0|[1-9][0-9]{0,7})\.[0-9]{1,7}(e-?[0-9]{1,2})?",
        ) {
            let double: f64 = text.parse().unwrap();
            prop_assert_eq!(parse(text.as_bytes()).unwrap().as_f64(), Some(double));
        }

        /// Pieces of JSON in any order: the grammar is that of serde_json, less what I-JSON and our bounds refuse.
        #[test]
        fn the_grammar_is_that_of_another_parser(
            pieces in prop::collection::vec(prop::sample::select(PIECES), 0..12),
            wrap in prop::sample::select(&[("", ""), ("[", "]"), ("{\"k\":", "}"), ("[[1,", ",2]]"), ("\"", "\"")][..]),
        ) {
            compare_with_serde_json([wrap.0.as_bytes(), &pieces.concat(), wrap.1.as_bytes()].concat().as_slice())?;
        }

        #[test]
        fn a_changed_byte_is_judged_as_by_another_parser(
            value in value(), place in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut text = canonical(&value);
            let place = place.index(text.len());
            text[place] = byte;
            compare_with_serde_json(&text)?;
        }
    }

    const PIECES: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"\"a\"",
        b"\"a\":",
        b"\"b\":",
        b"0",
        b"1",
        b"-",
        b"+",
        b".",
        b".5",
        b"e",
        b"E9",
        b"e-2",
        b"01",
        b"true",
        b"false",
        b"null",
        b"nul",
        b"NaN",
        b"Infinity",
        b" ",
        b"\n",
        b"\t",
        b"\r",
        b"\x0b",
        b"\x0c",
        b"\0",
        b"\\",
        b"\\n",
        b"\\u",
        b"\\u00e9",
        b"\\ud83d",
        b"\\ude02",
        b"\\'",
        b"/",
        b"//",
        b"/**/",
        b"#",
        b"'",
        b"\xc3\xa9",
        b"\xc3",
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
        b"\xc2\xa0",
        b"\x7f",
        b"\x1f",
    ];

    fn is_never_wrong(text: &[u8], limit: usize) -> Result<(), TestCaseError> {
        let shown = String::from_utf8_lossy(text);
        if std::str::from_utf8(text).is_err() {
            return Ok(());
        }
        if let Some(length) = canonical_length(text, limit) {
            let value = parse(&text[..length]).map_err(|error| TestCaseError::fail(format!("{shown}: {error}")))?;
            prop_assert_eq!(canonical(&value), &text[..length], "{}", shown);
            prop_assert!(depth(&value) <= limit, "{}", shown);
        }
        Ok(())
    }

    fn compare_with_serde_json(text: &[u8]) -> Result<(), TestCaseError> {
        let shown = String::from_utf8_lossy(text);
        match (parse(text), serde_json::from_slice::<Value>(text)) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(canonical(&ours), canonical(&theirs), "{}", shown),
            (Ok(_), Err(error)) => prop_assert!(false, "{} accepted, but: {}", shown, error),
            (Err(error), Ok(_)) => {
                let stricter = ["already", "send such a number as a string", "levels deep", "noncharacter"]
                    .iter()
                    .any(|reason| error.detail.contains(reason));
                prop_assert!(stricter, "{} refused: {}", shown, error);
            }
            (Err(ours), Err(_)) => prop_assert_eq!(refusal(text), ours),
        }
        Ok(())
    }
}
