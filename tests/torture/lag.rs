//! Whether lag is ever a lie: a sink that says 0 must have what the leader had some seconds ago.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::lsn;
use crate::world::World;

/// A sink may say 0 by a sample that is 3 s old; the rest is for the time that answers take.
const KNOWN_AFTER: Duration = Duration::from_secs(6);

/// What was seen of the leader, with the time by our clock when the answer was here.
#[derive(Default)]
pub struct Witness {
    client: Option<Client>,
    flushed: VecDeque<(Instant, u64)>,
}

impl Witness {
    /// Looks at the leader; one that does not answer is not looked at.
    pub async fn look(&mut self, world: &World) {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = world.leader.client().await.ok();
        }
        let Some(client) = &self.client else { return };
        let asked = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]);
        let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
        let Ok(Ok(row)) = answer else {
            self.client = None;
            return;
        };
        if let Ok(flushed) = lsn::parse(row.get(0)) {
            self.flushed.push_back((Instant::now(), flushed));
        }
        while self.flushed.len() > 60 {
            self.flushed.pop_front();
        }
    }

    /// What a follower must have for its sink to say 0 to a question asked at `asked`.
    pub fn must_have(&self, asked: Instant) -> u64 {
        let known = self.flushed.iter().rev();
        let mut old = known.skip_while(|(at, _)| *at + KNOWN_AFTER > asked);
        old.next().map_or(0, |(_, flushed)| *flushed)
    }
}
