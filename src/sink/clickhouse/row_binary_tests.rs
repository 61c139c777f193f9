use proptest::prelude::*;

use super::super::types::parse;
use super::*;

fn encoded(of: &str, text: &str) -> Result<Vec<u8>, Unheld> {
    let mut out = Vec::new();
    let of = Type {
        kind: parse(of).expect("a type"),
        nullable: false,
    };
    value(&of, Some(text.as_bytes()), &mut out)?;
    assert_eq!(length(&of, &out), Some(out.len()), "{of} {text}");
    for cut in 0..out.len() {
        assert_eq!(length(&of, &out[..cut]), None, "{of} {text} cut at {cut}");
    }
    Ok(out)
}

#[test]
fn numbers_are_little_endian() {
    for (of, text, bytes) in [
        ("Bool", "t", vec![1]),
        ("Int16", "-2", vec![0xfe, 0xff]),
        ("Int32", "258", vec![2, 1, 0, 0]),
        ("Int64", "-1", vec![0xff; 8]),
        ("UInt32", "4294967295", vec![0xff; 4]),
        ("Float32", "-Infinity", vec![0, 0, 0x80, 0xff]),
        ("Float64", "1", vec![0, 0, 0, 0, 0, 0, 0xf0, 0x3f]),
    ] {
        assert_eq!(encoded(of, text), Ok(bytes), "{of} {text}");
    }
    let nan = encoded("Float64", "NaN").expect("NaN is held");
    assert!(f64::from_le_bytes(nan.try_into().expect("8 bytes")).is_nan());
    assert_eq!(encoded("Int16", "32768"), Err(MALFORMED));
    assert_eq!(encoded("Bool", "true"), Err(MALFORMED));
}

#[test]
fn a_decimal_has_all_its_digits_or_is_refused() {
    for (of, text, number) in [
        ("Decimal(4, 2)", "-12.3", -1230_i128),
        ("Decimal(4, 2)", "0.05", 5),
        ("Decimal(4, 2)", "99.990", 9999),
        ("Decimal(4, 4)", "0.1234", 1234),
        (
            "Decimal(18, 0)",
            "-999999999999999999",
            -999_999_999_999_999_999,
        ),
        (
            "Decimal(38, 0)",
            "-99999999999999999999999999999999999999",
            -99_999_999_999_999_999_999_999_999_999_999_999_999,
        ),
    ] {
        let bytes = encoded(of, text).expect(text);
        let sign = if number < 0 { 0xff } else { 0 };
        let mut whole = [sign; 16];
        whole[..bytes.len()].copy_from_slice(&bytes);
        assert_eq!(i128::from_le_bytes(whole), number, "{of} {text}");
    }
    let wide = encoded("Decimal(76, 0)", &format!("-1{}", "0".repeat(40))).expect("it fits");
    let mut expected = [0; 32];
    let ten_to_20 = 10_u128.pow(20);
    let (low, high) = ten_to_20.widening_square();
    expected[..16].copy_from_slice(&low.to_le_bytes());
    expected[16..].copy_from_slice(&high.to_le_bytes());
    assert_eq!(negated(&expected), wide);
    for (of, text) in [
        ("Decimal(4, 2)", "100"),
        ("Decimal(4, 2)", "0.001"),
        ("Decimal(4, 2)", "NaN"),
        ("Decimal(4, 2)", "-Infinity"),
        ("Decimal(4, 2)", "1e3"),
    ] {
        assert!(encoded(of, text).is_err(), "{of} {text}");
    }
}

trait WideningSquare {
    fn widening_square(self) -> (u128, u128);
}

impl WideningSquare for u128 {
    fn widening_square(self) -> (u128, u128) {
        let (low, high) = (self & u128::from(u64::MAX), self >> 64);
        let (a, b, c) = (low * low, 2 * low * high, high * high);
        let (sum, over) = a.overflowing_add(b << 64);
        (sum, c + (b >> 64) + u128::from(over))
    }
}

fn negated(bytes: &[u8; 32]) -> Vec<u8> {
    let mut carry = 1_u16;
    let negate = |byte: &u8| {
        let sum = u16::from(!byte) + carry;
        carry = sum >> 8;
        sum as u8
    };
    bytes.iter().map(negate).collect()
}

#[test]
fn days_and_moments_are_counted_from_1970() {
    for (text, days) in [
        ("1970-01-01", 0),
        ("1900-01-01", -25_567),
        ("2299-12-31", 120_529),
        ("2000-02-29", 11_016),
        ("1999-12-31", 10_956),
    ] {
        let expected = i32::to_le_bytes(days).to_vec();
        assert_eq!(encoded("Date32", text), Ok(expected), "{text}");
    }
    for (text, micros) in [
        ("1970-01-01 00:00:00", 0),
        ("1969-12-31 23:59:59.999999", -1),
        ("2001-09-09 01:46:40.5+00", 1_000_000_000_500_000),
        ("2001-09-09 07:16:40+05:30", 1_000_000_000_000_000),
        ("2001-09-09 01:27:08-00:19:32", 1_000_000_000_000_000),
    ] {
        let expected = i64::to_le_bytes(micros).to_vec();
        let found = encoded("DateTime64(6, 'UTC')", text);
        assert_eq!(found, Ok(expected), "{text}");
    }
    for text in [
        "infinity",
        "-infinity",
        "1899-12-31 23:59:59",
        "2300-01-01 00:00:00",
        "2299-12-31 23:59:59-01",
        "0044-03-15 00:00:00 BC",
        "294276-12-31 23:59:59",
        "2001-09-09T01:46:40",
        "2001-09-09",
    ] {
        assert!(encoded("DateTime64(6, 'UTC')", text).is_err(), "{text}");
    }
    for text in [
        "infinity",
        "1899-12-31",
        "0044-03-15 BC",
        "2001-9-9",
        "2001-09-09 ",
    ] {
        assert!(encoded("Date32", text).is_err(), "{text}");
    }
}

