//! A cursor over untrusted bytes.
