//! Whether one column type is wider than another: it takes every value of the other, and holds what the leader
//! itself holds after ALTER COLUMN … TYPE from the one to the other.
//!
//! A follower altered before the leader's older records have passed would else refuse them, and one not
//! altered the newer ones. Where the leader's ALTER changes values (float4 to float8, char to text)
//! the older records would leave other values than the leader has: no widening here.

use super::Oid;

/// A type with its modifier, as in `pg_attribute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeOf {
    /// `atttypid`.
    pub oid: Oid,
    /// `atttypmod`, -1 for none.
    pub modifier: i32,
}

/// The built-in types that can be widened; `None` is without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    /// int2, int4, int8: decimal digits that hold every value, and bytes.
    Integer { digits: i32, bytes: i32 },
    /// numeric: digits before and behind the point.
    Numeric(Option<(i32, i32)>),
    /// varchar and text: characters.
    Text(Option<i32>),
    /// char(n): characters.
    Char(i32),
    /// bit varying: bits.
    Bits(Option<i32>),
    /// Times of one type: digits of a second.
    Time { oid: u32, digits: Option<i32> },
}

/// Length words of types that count them in (`VARHDRSZ`).
const HEADER: i32 = 4;

fn width(of: TypeOf) -> Option<Width> {
    let modifier = (of.modifier >= 0).then_some(of.modifier);
    let length = modifier.map(|modifier| modifier - HEADER);
    match of.oid.0 {
        21 => Some(Width::Integer {
            digits: 5,
            bytes: 2,
        }),
        23 => Some(Width::Integer {
            digits: 10,
            bytes: 4,
        }),
        20 => Some(Width::Integer {
            digits: 19,
            bytes: 8,
        }),
        1700 => Some(Width::Numeric(length.map(numeric_digits))),
        25 => Some(Width::Text(None)),
        1043 => Some(Width::Text(length)),
        1042 => length.map(Width::Char),
        1562 => Some(Width::Bits(modifier)),
        oid @ (1083 | 1114 | 1184 | 1266) => Some(Width::Time {
            oid,
            digits: modifier,
        }),
        _not_widened => None,
    }
}

/// Digits before and behind the point (`numeric_typmod_precision` and `_scale` in numeric.c; the scale
/// is signed, in 11 bits).
fn numeric_digits(modifier: i32) -> (i32, i32) {
    let precision = (modifier >> 16) & 0xffff;
    let scale = ((modifier & 0x7ff) ^ 1024) - 1024;
    (precision - scale, scale)
}

/// Whether `follower` takes every value of `leader`, and its own text of it is the leader's after ALTER.
pub fn is_widening(leader: TypeOf, follower: TypeOf) -> bool {
    let (Some(from), Some(to)) = (width(leader), width(follower)) else {
        return false;
    };
    match (from, to) {
        (Width::Integer { bytes: from, .. }, Width::Integer { bytes: to, .. }) => from <= to,
        (Width::Integer { digits, .. }, Width::Numeric(to)) => {
            to.is_none_or(|(before, behind)| digits <= before && behind >= 0)
        }
        (Width::Numeric(from), Width::Numeric(to)) => {
            // Infinity fits into numeric without limit only, and NaN everywhere.
            within(from.map(|(before, _)| before), to.map(|(before, _)| before))
                && within(from.map(|(_, behind)| behind), to.map(|(_, behind)| behind))
        }
        (Width::Text(from), Width::Text(to)) | (Width::Bits(from), Width::Bits(to)) => {
            within(from, to)
        }
        (Width::Char(from), Width::Char(to)) => from <= to,
        (
            Width::Time {
                oid: one,
                digits: from,
            },
            Width::Time {
                oid: other,
                digits: to,
            },
        ) => one == other && within(from, to),
        (
            Width::Integer { .. }
            | Width::Numeric(_)
            | Width::Text(_)
            | Width::Char(_)
            | Width::Bits(_)
            | Width::Time { .. },
            _other_family,
        ) => false,
    }
}

/// Whether one limit lies within another.
fn within(from: Option<i32>, to: Option<i32>) -> bool {
    match (from, to) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(from), Some(to)) => from <= to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(oid: u32, modifier: i32) -> TypeOf {
        TypeOf {
            oid: Oid(oid),
            modifier,
        }
    }

    fn numeric(precision: i32, scale: i32) -> TypeOf {
        of(1700, ((precision << 16) | (scale & 0x7ff)) + HEADER)
    }

    const INT2: TypeOf = TypeOf {
        oid: Oid(21),
        modifier: -1,
    };

    #[test]
    fn every_value_fits_or_it_is_no_widening() {
        let (int4, int8) = (of(23, -1), of(20, -1));
        let (varchar_5, varchar_9) = (of(1043, 5 + HEADER), of(1043, 9 + HEADER));
        let (varchar, text, any_numeric) = (of(1043, -1), of(25, -1), of(1700, -1));
        let wider = [
            (INT2, int4),
            (INT2, int8),
            (int4, int8),
            (int4, any_numeric),
            (int4, numeric(12, 2)),
            (varchar_5, varchar_9),
            (varchar_5, varchar),
            (varchar_5, text),
            (numeric(10, 2), numeric(12, 2)),
            (numeric(10, 2), numeric(12, 4)),
            (numeric(3, -2), numeric(5, 0)),
            (numeric(10, 2), any_numeric),
            (of(1042, 3 + HEADER), of(1042, 5 + HEADER)),
            (of(1562, 3), of(1562, 8)),
            (of(1184, 3), of(1184, -1)),
        ];
        for (leader, follower) in wider {
            assert!(is_widening(leader, follower), "{leader:?} {follower:?}");
            assert!(!is_widening(follower, leader), "{follower:?} {leader:?}");
        }
        let both_ways = [(varchar, text), (int8, int8)];
        for (one, other) in both_ways {
            assert!(is_widening(one, other) && is_widening(other, one));
        }
        let neither = [
            (numeric(10, 2), numeric(10, 3)),
            (int4, numeric(11, 2)),
            (of(1042, 3 + HEADER), text), // loses its padding in the leader's ALTER
            (of(700, -1), of(701, -1)),   // changes its digits in the leader's ALTER
            (of(1114, -1), of(1184, -1)),
            (int4, text),
            (of(16_400, -1), of(16_401, -1)),
        ];
        for (one, other) in neither {
            assert!(!is_widening(one, other), "{one:?} {other:?}");
            assert!(!is_widening(other, one), "{other:?} {one:?}");
        }
    }
}