#[test]
fn texts_and_bytes_have_their_length_before_them() {
    assert_eq!(encoded("String", "ab"), Ok(vec![2, b'a', b'b']));
    let long = encoded("String", &"x".repeat(300)).expect("any length");
    assert_eq!(&long[..2], [0xac, 2]);
    let mut out = Vec::new();
    bytes(b"\\x00ff10", &mut out).expect("bytes");
    assert_eq!(out, [3, 0, 0xff, 0x10]);
    for wrong in [&b"00ff"[..], b"\\x0", b"\\xzz"] {
        assert!(bytes(wrong, &mut Vec::new()).is_err());
    }
    let uuid = encoded("UUID", "00112233-4455-6677-8899-aabbccddeeff").expect("a uuid");
    assert_eq!(uuid[..3], [0x77, 0x66, 0x55]);
    assert_eq!(uuid[8..11], [0xff, 0xee, 0xdd]);
    assert!(encoded("UUID", "00112233-4455-6677-8899-aabbccddee").is_err());
}

#[test]
fn arrays_keep_nulls_quotes_and_dimensions() {
    let ints = "Array(Nullable(Int16))";
    assert_eq!(encoded(ints, "{}"), Ok(vec![0]));
    assert_eq!(encoded(ints, "{7,NULL}"), Ok(vec![2, 0, 7, 0, 1]));
    let texts = "Array(Nullable(String))";
    assert_eq!(
        encoded(texts, r#"{"a\"\\,",NULL,"NULL",""}"#),
        Ok(b"\x04\x00\x04a\"\\,\x01\x00\x04NULL\x00\x00".to_vec())
    );
    let nested = "Array(Array(Nullable(Int16)))";
    assert_eq!(
        encoded(nested, "{{1,2},{3,NULL}}"),
        Ok(vec![2, 2, 0, 1, 0, 0, 2, 0, 2, 0, 3, 0, 1])
    );
    for (of, text, why) in [
        (ints, "{{1},{2}}", OTHER_DIMENSIONS),
        (nested, "{1,2}", OTHER_DIMENSIONS),
        (ints, "[0:1]={1,2}", BOUNDS),
        (ints, "{1,2", MALFORMED),
        (ints, "{1}2}", MALFORMED),
        (ints, "{1,}", MALFORMED),
        (texts, "{\"a}", MALFORMED),
    ] {
        assert_eq!(encoded(of, text), Err(why), "{of} {text}");
    }
}

#[test]
fn null_is_null_or_the_empty_array_or_refused() {
    let of = |kind: &str, nullable| Type {
        kind: parse(kind).expect("a type"),
        nullable,
    };
    let null = |of: &Type| {
        let mut out = Vec::new();
        value(of, None, &mut out).map(|()| out)
    };
    assert_eq!(null(&of("Int32", true)), Ok(vec![1]));
    assert_eq!(null(&of("Array(Nullable(Int32))", false)), Ok(vec![0]));
    assert!(null(&of("Int32", false)).is_err());
}

#[test]
fn what_says_nothing_is_as_long_as_a_value() {
    for kind in [
        "Bool",
        "Int16",
        "Decimal(9, 2)",
        "Decimal(10, 2)",
        "Decimal(38, 2)",
        "Decimal(76, 2)",
        "Date32",
        "DateTime64(6, 'UTC')",
        "UUID",
        "String",
        "JSON",
        "Array(Nullable(Int32))",
    ] {
        for nullable in [false, true] {
            let kind = parse(kind).expect("a type");
            let of = Type { kind, nullable };
            let mut out = Vec::new();
            nothing(&of, &mut out);
            assert_eq!(length(&of, &out), Some(out.len()), "{of}");
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,40}", kind in 0..8_usize) {
        let kinds = [
            "Int32", "Float64", "Decimal(10, 3)", "Decimal(50, 3)", "Date32",
            "DateTime64(6, 'UTC')", "UUID", "Array(Array(Nullable(String)))",
        ];
        let _ = encoded(kinds[kind], &text);
    }

    #[test]
    fn no_answer_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        for kind in ["String", "Array(Nullable(String))", "Array(Array(Nullable(Int16)))"] {
            let of = Type { kind: parse(kind).expect("a type"), nullable: true };
            if let Some(length) = length(&of, &bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
