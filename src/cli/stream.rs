//! JSON that is too large to be held, read piece by piece: quants with their transactions, in an array or in a row.
//!
//! serde_json finds where a piece begins and ends; whether the piece is valid I-JSON is for [`crate::core::json`] to say.

use std::{
    cell::Cell,
    fmt,
    io::{BufRead, Read},
    rc::Rc,
};

use anyhow::anyhow;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of an object in their order, each name once, without `transactions`.
pub type Fields = Vec<(String, Box<RawValue>)>;

/// Takes pieces as they come. An error of it ends the reading.
pub trait Sink {
    /// An element of an array of transactions.
    fn transaction(&mut self, text: &RawValue) -> anyhow::Result<()>;
    /// An object, after the transactions in it.
    fn object(&mut self, fields: Fields) -> anyhow::Result<()>;
}

/// Reads objects that stand in a row, one a line as a rule, or in one array.
///
/// # Errors
/// That of the sink, or what is no JSON.
pub fn read_objects(mut input: impl BufRead, sink: &mut dyn Sink) -> anyhow::Result<()> {
    let is_array = first_byte(&mut input)? == Some(b'[');
    let mut json = serde_json::Deserializer::from_reader(input);
    let mut reading = Reading { sink, failed: None };
    let done = match is_array {
        true => Objects(&mut reading).deserialize(&mut json).and_then(|()| json.end()),
        false => loop {
            match json.end() {
                Ok(()) => break Ok(()),
                // Something comes.
                Err(error) if error.is_syntax() => {}
                Err(error) => break Err(error),
            }
            if let Err(error) = Object(&mut reading).deserialize(&mut json) {
                break Err(error);
            }
        },
    };
    reading.finish(done)
}

/// The first byte that is no white space, which stays unread.
fn first_byte(input: &mut impl BufRead) -> anyhow::Result<Option<u8>> {
    loop {
        let buffer = input.fill_buf()?;
        match buffer.first() {
            Some(byte) if byte.is_ascii_whitespace() => input.consume(1),
            byte => return Ok(byte.copied()),
        }
    }
}

/// Counts the lines of what is read through it.
pub struct LineCount<R> {
    input: R,
    lines: Rc<Cell<u64>>,
}

impl<R: BufRead> LineCount<R> {
    /// The counter starts at 1 and is the line that is read at the moment.
    pub fn new(input: R) -> (Self, Rc<Cell<u64>>) {
        let lines = Rc::new(Cell::new(1));
        (LineCount { input, lines: lines.clone() }, lines)
    }

    fn count(&self, read: &[u8]) {
        let lines = read.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.lines.set(self.lines.get() + lines);
    }
}

impl<R: BufRead> Read for LineCount<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.count(&buffer[..read]);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for LineCount<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        let line_ends =
            self.input.fill_buf().map_or(0, |buffer| buffer[..amount].iter().filter(|&&byte| byte == b'\n').count());
        self.lines.set(self.lines.get() + line_ends as u64);
        self.input.consume(amount);
    }
}

struct Reading<'a> {
    sink: &'a mut dyn Sink,
    /// serde can carry a text only, so the sink's error waits here.
    failed: Option<anyhow::Error>,
}

impl Reading<'_> {
    fn keep<E: Error>(&mut self, result: anyhow::Result<()>) -> Result<(), E> {
        result.map_err(|error| {
            self.failed = Some(error);
            E::custom("the sink failed")
        })
    }

    fn finish(self, done: serde_json::Result<()>) -> anyhow::Result<()> {
        match (self.failed, done) {
            (Some(failed), _) => Err(failed),
            (None, Err(error)) if error.is_eof() => Err(anyhow!("the JSON is cut short: {error}")),
            (None, Err(error)) => Err(anyhow!("the JSON cannot be read: {error}")),
            (None, Ok(())) => Ok(()),
        }
    }
}

struct Objects<'a, 'b>(&'a mut Reading<'b>);

impl<'de> DeserializeSeed<'de> for Objects<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Objects<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array of quants")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while array.next_element_seed(Object(self.0))?.is_some() {}
        Ok(())
    }
}

struct Object<'a, 'b>(&'a mut Reading<'b>);

impl<'de> DeserializeSeed<'de> for Object<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a quant, a transaction or a receipt")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let (mut fields, mut has_transactions) = (Fields::new(), false);
        while let Some(name) = object.next_key::<String>()? {
            let is_new = if name == "transactions" {
                !std::mem::replace(&mut has_transactions, true)
            } else {
                fields.iter().all(|(other, _)| *other != name)
            };
            if !is_new {
                return Err(A::Error::custom(format_args!("the name {name:?} stands twice in one object")));
            }
            match name.as_str() {
                "transactions" => object.next_value_seed(Transactions(self.0))?,
                _ => fields.push((name, object.next_value()?)),
            }
        }
        let taken = self.0.sink.object(fields);
        self.0.keep(taken)
    }
}

struct Transactions<'a, 'b>(&'a mut Reading<'b>);

impl<'de> DeserializeSeed<'de> for Transactions<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Transactions<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array of transactions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(text) = array.next_element::<Box<RawValue>>()? {
            let taken = self.0.sink.transaction(&text);
            self.0.keep(taken)?;
        }
        Ok(())
    }
}
