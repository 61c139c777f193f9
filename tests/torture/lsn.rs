//! LSNs as Postgres prints them.

/// Bytes of an LSN such as `16/B374D848`.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str) -> Result<u64, String> {
    let half = |half: &str| u64::from_str_radix(half, 16).map_err(|e| format!("{text}: {e}"));
    let (high, low) = text
        .split_once('/')
        .ok_or_else(|| format!("{text} is no LSN"))?;
    Ok(half(high)? << 32 | half(low)?)
}
