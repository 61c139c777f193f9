//! Where a follower is to stop, as the command line names it: a boundary, or what is to be found in Kafka.

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::arguments::Boundary;
use crate::apply::follow::Terms;
use crate::apply::moment::{Moment, Search};
use crate::config::KafkaSettings;
use crate::error::{Error, Result};
use crate::log::records::RecordReader;
use crate::log::tail::{From, LogTail};
use crate::model::Lsn;

/// Where a follower is to stop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// At this boundary.
    Lsn(Lsn),
    /// At the one that is found in Kafka.
    Moment(Moment),
}

impl Boundary {
    /// What was named; none: nothing.
    pub(super) fn target(self) -> Option<Target> {
        let moment = (self.to_time.map(Moment::Time))
            .or(self.to_transaction.map(Moment::Behind))
            .or(self.before_transaction.map(Moment::Before));
        self.to_lsn.map(Target::Lsn).or(moment.map(Target::Moment))
    }
}

/// Bytes read ahead while a moment is looked for.
const SEARCH_BUDGET_BYTES: usize = 16 << 20;

/// The boundary that is meant.
///
/// # Errors
/// Those of Kafka; halt when it has no such transaction.
pub(super) async fn resolve(kafka: &KafkaSettings, terms: &Terms, target: Target) -> Result<Lsn> {
    let moment = match target {
        Target::Lsn(lsn) => return Ok(lsn),
        Target::Moment(moment) => moment,
    };
    let mut tail = LogTail::open(kafka, &terms.topics.commits(), From::Low).await?;
    let records = RecordReader::open(kafka, SEARCH_BUDGET_BYTES)?;
    let runtime = Handle::current();
    let searched = tokio::task::spawn_blocking(move || {
        let mut search = Search::new(moment, tail.low(), records, CancellationToken::new());
        while let Some((offset, entry)) = runtime.block_on(tail.next_there())? {
            if search.see(offset, &entry)? {
                break;
            }
        }
        search.boundary()
    });
    searched
        .await
        .map_err(|error| Error::transient("looking for the position").caused_by(error))?
}
