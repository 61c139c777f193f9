//! Values as SQL literals, straight from the text that Postgres prints: no allocation a value. Pure.
//!
//! A value that a column cannot hold exactly is refused here, before the server sees it: what servers cut or round
//! without an error, even in strict mode, are blanks behind a text and digits behind a point.

use std::io::Write;

use super::json::{self, Not};
use super::types::{Held, LONG, Server};
use super::wire::put_literal;

/// Where a literal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// It is assigned to the column.
    Assigned,
    /// It is compared with the column, alone.
    Compared,
    /// It is compared with the column, as one of a list that has one type for all of them.
    Joined,
    /// It is no literal, but a field of a line for LOAD DATA: a backslash takes a byte's meaning away.
    Field,
}

/// Why a value is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// NaN, infinity.
    NotFinite,
    /// A day before or behind all that the type has.
    Year,
    /// Longer than the column.
    TooLong,
    /// More digits than the column has.
    Digits,
    /// An array whose indexes do not begin at 1.
    FromOne,
    /// Not what Postgres prints of the type.
    NotUnderstood,
}

impl Unfit {
    /// What is said of it.
    pub(super) fn what(self) -> &'static str {
        match self {
            Unfit::NotFinite => "is NaN or infinite, which the follower's type does not know",
            Unfit::Year => "is of a year that the follower's type does not have",
            Unfit::TooLong => "is longer than the follower's column",
            Unfit::Digits => "has more digits than the follower's column",
            Unfit::FromOne => "is an array whose first index is not 1, which JSON cannot say",
            Unfit::NotUnderstood => "is not what Postgres prints of its type",
        }
    }
}

/// Appends a value of a column that is held so.
pub(super) fn put(
    held: Held,
    text: &[u8],
    (form, server): (Form, Server),
    out: &mut Vec<u8>,
) -> Result<(), Unfit> {
    match held {
        Held::Bool => out.push(match text {
            b"t" => b'1',
            b"f" => b'0',
            _other => return Err(Unfit::NotUnderstood),
        }),
        Held::Integer(_) => {
            is_integer(text).then_some(()).ok_or(Unfit::NotUnderstood)?;
            out.extend_from_slice(text);
        }
        Held::Float => put_float(text, out)?,
        Held::Double => put_double(text, out)?,
        Held::Decimal(precision, scale) => {
            fits_digits(text, precision, scale)?;
            match form {
                // One type for a list would be rounded to 65 digits in all; a comparison with a text is one of
                // doubles.
                Form::Assigned | Form::Joined => put_literal(text, out),
                Form::Compared | Form::Field => out.extend_from_slice(text),
            }
        }
        Held::Varchar(chars) => {
            fits_characters(text, chars)?;
            put_text(text, form, out);
        }
        Held::Uuid => match text.len() {
            36 => put_text(text, form, out),
            _other => return Err(Unfit::NotUnderstood),
        },
        Held::Text(bytes) => {
            fits_bytes(text.len(), bytes)?;
            put_text(text, form, out);
        }
        Held::Varbinary(bytes) | Held::Blob(bytes) => {
            let hex = text.strip_prefix(b"\\x").ok_or(Unfit::NotUnderstood)?;
            if !hex.iter().all(u8::is_ascii_hexdigit) {
                return Err(Unfit::NotUnderstood);
            }
            fits_bytes(hex.len() / 2, bytes)?;
            match form {
                Form::Field => out.extend_from_slice(hex),
                Form::Assigned | Form::Compared | Form::Joined => {
                    out.extend_from_slice(b"x'");
                    out.extend_from_slice(hex);
                    out.push(b'\'');
                }
            }
        }
        Held::Date => put_time("DATE", day(text, server)?, form, out),
        Held::DateTime(_) => {
            let plain = text.strip_suffix(b"+00").unwrap_or(text);
            let (date, time) = split_at_blank(plain)?;
            day(date, server)?;
            is_time(time).then_some(()).ok_or(Unfit::NotUnderstood)?;
            put_time("TIMESTAMP", plain, form, out);
        }
        Held::Time(_) => {
            is_time(text).then_some(()).ok_or(Unfit::NotUnderstood)?;
            put_time("TIME", text, form, out);
        }
        Held::Json(shape, element, bytes) => {
            let start = out.len();
            json::write(text, shape, element, out).map_err(|not| match not {
                Not::FromOne => Unfit::FromOne,
                Not::Understood => Unfit::NotUnderstood,
            })?;
            fits_bytes(out.len() - start, bytes)?;
            match form {
                Form::Field => {
                    let json = out.split_off(start);
                    put_text(&json, form, out);
                }
                Form::Assigned | Form::Compared | Form::Joined => quote_in_place(start, out),
            }
        }
    }
    Ok(())
}

