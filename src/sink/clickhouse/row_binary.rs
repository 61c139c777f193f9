//! RowBinary: values from the text that Postgres prints to the bytes that ClickHouse reads, and the length of those
//! that it sends. Nothing is rounded, cut or wrapped: what a type cannot hold is refused with a reason.
//!
//! The format: <https://clickhouse.com/docs/interfaces/formats/RowBinary>. Numbers are little-endian, a String
//! is its length as a varint and its bytes, `Nullable` is a byte (1: NULL) before the value.

use super::types::{Kind, Type};

/// Why a value cannot be held; never the value.
pub(super) type Unheld = &'static str;

/// Days from 1970-01-01 to the first and behind the last day of `Date32` and `DateTime64`.
const DAYS: std::ops::Range<i64> = -25_567..120_530;

const MALFORMED: Unheld = "is not in the form that Postgres prints";

/// Appends a varint (LEB128).
pub(super) fn varint(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a String.
pub(super) fn string(bytes: &[u8], out: &mut Vec<u8>) {
    varint(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// Appends a value, or NULL, or what stands for NULL where there is none: the empty array.
pub(super) fn value(of: &Type, text: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), Unheld> {
    let Some(text) = text else {
        return match (of.nullable, &of.kind) {
            (true, _) => {
                out.push(1);
                Ok(())
            }
            (false, Kind::Array(_)) => {
                out.push(0);
                Ok(())
            }
            (false, _) => Err("is NULL, which the follower's column cannot be"),
        };
    };
    if of.nullable {
        out.push(0);
    }
    plain(&of.kind, text, out)
}

/// Appends what a column has that says nothing: NULL, zero, or nothing at all.
pub(super) fn nothing(of: &Type, out: &mut Vec<u8>) {
    match of.nullable {
        true => out.push(1),
        false => zero(&of.kind, out),
    }
}

/// Appends zero, or nothing at all.
pub(super) fn zero(kind: &Kind, out: &mut Vec<u8>) {
    let zeros = match kind {
        Kind::Bool => 1,
        Kind::Int16 => 2,
        Kind::Int32 | Kind::UInt32 | Kind::Float32 | Kind::Date32 => 4,
        Kind::Int64 | Kind::Float64 | Kind::DateTime64 => 8,
        Kind::Decimal(precision, _) => decimal_bytes(*precision),
        Kind::Uuid => 16,
        Kind::Text | Kind::Bytes | Kind::Word | Kind::Array(_) => 1,
        Kind::Json => return string(b"{}", out),
    };
    out.resize(out.len() + zeros, 0);
}

/// Appends a value that is not NULL, without saying so.
pub(super) fn plain(kind: &Kind, text: &[u8], out: &mut Vec<u8>) -> Result<(), Unheld> {
    match kind {
        Kind::Bool => match text {
            b"t" => out.push(1),
            b"f" => out.push(0),
            _other => return Err(MALFORMED),
        },
        Kind::Int16 => out.extend_from_slice(&integer::<i16>(text)?.to_le_bytes()),
        Kind::Int32 => out.extend_from_slice(&integer::<i32>(text)?.to_le_bytes()),
        Kind::Int64 => out.extend_from_slice(&integer::<i64>(text)?.to_le_bytes()),
        Kind::UInt32 => out.extend_from_slice(&integer::<u32>(text)?.to_le_bytes()),
        Kind::Float32 => out.extend_from_slice(&float::<f32>(text)?.to_le_bytes()),
        Kind::Float64 => out.extend_from_slice(&float::<f64>(text)?.to_le_bytes()),
        Kind::Decimal(precision, scale) => decimal(*precision, *scale, text, out)?,
        Kind::Date32 => {
            let (days, rest) = date(text)?;
            if !rest.is_empty() {
                return Err(MALFORMED);
            }
            out.extend_from_slice(&(days as i32).to_le_bytes());
        }
        Kind::DateTime64 => out.extend_from_slice(&microseconds(text)?.to_le_bytes()),
        Kind::Uuid => uuid(text, out)?,
        Kind::Text | Kind::Word | Kind::Json => string(text, out),
        Kind::Bytes => bytes(text, out)?,
        Kind::Array(element) => array(element, text, out)?,
    }
    Ok(())
}

fn integer<T: TryFrom<i64>>(text: &[u8]) -> Result<T, Unheld> {
    let number = match text.split_first() {
        Some((b'-', digits)) => 0_i64.checked_sub_unsigned(unsigned(0, digits)?),
        Some(_) | None => i64::try_from(unsigned(0, text)?).ok(),
    };
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or(MALFORMED)
}

/// Most digits of which any number is one of 64 bits.
const DIGITS_64: usize = 19;

/// `before`, and these digits behind it: together at most [`DIGITS_64`], at least one of them here.
fn unsigned(before: u64, digits: &[u8]) -> Result<u64, Unheld> {
    if digits.is_empty() || digits.len() > DIGITS_64 {
        return Err(MALFORMED);
    }
    let mut number = before;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(MALFORMED);
        }
        number = number * 10 + u64::from(digit);
    }
    Ok(number)
}

fn float<T: std::str::FromStr>(text: &[u8]) -> Result<T, Unheld> {
    let text = str::from_utf8(text).map_err(|_| MALFORMED)?;
    // Rust reads `Infinity` and `NaN` as Postgres prints them.
    text.parse().map_err(|_| MALFORMED)
}

/// Bytes of a Decimal.
fn decimal_bytes(precision: u32) -> usize {
    match precision {
        0..=9 => 4,
        10..=18 => 8,
        19..=38 => 16,
        39.. => 32,
    }
}

/// Most digits that 64 bits hold, and 128.
const SHORT_MAX: u32 = 18;
const NARROW_MAX: u32 = 38;

const MORE_DIGITS: Unheld = "has more digits than its Decimal";

fn decimal(precision: u32, scale: u32, text: &[u8], out: &mut Vec<u8>) -> Result<(), Unheld> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some(_) | None => (false, text),
    };
    if matches!(digits, b"NaN" | b"Infinity") {
        return Err("is NaN or infinite, which a Decimal cannot be");
    }
    let point = digits.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &b""[..]),
    };
    let scale = scale as usize;
    let (kept, cut) = fraction.split_at(fraction.len().min(scale));
    if cut.iter().any(|digit| *digit != b'0') {
        return Err("has more digits behind the point than its Decimal");
    }
    if precision <= SHORT_MAX && !whole.is_empty() && whole.len() + scale <= DIGITS_64 {
        let mut number = unsigned(0, whole)?;
        if !kept.is_empty() {
            number = unsigned(number, kept)?;
        }
        number *= 10_u64.pow((scale - kept.len()) as u32);
        if number >= 10_u64.pow(precision) {
            return Err(MORE_DIGITS);
        }
        let number = number as i64;
        let signed = if negative { -number } else { number };
        out.extend_from_slice(&signed.to_le_bytes()[..decimal_bytes(precision)]);
        return Ok(());
    }
    let zeros = std::iter::repeat_n(&b'0', scale - kept.len());
    let (mut narrow, mut wide) = (0_i128, Wide::default());
    let mut count = 0;
    for digit in whole.iter().chain(kept).chain(zeros) {
        if !digit.is_ascii_digit() {
            return Err(MALFORMED);
        }
        count += u32::from(count > 0 || *digit != b'0');
        if count > precision {
            return Err(MORE_DIGITS);
        }
        match precision {
            ..=NARROW_MAX => narrow = narrow * 10 + i128::from(*digit - b'0'),
            _wide => wide.push(*digit - b'0'),
        }
    }
    if precision <= NARROW_MAX {
        let signed = if negative { -narrow } else { narrow };
        out.extend_from_slice(&signed.to_le_bytes()[..decimal_bytes(precision)]);
    } else {
        out.extend_from_slice(&wide.signed(negative));
    }
    Ok(())
}

