//! Where a follower is to stop, as the command line names it: a boundary, or what is to be found in Kafka.

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::apply::follow::Terms;
use crate::apply::moment::{Moment, Search};
use crate::config::Settings;
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

/// Bytes read ahead while a moment is looked for.
const SEARCH_BUDGET_BYTES: usize = 16 << 20;

/// The boundary that is meant.
///
/// # Errors
/// Those of Kafka; halt when it has no such transaction.
pub(super) async fn resolve(settings: &Settings, terms: &Terms, target: Target) -> Result<Lsn> {
    let moment = match target {
        Target::Lsn(lsn) => return Ok(lsn),
        Target::Moment(moment) => moment,
    };
    let mut tail = LogTail::open(&settings.kafka, &terms.topics.commits(), From::Low).await?;
    let records = RecordReader::open(&settings.kafka, SEARCH_BUDGET_BYTES)?;
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