/// A typed literal where it is compared: a text would be, as a text or a number, in some places.
fn put_time(kind: &str, text: &[u8], form: Form, out: &mut Vec<u8>) {
    match form {
        Form::Field => return out.extend_from_slice(text),
        Form::Assigned => {}
        Form::Compared | Form::Joined => out.extend_from_slice(kind.as_bytes()),
    }
    put_literal(text, out);
}

fn put_text(text: &[u8], form: Form, out: &mut Vec<u8>) {
    match form {
        Form::Assigned | Form::Compared | Form::Joined => put_literal(text, out),
        Form::Field => {
            let mut rest = text;
            while let Some(at) = memchr::memchr3(b'\t', b'\n', b'\\', rest) {
                out.extend_from_slice(&rest[..at]);
                out.extend_from_slice(&[b'\\', rest[at]]);
                rest = &rest[at + 1..];
            }
            out.extend_from_slice(rest);
        }
    }
}

/// Puts what was appended since `start` in quotes.
fn quote_in_place(start: usize, out: &mut Vec<u8>) {
    let quotes = memchr::memchr_iter(b'\'', &out[start..]).count();
    let end = out.len();
    out.resize(end + quotes + 2, b'\'');
    let mut to = out.len() - 1;
    for from in (start..end).rev() {
        to -= 1;
        out[to] = out[from];
        if out[from] == b'\'' {
            to -= 1;
            out[to] = b'\'';
        }
    }
    out[start] = b'\'';
}

fn is_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn finite(text: &[u8]) -> Result<&str, Unfit> {
    let text = std::str::from_utf8(text).map_err(|_not_utf8| Unfit::NotUnderstood)?;
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(text),
        Ok(_nan_or_infinity) => Err(Unfit::NotFinite),
        Err(_no_number) => Err(Unfit::NotUnderstood),
    }
}

/// With an exponent it is a double; without, it would be a decimal.
fn put_double(text: &[u8], out: &mut Vec<u8>) -> Result<(), Unfit> {
    let text = finite(text)?;
    out.extend_from_slice(text.as_bytes());
    if !text.contains('e') {
        out.extend_from_slice(b"e0");
    }
    Ok(())
}

/// The double that is exactly this float: of the float's own digits the server would make the nearest double, which
/// is another number, and out of range for the largest float.
fn put_float(text: &[u8], out: &mut Vec<u8>) -> Result<(), Unfit> {
    let text = finite(text)?;
    let float: f32 = text.parse().map_err(|_no_number| Unfit::NotUnderstood)?;
    if !float.is_finite() {
        return Err(Unfit::Digits);
    }
    write!(out, "{:e}", f64::from(float)).map_err(|_never| Unfit::NotUnderstood)
}

fn fits_digits(text: &[u8], precision: u8, scale: u8) -> Result<(), Unfit> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let point = digits.iter().position(|byte| *byte == b'.');
    let (before, behind) = digits.split_at(point.unwrap_or(digits.len()));
    let behind = behind.strip_prefix(b".").unwrap_or(behind);
    let only_digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    if before.is_empty() || !only_digits(before) || !only_digits(behind) {
        let named = digits
            .first()
            .is_some_and(|byte| matches!(byte, b'N' | b'I'));
        return Err(if named {
            Unfit::NotFinite
        } else {
            Unfit::NotUnderstood
        });
    }
    let zeros = before.iter().take_while(|byte| **byte == b'0').count();
    let last = behind.iter().rposition(|byte| *byte != b'0');
    let fits = before.len() - zeros <= usize::from(precision - scale)
        && last.map_or(0, |last| last + 1) <= usize::from(scale);
    fits.then_some(()).ok_or(Unfit::Digits)
}