/// A number below 10^76: 256 bits, lowest first.
#[derive(Default)]
struct Wide([u64; 4]);

impl Wide {
    fn push(&mut self, digit: u8) {
        let mut carry = u128::from(digit);
        for limb in &mut self.0 {
            let product = u128::from(*limb) * 10 + carry;
            *limb = product as u64;
            carry = product >> 64;
        }
    }

    /// In two's complement, little-endian.
    fn signed(&self, negative: bool) -> [u8; 32] {
        let mut bytes = [0; 32];
        let mut carry = true;
        for (limb, out) in self.0.iter().zip(bytes.chunks_exact_mut(8)) {
            let limb = if negative {
                let (sum, over) = (!limb).overflowing_add(u64::from(carry));
                carry = over;
                sum
            } else {
                *limb
            };
            out.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }
}

/// Days since 1970-01-01, and what stands behind the date.
fn date(text: &[u8]) -> Result<(i64, &[u8]), Unheld> {
    const OUT_OF_RANGE: Unheld = "lies outside of the years 1900 to 2299";
    if text.ends_with(b"infinity") {
        return Err("is infinite, which a date of ClickHouse cannot be");
    }
    if text.ends_with(b" BC") {
        return Err(OUT_OF_RANGE);
    }
    // Most years have four digits.
    let dash = match text.get(4) {
        Some(b'-') => Some(4),
        Some(_) | None => text.iter().position(|byte| *byte == b'-'),
    };
    let dash = dash.ok_or(MALFORMED)?;
    let (year, rest) = (&text[..dash], &text[dash..]);
    let &[b'-', m1, m2, b'-', d1, d2, ref behind @ ..] = rest else {
        return Err(MALFORMED);
    };
    let year: i64 = integer(year)?;
    let (month, day) = (i64::from(two(m1, m2)?), i64::from(two(d1, d2)?));
    // Days from the civil calendar, years beginning in March (Hinnant, "chrono-compatible date algorithms").
    let of_march = if month > 2 { year } else { year - 1 };
    let era = of_march.div_euclid(400);
    let year_of_era = of_march.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    match DAYS.contains(&days) {
        true => Ok((days, behind)),
        false => Err(OUT_OF_RANGE),
    }
}

fn two(tens: u8, ones: u8) -> Result<u32, Unheld> {
    match (tens, ones) {
        (b'0'..=b'9', b'0'..=b'9') => Ok(u32::from(tens - b'0') * 10 + u32::from(ones - b'0')),
        _other => Err(MALFORMED),
    }
}

/// Microseconds since 1970 of a timestamp, with or without an offset behind it.
fn microseconds(text: &[u8]) -> Result<i64, Unheld> {
    let (days, rest) = date(text)?;
    let &[b' ', h1, h2, b':', m1, m2, b':', s1, s2, ref rest @ ..] = rest else {
        return Err(MALFORMED);
    };
    let seconds = i64::from(two(h1, h2)? * 3600 + two(m1, m2)? * 60 + two(s1, s2)?);
    let (fraction, zone) = match rest.split_first() {
        Some((b'.', rest)) => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            (&rest[..digits], &rest[digits..])
        }
        Some(_) | None => (&b""[..], rest),
    };
    if fraction.len() > 6 {
        return Err(MALFORMED);
    }
    let mut micros = 0;
    for n in 0..6 {
        let digit = fraction.get(n).map_or(0, |digit| digit - b'0');
        micros = micros * 10 + i64::from(digit);
    }
    let at = (days * 86_400 + seconds - offset_seconds(zone)?) * 1_000_000 + micros;
    // An offset may lead beyond the last day.
    match DAYS.contains(&at.div_euclid(86_400_000_000)) {
        true => Ok(at),
        false => Err("lies outside of the years 1900 to 2299"),
    }
}

