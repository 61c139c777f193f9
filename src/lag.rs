//! Lag: bytes and seconds from the leader's samples and a follower's applied boundary. Pure.