fn fits_characters(text: &[u8], chars: u32) -> Result<(), Unfit> {
    let max = usize::try_from(chars).unwrap_or(usize::MAX);
    // A character has at least one byte.
    if text.len() <= max {
        return Ok(());
    }
    let is_first = |byte: &&u8| (**byte & 0b1100_0000) != 0b1000_0000;
    let count = text.iter().filter(is_first).count();
    (count <= max).then_some(()).ok_or(Unfit::TooLong)
}

fn fits_bytes(length: usize, bytes: u32) -> Result<(), Unfit> {
    match bytes == LONG || length <= usize::try_from(bytes).unwrap_or(usize::MAX) {
        true => Ok(()),
        false => Err(Unfit::TooLong),
    }
}

fn split_at_blank(text: &[u8]) -> Result<(&[u8], &[u8]), Unfit> {
    match text.iter().position(|byte| *byte == b' ') {
        Some(at) => Ok((&text[..at], &text[at + 1..])),
        // Postgres prints `infinity`, and nothing else without a blank.
        None if text.ends_with(b"infinity") => Err(Unfit::NotFinite),
        None => Err(Unfit::NotUnderstood),
    }
}

/// Whether it is `2024-01-31`, of a year that the server has. Years are longer from 10000 on, and end in ` BC`.
fn day(text: &[u8], server: Server) -> Result<&[u8], Unfit> {
    if text.ends_with(b"infinity") {
        return Err(Unfit::NotFinite);
    }
    let is_day = |text: &[u8]| {
        text.iter().enumerate().all(|(n, byte)| match n {
            4 | 7 => *byte == b'-',
            _digit => byte.is_ascii_digit(),
        })
    };
    if text.len() == 10 && is_day(text) {
        let year = text[..4]
            .iter()
            .fold(0, |year, digit| year * 10 + u16::from(digit - b'0'));
        return (year >= server.first_year)
            .then_some(text)
            .ok_or(Unfit::Year);
    }
    let strange = |byte: &u8| !(byte.is_ascii_digit() || b"- BC".contains(byte));
    match text.iter().any(strange) || text.len() < 10 {
        true => Err(Unfit::NotUnderstood),
        false => Err(Unfit::Year),
    }
}

/// Whether it is `23:59:59`, perhaps with digits of a second. Behind a date before Christ stands ` BC`: the day
/// was refused then, or is here.
fn is_time(text: &[u8]) -> bool {
    let (time, rest) = text.split_at(text.len().min(8));
    let is_clock = time.len() == 8
        && time.iter().enumerate().all(|(n, byte)| match n {
            2 | 5 => *byte == b':',
            _digit => byte.is_ascii_digit(),
        });
    let fraction = match rest {
        [] => true,
        [b'.', digits @ ..] => {
            (1..=6).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
        }
        _other => false,
    };
    is_clock && fraction
}

#[cfg(test)]
mod tests {
    use super::super::types::{Element, Shape};
    use super::*;

    fn value(held: Held, text: &str, form: Form) -> Result<String, Unfit> {
        let mut out = b"(".to_vec();
        put(held, text.as_bytes(), (form, Server::MYSQL), &mut out)?;
        Ok(String::from_utf8(out.split_off(1)).expect("UTF-8"))
    }