/// `+02`, `-03:30`, `+00:19:32`, or nothing.
fn offset_seconds(zone: &[u8]) -> Result<i64, Unheld> {
    let (sign, rest) = match zone.split_first() {
        None => return Ok(0),
        Some((b'+', rest)) => (1, rest),
        Some((b'-', rest)) => (-1, rest),
        Some(_) => return Err(MALFORMED),
    };
    let mut seconds = 0;
    for (part, unit) in rest.split(|byte| *byte == b':').zip([3600, 60, 1]) {
        let &[tens, ones] = part else {
            return Err(MALFORMED);
        };
        seconds += i64::from(two(tens, ones)?) * unit;
    }
    Ok(sign * seconds)
}

/// Two numbers of 64 bits, the first half of the UUID first.
fn uuid(text: &[u8], out: &mut Vec<u8>) -> Result<(), Unheld> {
    let mut number: u128 = 0;
    let mut count = 0;
    for byte in text.iter().filter(|byte| **byte != b'-') {
        number = number << 4 | u128::from(hex(*byte)?);
        count += 1;
    }
    if count != 32 {
        return Err(MALFORMED);
    }
    out.extend_from_slice(&((number >> 64) as u64).to_le_bytes());
    out.extend_from_slice(&(number as u64).to_le_bytes());
    Ok(())
}

fn hex(digit: u8) -> Result<u8, Unheld> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _other => Err(MALFORMED),
    }
}

fn bytes(text: &[u8], out: &mut Vec<u8>) -> Result<(), Unheld> {
    let digits = text.strip_prefix(b"\\x").ok_or(MALFORMED)?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(MALFORMED);
    }
    varint(pairs.len(), out);
    for [high, low] in pairs {
        out.push(hex(*high)? << 4 | hex(*low)?);
    }
    Ok(())
}

