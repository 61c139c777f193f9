//! Arrays and ranges as JSON. Pure.
//!
//! `{1,NULL,"a b"}` is `["1", null, "a b"]`, or numbers where the leader's elements are; arrays in arrays are
//! arrays in arrays. `[1,10)` is `{"lower": 1, "upper": 10, "bounds": "[)"}`, a missing bound null, `empty` is
//! `{"empty": true}`; a multirange is an array of them. Numbers are the digits that Postgres prints, NaN and the
//! infinities are strings. An array whose first index is not 1 cannot be told from one whose is: it is refused.
//! The text is the same whenever the value is, so that it can be compared.

use super::types::{Element, Shape};
use crate::sink::json::write_string;

/// Why a text is not one of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Not {
    /// The array's indexes do not begin at 1.
    FromOne,
    /// The text is none that Postgres prints.
    Understood,
}

/// Writes the JSON of a text.
pub(super) fn write(
    text: &[u8],
    shape: Shape,
    element: Element,
    out: &mut Vec<u8>,
) -> Result<(), Not> {
    let mut reader = Reader { text, at: 0 };
    match shape {
        Shape::Array(delimiter) => {
            if reader.peek() == Some(b'[') {
                return Err(Not::FromOne);
            }
            reader.array(delimiter, element, out)?;
        }
        Shape::Range => reader.range(element, out)?,
        Shape::Multirange => {
            reader.expect(b'{')?;
            out.push(b'[');
            while reader.peek() != Some(b'}') {
                if reader.peek() == Some(b',') {
                    reader.at += 1;
                    out.extend_from_slice(b", ");
                }
                reader.range(element, out)?;
            }
            reader.expect(b'}')?;
            out.push(b']');
        }
    }
    match reader.at == text.len() {
        true => Ok(()),
        false => Err(Not::Understood),
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), Not> {
        match self.peek() == Some(byte) {
            true => {
                self.at += 1;
                Ok(())
            }
            false => Err(Not::Understood),
        }
    }

    /// Postgres has six dimensions at most (`MAXDIM`), so this does not go deep.
    fn array(&mut self, delimiter: u8, element: Element, out: &mut Vec<u8>) -> Result<(), Not> {
        self.expect(b'{')?;
        out.push(b'[');
        let mut first = true;
        loop {
            match self.peek() {
                Some(b'}') => break,
                Some(byte) if byte == delimiter && !first => {
                    self.at += 1;
                    out.extend_from_slice(b", ");
                }
                Some(_) if first => {}
                Some(_) | None => return Err(Not::Understood),
            }
            first = false;
            match self.peek() {
                Some(b'{') => self.array(delimiter, element, out)?,
                Some(b'"') => write_string(&self.quoted()?, out),
                Some(_) => {
                    let plain = self.until(|byte| byte == delimiter || byte == b'}');
                    match plain.eq_ignore_ascii_case(b"NULL") {
                        true => out.extend_from_slice(b"null"),
                        false => put(plain, element, out),
                    }
                }
                None => return Err(Not::Understood),
            }
        }
        self.expect(b'}')?;
        out.push(b']');
        Ok(())
    }

    fn range(&mut self, element: Element, out: &mut Vec<u8>) -> Result<(), Not> {
        if self.text[self.at..].starts_with(b"empty") {
            self.at += b"empty".len();
            out.extend_from_slice(b"{\"empty\": true}");
            return Ok(());
        }
        let opening = self.peek().filter(|byte| matches!(byte, b'[' | b'('));
        self.at += 1;
        out.extend_from_slice(b"{\"lower\": ");
        self.bound(element, out)?;
        self.expect(b',')?;
        out.extend_from_slice(b", \"upper\": ");
        self.bound(element, out)?;
        let closing = self.peek().filter(|byte| matches!(byte, b']' | b')'));
        self.at += 1;
        let (Some(opening), Some(closing)) = (opening, closing) else {
            return Err(Not::Understood);
        };
        out.extend_from_slice(b", \"bounds\": \"");
        out.extend_from_slice(&[opening, closing]);
        out.extend_from_slice(b"\"}");
        Ok(())
    }

    fn bound(&mut self, element: Element, out: &mut Vec<u8>) -> Result<(), Not> {
        match self.peek() {
            Some(b'"') => {
                let text = self.quoted()?;
                write_string(&text, out);
            }
            Some(b',' | b']' | b')') => out.extend_from_slice(b"null"),
            Some(_) => {
                let plain = self.until(|byte| matches!(byte, b',' | b']' | b')'));
                put(plain, element, out);
            }
            None => return Err(Not::Understood),
        }
        Ok(())
    }

    fn until(&mut self, ends: impl Fn(u8) -> bool) -> &[u8] {
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|byte| ends(*byte));
        let length = length.unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// What stands in quotes: `\x` is x (arrays, ranges), and `""` a quote (ranges).
    fn quoted(&mut self) -> Result<Vec<u8>, Not> {
        self.expect(b'"')?;
        let mut text = Vec::new();
        loop {
            let byte = self.peek().ok_or(Not::Understood)?;
            self.at += 1;
            match (byte, self.peek()) {
                (b'\\', Some(next)) => {
                    text.push(next);
                    self.at += 1;
                }
                (b'"', Some(b'"')) => {
                    text.push(b'"');
                    self.at += 1;
                }
                (b'"', _) => return Ok(text),
                (byte, _) => text.push(byte),
            }
        }
    }
}

