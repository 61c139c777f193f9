//! What the operating system says of this process. Absent where `/proc` is not there.

/// Resident memory: the second field of `/proc/self/statm`, in pages.
pub(super) fn memory_bytes() -> Option<f64> {
    /// On every Linux that walferry is built for, but for kernels set up with larger pages.
    const PAGE_BYTES: f64 = 4096.0;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

/// User and system time: fields 14 and 15 of `/proc/self/stat`, in ticks.
pub(super) fn cpu_seconds() -> Option<f64> {
    /// `USER_HZ`, fixed at 100 for user space on Linux.
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name may hold spaces and parentheses: fields are counted behind the last `)`.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_A_SECOND)
}

/// Open file descriptors.
pub(super) fn open_fds() -> Option<f64> {
    // The directory that is read is one of them.
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(open.saturating_sub(1) as f64)
}

/// Their soft limit; none when it is unlimited.
pub(super) fn max_fds() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
