//! The partition of a key, as Kafka's Java clients compute it.

/// The partition of a record key among `n`: `toPositive(murmur2(key)) % n`, as in Kafka's
/// `BuiltInPartitioner.partitionForKey`. An empty key and `n` = 0 give 0.
pub fn key_partition(key: &[u8], n: u32) -> i32 {
    if key.is_empty() || n <= 1 {
        return 0;
    }
    let positive = murmur2(key) & 0x7fff_ffff;
    i32::try_from(positive % n).expect("a number below 2^31 stays there under modulo")
}

/// MurmurHash2 with Kafka's seed (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // Java's `length` is an int: the same 32 bits.
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (place, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UtilsTest.testMurmur2` of Apache Kafka.
    #[test]
    fn hashes_are_those_of_kafkas_own_test() {
        let cases: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
            let expected = (hash & 0x7fff_ffff) % 12;
            assert_eq!(key_partition(key.as_bytes(), 12), expected, "{key}");
        }
    }

    #[test]
    fn records_without_a_key_go_to_partition_0() {
        assert_eq!(key_partition(b"", 12), 0);
        assert_eq!(key_partition(b"foobar", 1), 0);
        assert_eq!(key_partition(b"foobar", 0), 0);
    }
}
