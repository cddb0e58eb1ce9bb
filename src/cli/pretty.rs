//! JSON for people: indented and coloured on its way to a terminal, in constant memory.
//!
//! It looks at tokens only, so it takes any text, in pieces cut anywhere, and changes nothing but the space between tokens.
//! Control characters within strings are escaped: what a chain holds must not command a terminal.

/// Deeper levels are not indented further.
const DEEPEST_INDENT: usize = 40;

const RESET: &str = "\x1b[0m";
const KEY: &str = "\x1b[1;34m";
const STRING: &str = "\x1b[32m";
const NUMBER: &str = "\x1b[36m";
const LITERAL: &str = "\x1b[33m";

/// How JSON is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Each member on a line of its own.
    pub indent: bool,
    /// Names, texts, numbers and literals can be told apart by their colour.
    pub colours: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    None,
    /// A number or a literal.
    Scalar,
    Text,
    /// Behind a backslash.
    Escape,
    /// Behind the first byte of U+0080 to U+00BF.
    Latin,
}

/// Shows JSON values, one after the other.
pub struct Printer {
    style: Style,
    /// The brackets that are open.
    open: Vec<u8>,
    token: Token,
    /// Whether nothing stands behind the last opening bracket yet.
    is_empty: bool,
    /// Whether the next text is a member's name.
    expects_name: bool,
}

impl Printer {
    /// Begins before a value.
    pub fn new(style: Style) -> Printer {
        Printer { style, open: Vec::new(), token: Token::None, is_empty: false, expects_name: false }
    }

    /// Shows the next piece.
    pub fn take(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for &byte in piece {
            match self.token {
                Token::None | Token::Scalar => self.between(byte, out),
                _ => self.within_text(byte, out),
            }
        }
    }

    fn within_text(&mut self, byte: u8, out: &mut Vec<u8>) {
        match (self.token, byte) {
            (Token::Latin, 0x80..=0x9f) => {
                out.pop();
                escape(byte, out);
            }
            (_, 0..=0x1f | 0x7f) => escape(byte, out),
            _ => out.push(byte),
        }
        self.token = match (self.token, byte) {
            (_, 0xc2) => Token::Latin,
            (Token::Escape, _) => Token::Text,
            (_, b'\\') => Token::Escape,
            (_, b'"') => {
                self.colour(RESET, out);
                Token::None
            }
            _ => Token::Text,
        };
    }

    fn between(&mut self, byte: u8, out: &mut Vec<u8>) {
        let is_scalar = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
        if self.token == Token::Scalar && !is_scalar {
            self.token = Token::None;
            self.colour(RESET, out);
        }
        match byte {
            b'\n' if self.open.is_empty() => out.push(b'\n'),
            b'"' => {
                self.begin_value(out);
                self.colour(if self.expects_name { KEY } else { STRING }, out);
                self.token = Token::Text;
                out.push(byte);
            }
            b'{' | b'[' => {
                self.begin_value(out);
                self.open.push(byte);
                (self.is_empty, self.expects_name) = (true, byte == b'{');
                out.push(byte);
            }
            b'}' | b']' => {
                self.open.pop();
                if !self.is_empty {
                    self.new_line(out);
                }
                (self.is_empty, self.expects_name) = (false, false);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                self.expects_name = self.open.last() == Some(&b'{');
                self.new_line(out);
            }
            b':' => {
                out.extend_from_slice(if self.style.indent { b": " } else { b":" });
                self.expects_name = false;
            }
            _ if is_scalar => {
                if self.token == Token::None {
                    self.begin_value(out);
                    self.colour(if byte.is_ascii_alphabetic() { LITERAL } else { NUMBER }, out);
                    self.token = Token::Scalar;
                }
                out.push(byte);
            }
            // Space, or what no JSON has.
            _ => {}
        }
    }

    fn begin_value(&mut self, out: &mut Vec<u8>) {
        if self.is_empty {
            self.new_line(out);
            self.is_empty = false;
        }
    }

    fn new_line(&self, out: &mut Vec<u8>) {
        if self.style.indent {
            out.push(b'\n');
            out.resize(out.len() + 2 * self.open.len().min(DEEPEST_INDENT), b' ');
        }
    }

    fn colour(&self, colour: &str, out: &mut Vec<u8>) {
        if self.style.colours {
            out.extend_from_slice(colour.as_bytes());
        }
    }
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn shown(style: Style, text: &str, piece: usize) -> String {
        let (mut printer, mut out) = (Printer::new(style), Vec::new());
        text.as_bytes().chunks(piece).for_each(|piece| printer.take(piece, &mut out));
        String::from_utf8(out).expect("what goes in as UTF-8 comes out as such")
    }

    #[test]
    fn members_stand_below_each_other() {
        let text = r#"[{"a" :[1, -2.5e+3],"b,{":"\"}\\" },{},[] ,null]"#;
        let expected = "[\n  {\n    \"a\": [\n      1,\n      -2.5e+3\n    ],\n    \"b,{\": \"\\\"}\\\\\"\n  },\n  {},\n  [],\n  null\n]";
        for piece in 1..text.len() {
            assert_eq!(shown(Style { indent: true, colours: false }, text, piece), expected);
        }
        let lines = "{\"a\": 1}\n[2]\n";
        assert_eq!(shown(Style { indent: false, colours: false }, lines, 3), "{\"a\":1}\n[2]\n");
    }

    #[test]
    fn colours_end_where_their_token_does() {
        let style = Style { indent: false, colours: true };
        let expected = format!(
            "{{{KEY}\"a\"{RESET}:{STRING}\"b\"{RESET},{KEY}\"c\"{RESET}:[{NUMBER}1{RESET},{LITERAL}true{RESET}]}}"
        );
        assert_eq!(shown(style, r#"{"a":"b","c":[1,true]}"#, 2), expected);
    }

    #[test]
    fn no_control_character_reaches_a_terminal() {
        let text = "[\"\u{9b}31m\u{7f}\u{a9}\u{e9}\u{1b}\"]";
        assert_eq!(
            shown(Style { indent: false, colours: false }, text, 1),
            "[\"\\u009b31m\\u007f\u{a9}\u{e9}\\u001b\"]"
        );
    }

    proptest! {
        #[test]
        fn the_value_stays_the_same(texts in prop::collection::vec("[\\[\\]{},:\"\\\\ a\u{80}-\u{c0}]{0,6}", 0..5), piece in 1..9usize) {
            let value = serde_json::json!({"texts": texts, "": [null, {"x": 1.5, "y": {}}]});
            for indent in [false, true] {
                let shown = shown(Style { indent, colours: false }, &value.to_string(), piece);
                prop_assert_eq!(&serde_json::from_str::<Value>(&shown).unwrap(), &value);
            }
        }
    }
}
