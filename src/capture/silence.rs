//! A producer that Kafka answers nothing although it answers others.
//!
//! Records are sent for as long as it takes (`message.timeout.ms=0`): Kafka may be away for hours, and nothing
//! is lost by waiting. But a connection, or librdkafka itself, can get stuck for good (seen: a broker that had
//! stood still for longer than its session was fenced for a moment, told clients that it leads nothing, and one
//! of four clients never sent again). So when Kafka answers a new client and acknowledges nothing, the epoch
//! is ended: the next one has new clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::KafkaSettings;
use crate::error::{Error, Result};
use crate::log::producer::EpochProducer;
use crate::log::topics::TopicAdmin;

/// How long silence is borne.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How often it is looked.
    pub look_every: Duration,
    /// Kafka is asked when nothing was acknowledged for so long.
    pub silent_for: Duration,
    /// The epoch ends when Kafka has answered for so long, each time it was asked, and acknowledged nothing.
    pub answers_for: Duration,
}

impl Patience {
    /// A source's.
    pub const OF_AN_EPOCH: Patience = Patience {
        look_every: Duration::from_secs(5),
        silent_for: Duration::from_secs(15),
        answers_for: Duration::from_secs(30),
    };
}

/// What was seen of the producer. Pure.
struct Silence {
    patience: Patience,
    acknowledged: usize,
    since: Instant,
    answers_since: Option<Instant>,
}

impl Silence {
    fn new(patience: Patience, acknowledged: usize, now: Instant) -> Self {
        Silence {
            patience,
            acknowledged,
            since: now,
            answers_since: None,
        }
    }

    /// Whether Kafka is to be asked now. `waiting`: records are under way; `acknowledged`: how many ever were.
    fn look(&mut self, waiting: bool, acknowledged: usize, now: Instant) -> bool {
        if !waiting || acknowledged != self.acknowledged {
            *self = Silence::new(self.patience, acknowledged, now);
        }
        now.saturating_duration_since(self.since) >= self.patience.silent_for
    }

    /// Whether the epoch is to end, after Kafka was asked.
    fn asked(&mut self, answers: bool, now: Instant) -> bool {
        if !answers {
            self.answers_since = None;
            return false;
        }
        let since = *self.answers_since.get_or_insert(now);
        now.saturating_duration_since(since) >= self.patience.answers_for
    }
}

/// Watches the producer for as long as the epoch lasts.
///
/// # Errors
/// Transient when Kafka answers, and acknowledges nothing.
pub async fn watch(
    kafka: KafkaSettings,
    commits: String,
    producer: Arc<EpochProducer>,
    patience: Patience,
) -> Result<()> {
    let mut silence = Silence::new(patience, producer.acknowledged(), Instant::now());
    loop {
        tokio::time::sleep(patience.look_every).await;
        let waiting = producer.unacknowledged_bytes() > 0;
        if !silence.look(waiting, producer.acknowledged(), Instant::now()) {
            continue;
        }
        let answers = answers(&kafka, &commits).await;
        if silence.asked(answers, Instant::now()) {
            let seconds = silence.since.elapsed().as_secs();
            return Err(Error::transient(format!(
                "Kafka answers, but has acknowledged nothing that was sent for {seconds} s: beginning anew, with new connections"
            )));
        }
    }
}

/// Whether Kafka tells a new client of the commit log.
async fn answers(kafka: &KafkaSettings, commits: &str) -> bool {
    let asked = async {
        let admin = TopicAdmin::open(kafka)?;
        admin.describe(&[commits.to_owned()]).await
    };
    match asked.await {
        Ok(found) => !found.is_empty(),
        Err(error) => {
            tracing::debug!(%error, "Kafka does not answer");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_while_kafka_answers_ends_an_epoch() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut silence = Silence::new(Patience::OF_AN_EPOCH, 7, begun);
        assert!(!silence.look(true, 7, at(10)));
        assert!(!silence.look(false, 7, at(60)), "nothing is under way");
        assert!(!silence.look(true, 8, at(70)), "something was acknowledged");
        assert!(silence.look(true, 8, at(85)));
        assert!(!silence.asked(true, at(85)) && !silence.asked(true, at(114)));
        assert!(!silence.asked(false, at(115)), "Kafka is away");
        assert!(!silence.asked(true, at(120)) && !silence.asked(true, at(149)));
        assert!(silence.asked(true, at(150)));
        assert!(!silence.look(true, 9, at(151)));
        assert!(!silence.asked(true, at(152)), "from the beginning");
    }
}