const BOUNDS: Unheld = "is an array with a lower bound other than 1, which ClickHouse has not";
const OTHER_DIMENSIONS: Unheld = "is an array of other dimensions than its column";

/// An array as `array_out` prints it (`utils/adt/arrayfuncs.c`): `{1,NULL,"a,\"b"}`, `{{1,2},{3,4}}`.
fn array(element: &Kind, text: &[u8], out: &mut Vec<u8>) -> Result<(), Unheld> {
    match text.first() {
        Some(b'{') => {}
        Some(b'[') => return Err(BOUNDS),
        Some(_) | None => return Err(MALFORMED),
    }
    if text == b"{}" {
        out.push(0);
        return Ok(());
    }
    let mut input = Elements {
        text,
        at: 0,
        scratch: Vec::new(),
    };
    input.level(element, out)?;
    match input.at == text.len() {
        true => Ok(()),
        false => Err(MALFORMED),
    }
}

struct Elements<'a> {
    text: &'a [u8],
    at: usize,
    scratch: Vec<u8>,
}

impl Elements<'_> {
    fn peek(&self) -> Result<u8, Unheld> {
        self.text.get(self.at).copied().ok_or(MALFORMED)
    }

    /// One pair of braces.
    fn level(&mut self, element: &Kind, out: &mut Vec<u8>) -> Result<(), Unheld> {
        if self.peek()? != b'{' {
            return Err(OTHER_DIMENSIONS);
        }
        self.at += 1;
        let (mut count, mut values) = (0, Vec::new());
        loop {
            match element {
                Kind::Array(inner) => self.level(inner, &mut values)?,
                kind => self.element(kind, &mut values)?,
            }
            count += 1;
            let next = self.peek()?;
            self.at += 1;
            match next {
                b',' => {}
                b'}' => break,
                _other => return Err(MALFORMED),
            }
        }
        varint(count, out);
        out.extend_from_slice(&values);
        Ok(())
    }

    fn element(&mut self, kind: &Kind, out: &mut Vec<u8>) -> Result<(), Unheld> {
        let of = kind.of_element();
        match self.peek()? {
            b'{' => Err(OTHER_DIMENSIONS),
            b'"' => {
                self.quoted()?;
                value(&of, Some(&self.scratch), out)
            }
            _unquoted => {
                let rest = &self.text[self.at..];
                let end = rest.iter().position(|byte| matches!(byte, b',' | b'}'));
                let text = &rest[..end.ok_or(MALFORMED)?];
                self.at += text.len();
                value(&of, (text != b"NULL").then_some(text), out)
            }
        }
    }

    /// Reads a quoted element into `scratch`.
    fn quoted(&mut self) -> Result<(), Unheld> {
        self.scratch.clear();
        self.at += 1;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Ok(()),
                b'\\' => {
                    self.scratch.push(self.peek()?);
                    self.at += 1;
                }
                _other => self.scratch.push(byte),
            }
        }
    }
}

/// The bytes of one value at the head of what ClickHouse sent; `None` when it is cut off.
pub(super) fn length(of: &Type, bytes: &[u8]) -> Option<usize> {
    if of.nullable {
        return match bytes.first()? {
            0 => Some(1 + plain_length(&of.kind, &bytes[1..])?),
            _null => Some(1),
        };
    }
    plain_length(&of.kind, bytes)
}

fn plain_length(kind: &Kind, bytes: &[u8]) -> Option<usize> {
    let length = match kind {
        Kind::Bool => 1,
        Kind::Int16 => 2,
        Kind::Int32 | Kind::UInt32 | Kind::Float32 | Kind::Date32 => 4,
        Kind::Int64 | Kind::Float64 | Kind::DateTime64 => 8,
        Kind::Decimal(precision, _) => decimal_bytes(*precision),
        Kind::Uuid => 16,
        Kind::Text | Kind::Bytes | Kind::Word | Kind::Json => {
            let (length, head) = read_varint(bytes)?;
            head.checked_add(length)?
        }
        Kind::Array(element) => {
            let (count, mut at) = read_varint(bytes)?;
            let of = element.of_element();
            for _ in 0..count {
                at += length(&of, bytes.get(at..)?)?;
            }
            at
        }
    };
    (length <= bytes.len()).then_some(length)
}

/// A varint and its bytes.
pub(super) fn read_varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut number = 0_usize;
    for (n, byte) in bytes.iter().take(9).enumerate() {
        number |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((number, n + 1));
        }
    }
    None
}

#[cfg(test)]
#[path = "row_binary_tests.rs"]
mod tests;