fn put(text: &[u8], element: Element, out: &mut Vec<u8>) {
    match (element, text) {
        (Element::Bool, b"t") => out.extend_from_slice(b"true"),
        (Element::Bool, b"f") => out.extend_from_slice(b"false"),
        // NaN and Infinity begin with no digit.
        (Element::Number, _) if text.last().is_some_and(u8::is_ascii_digit) => {
            out.extend_from_slice(text);
        }
        (Element::Bool | Element::Number | Element::Text, _) => write_string(text, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str, shape: Shape, element: Element) -> Result<String, Not> {
        let mut out = Vec::new();
        write(text.as_bytes(), shape, element, &mut out)?;
        let text = String::from_utf8(out).expect("UTF-8");
        let _valid: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        Ok(text)
    }

    #[test]
    fn arrays_are_json_arrays() {
        let array = Shape::Array(b',');
        for (text, element, expected) in [
            ("{}", Element::Number, "[]"),
            ("{1,NULL,-3}", Element::Number, "[1, null, -3]"),
            (
                "{NaN,1e+300,-Infinity}",
                Element::Number,
                "[\"NaN\", 1e+300, \"-Infinity\"]",
            ),
            ("{{1,2},{3,4}}", Element::Number, "[[1, 2], [3, 4]]"),
            ("{t,f,NULL}", Element::Bool, "[true, false, null]"),
            (
                "{a,\"b c\",\"NULL\",\"x\\\"y\\\\z\",\"\",\"{,}\"}",
                Element::Text,
                "[\"a\", \"b c\", \"NULL\", \"x\\\"y\\\\z\", \"\", \"{,}\"]",
            ),
            ("{\"a\nb\",ü}", Element::Text, "[\"a\\nb\", \"ü\"]"),
        ] {
            assert_eq!(
                json(text, array, element).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
        let boxes = json(
            "{(1,1),(0,0);(2,2),(1,1)}",
            Shape::Array(b';'),
            Element::Text,
        );
        assert_eq!(boxes.as_deref(), Ok("[\"(1,1),(0,0)\", \"(2,2),(1,1)\"]"));
        assert_eq!(
            json("[0:1]={1,2}", array, Element::Number),
            Err(Not::FromOne)
        );
        for wrong in ["", "{", "{1", "{1,2", "{1}x", "{\"a}", "1"] {
            assert_eq!(
                json(wrong, array, Element::Text),
                Err(Not::Understood),
                "{wrong}"
            );
        }
    }

    #[test]
    fn ranges_are_json_objects() {
        for (text, element, expected) in [
            ("empty", Element::Number, "{\"empty\": true}"),
            (
                "[1,10)",
                Element::Number,
                "{\"lower\": 1, \"upper\": 10, \"bounds\": \"[)\"}",
            ),
            (
                "(,5]",
                Element::Number,
                "{\"lower\": null, \"upper\": 5, \"bounds\": \"(]\"}",
            ),
            (
                "(,)",
                Element::Text,
                "{\"lower\": null, \"upper\": null, \"bounds\": \"()\"}",
            ),
            (
                "[\"2024-01-01 00:00:00\",infinity)",
                Element::Text,
                "{\"lower\": \"2024-01-01 00:00:00\", \"upper\": \"infinity\", \"bounds\": \"[)\"}",
            ),
            (
                "[\"a\"\"b\\\\c\",d]",
                Element::Text,
                "{\"lower\": \"a\\\"b\\\\c\", \"upper\": \"d\", \"bounds\": \"[]\"}",
            ),
        ] {
            assert_eq!(
                json(text, Shape::Range, element).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
        let many = json("{[1,3),[5,7)}", Shape::Multirange, Element::Number);
        assert_eq!(
            many.as_deref(),
            Ok("[{\"lower\": 1, \"upper\": 3, \"bounds\": \"[)\"}, \
                {\"lower\": 5, \"upper\": 7, \"bounds\": \"[)\"}]")
        );
        assert_eq!(
            json("{}", Shape::Multirange, Element::Text).as_deref(),
            Ok("[]")
        );
        for wrong in ["", "[", "[1", "[1,2", "[1,2)x", "1,2"] {
            assert_eq!(
                json(wrong, Shape::Range, Element::Text),
                Err(Not::Understood),
                "{wrong}"
            );
        }
    }
}
