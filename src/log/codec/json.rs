//! The few pieces of JSON that the codec writes and reads.

/// Bytes that a JSON string cannot hold as they are.
const SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

/// Index of the first `"`, `\` or control character; the length when there is none.
pub(super) fn find_special(bytes: &[u8]) -> usize {
    // Fixed-size chunks without an early exit: the compiler makes SIMD of them.
    let (chunks, _) = bytes.as_chunks::<16>();
    let clean = chunks
        .iter()
        .take_while(|chunk| {
            let special = |found, &b: &u8| found | (b < 0x20) | (b == b'"') | (b == b'\\');
            !chunk.iter().fold(false, special)
        })
        .count();
    let from = clean * 16;
    let rest = &bytes[from..];
    from + rest
        .iter()
        .position(|&b| SPECIAL[usize::from(b)])
        .unwrap_or(rest.len())
}

/// Appends `text` as a JSON string. Bytes from 0x80 on are taken as they are.
pub(super) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    loop {
        let (plain, special) = rest.split_at(find_special(rest));
        out.extend_from_slice(plain);
        let Some((&byte, behind)) = special.split_first() else {
            break;
        };
        write_escape(byte, out);
        rest = behind;
    }
    out.push(b'"');
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        _other => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 0xf)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Reads one escape as [`write_string`] writes it, at the start of `bytes`: the byte it stands for
/// and the escape's length. `None` for any other.
pub(super) fn read_escape(bytes: &[u8]) -> Option<(u8, usize)> {
    let byte = match bytes {
        [b'\\', b'u', b'0', b'0', high, low, ..] => {
            let byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
            let has_short = matches!(byte, 0x08 | b'\t' | b'\n' | 0x0c | b'\r');
            return (byte < 0x20 && !has_short).then_some((byte, 6));
        }
        [b'\\', byte @ (b'"' | b'\\'), ..] => *byte,
        [b'\\', b'b', ..] => 0x08,
        [b'\\', b't', ..] => b'\t',
        [b'\\', b'n', ..] => b'\n',
        [b'\\', b'f', ..] => 0x0c,
        [b'\\', b'r', ..] => b'\r',
        _other => return None,
    };
    Some((byte, 2))
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _other => None,
    }
}

/// Length of the JSON integer (`-`, digits, no leading zero) at the start of `bytes`; 0 for none.
pub(super) fn integer_len(bytes: &[u8]) -> usize {
    let sign = usize::from(bytes.first() == Some(&b'-'));
    let digits = digits_len(&bytes[sign..]);
    let leading_zero = digits > 1 && bytes[sign] == b'0';
    if digits == 0 || leading_zero {
        return 0;
    }
    sign + digits
}

/// Length of the JSON number at the start of `bytes`; 0 for none.
pub(super) fn number_len(bytes: &[u8]) -> usize {
    let mut len = integer_len(bytes);
    if len == 0 {
        return 0;
    }
    if bytes.get(len) == Some(&b'.') {
        match digits_len(&bytes[len + 1..]) {
            0 => return 0,
            digits => len += 1 + digits,
        }
    }
    if let Some(b'e' | b'E') = bytes.get(len) {
        let sign = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
        match digits_len(&bytes[len + 1 + sign..]) {
            0 => return 0,
            digits => len += 1 + sign + digits,
        }
    }
    len
}

fn digits_len(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_those_of_json() {
        let cases: [(&str, usize); 16] = [
            ("0", 1),
            ("-0", 2),
            ("12}", 2),
            ("1.5,", 3),
            ("1e+20", 5),
            ("-1.25e-05", 9),
            ("01", 0),
            ("-", 0),
            ("", 0),
            (".5", 0),
            ("1.", 0),
            ("1.e5", 0),
            ("1e", 0),
            ("1e+", 0),
            ("+1", 0),
            ("NaN", 0),
        ];
        for (text, len) in cases {
            assert_eq!(number_len(text.as_bytes()), len, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_written_string_is_what_a_json_library_reads(text: String) {
            let mut out = Vec::new();
            write_string(text.as_bytes(), &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn the_first_special_byte_is_found(bytes: Vec<u8>, at: usize) {
            let plain: Vec<u8> = bytes.iter().map(|b| b | 0x80).collect();
            prop_assert_eq!(find_special(&plain), plain.len());
            if !plain.is_empty() {
                let at = at % plain.len();
                for special in [b'"', b'\\', 0, 0x1f] {
                    let mut marked = plain.clone();
                    marked[at] = special;
                    prop_assert_eq!(find_special(&marked), at);
                }
            }
        }

        #[test]
        fn an_integer_is_read_to_its_end(number: i64) {
            let text = number.to_string();
            prop_assert_eq!(integer_len(text.as_bytes()), text.len());
        }
    }
}