    #[test]
    fn every_type_has_its_literals() {
        use Form::{Assigned, Compared, Joined};
        let array = Held::Json(Shape::Array(b','), Element::Text, LONG);
        for (held, text, form, expected) in [
            (Held::Bool, "t", Assigned, "1"),
            (Held::Bool, "f", Compared, "0"),
            (
                Held::Integer(8),
                "-9223372036854775808",
                Assigned,
                "-9223372036854775808",
            ),
            (Held::Float, "0.1", Assigned, "1.0000000149011612e-1"),
            (
                Held::Float,
                "3.4028235e+38",
                Assigned,
                "3.4028234663852886e38",
            ),
            (Held::Double, "0.1", Assigned, "0.1e0"),
            (Held::Double, "-1e-300", Compared, "-1e-300"),
            (Held::Decimal(5, 2), "-123.40", Assigned, "'-123.40'"),
            (Held::Decimal(5, 2), "123.400", Compared, "123.400"),
            (Held::Decimal(5, 2), "0", Joined, "'0'"),
            (Held::Varchar(3), "äöü", Assigned, "'äöü'"),
            (
                Held::Text(LONG),
                "it's \\ a 'b'",
                Assigned,
                "'it''s \\ a ''b'''",
            ),
            (Held::Blob(LONG), "\\x00ff", Assigned, "x'00ff'"),
            (Held::Blob(LONG), "\\x", Assigned, "x''"),
            (Held::Date, "2024-02-29", Assigned, "'2024-02-29'"),
            (Held::Date, "2024-02-29", Joined, "DATE'2024-02-29'"),
            (
                Held::DateTime(6),
                "2024-01-02 03:04:05.123456+00",
                Assigned,
                "'2024-01-02 03:04:05.123456'",
            ),
            (
                Held::DateTime(6),
                "9999-12-31 23:59:59",
                Compared,
                "TIMESTAMP'9999-12-31 23:59:59'",
            ),
            (Held::Time(6), "24:00:00", Compared, "TIME'24:00:00'"),
            (
                Held::Text(LONG),
                "a\tb\\N\n'",
                Form::Field,
                "a\\\tb\\\\N\\\n'",
            ),
            (Held::Blob(LONG), "\\x00ff", Form::Field, "00ff"),
            (
                Held::DateTime(6),
                "2024-01-02 03:04:05+00",
                Form::Field,
                "2024-01-02 03:04:05",
            ),
            (array, "{it's,b}", Form::Field, "[\"it's\", \"b\"]"),
            (array, "{it's,b}", Assigned, "'[\"it''s\", \"b\"]'"),
        ] {
            assert_eq!(
                value(held, text, form).as_deref(),
                Ok(expected),
                "{held:?} {text}"
            );
        }
    }

    #[test]
    fn what_is_not_held_exactly_is_refused() {
        for (held, text, unfit) in [
            (Held::Float, "NaN", Unfit::NotFinite),
            (Held::Double, "-Infinity", Unfit::NotFinite),
            (Held::Double, "x", Unfit::NotUnderstood),
            (Held::Decimal(5, 2), "NaN", Unfit::NotFinite),
            (Held::Decimal(5, 2), "Infinity", Unfit::NotFinite),
            (Held::Decimal(5, 2), "1234", Unfit::Digits),
            (Held::Decimal(5, 2), "1.234", Unfit::Digits),
            (Held::Decimal(5, 2), "1,2", Unfit::NotUnderstood),
            (Held::Varchar(3), "abc ", Unfit::TooLong),
            (Held::Varbinary(1), "\\x0000", Unfit::TooLong),
            (Held::Blob(LONG), "\\x0g", Unfit::NotUnderstood),
            (Held::Date, "infinity", Unfit::NotFinite),
            (Held::Date, "10000-01-01", Unfit::Year),
            (Held::Date, "0044-03-15 BC", Unfit::Year),
            (Held::Date, "0999-01-01", Unfit::Year),
            (Held::DateTime(6), "-infinity", Unfit::NotFinite),
            (Held::DateTime(6), "10000-01-01 00:00:00+00", Unfit::Year),
            (Held::DateTime(6), "0044-03-15 00:00:00+00 BC", Unfit::Year),
            (
                Held::DateTime(6),
                "2024-01-01 00:00:00+01",
                Unfit::NotUnderstood,
            ),
            (Held::Integer(4), "1;DROP", Unfit::NotUnderstood),
            (
                Held::Json(Shape::Array(b','), Element::Text, LONG),
                "[0:0]={a}",
                Unfit::FromOne,
            ),
        ] {
            assert_eq!(
                value(held, text, Form::Assigned),
                Err(unfit),
                "{held:?} {text}"
            );
        }
    }
}
