//! glibc's allocator, told to keep less.
//!
//! As it is, each thread may get an arena of its own, up to eight a core, and each keeps what its largest
//! burst took: with many tables that was a third of the peak and more (`./dev bench --scaling tables`). walferry has
//! few threads that allocate much, and it hands large blocks on between them.

/// Arenas for all threads.
const ARENAS: libc::c_int = 2;
/// From this size on a block is a mapping of its own, which goes back to the system as soon as it is freed. glibc's own
/// value to begin with; set, it does not grow.
const MAPPED_BYTES: libc::c_int = 128 << 10;
/// So much may lie free at an arena's end. With glibc's own value, 128 KiB, what librdkafka allocates for the records of
/// one answer was given back and mapped anew with nearly each of them (bench/README.md, "What was learned").
const KEPT_BYTES: libc::c_int = 8 << 20;

/// What of it is already set from outside, where that is so.
const FROM_OUTSIDE: [&str; 4] = [
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
];

/// Sets it, before there are threads. With any of glibc's own variables in the environment it stays as they say.
pub fn keep_less() {
    if FROM_OUTSIDE
        .iter()
        .any(|name| std::env::var_os(name).is_some())
    {
        return;
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (what, value) in [
        (libc::M_ARENA_MAX, ARENAS),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
    ] {
        // SAFETY: two numbers; what glibc does not take it leaves as it is.
        unsafe { libc::mallopt(what, value) };
    }
}
