//! The checkpoint looked at and changed from outside of the sink that owns it.
//!
//! Nothing locks it: the order takes the next claim, so that a step which the sink takes at the same moment counts
//! no more. It is taken again, from where the order says.

use async_trait::async_trait;

use super::Identity;
use super::checkpoint::{Newest, Store};
use super::failure::Doing;
use super::http::Http;
use crate::config::ClickHouseSinkSettings;
use crate::error::Result;
use crate::model::{Checkpoint, Selection};
use crate::sink::{Make, Revise, StoredCheckpoint};

/// A sink's checkpoint in ClickHouse.
pub(super) struct Orders {
    http: Http,
    database: String,
    me: Identity,
}

impl Orders {
    /// Nothing is connected yet.
    pub(super) fn new(
        pipeline: &str,
        sink: &str,
        settings: &ClickHouseSinkSettings,
        selection: Selection,
    ) -> Self {
        Orders {
            http: Http::new(settings.server.clone(), settings.statement_timeout),
            database: settings.server.url.database.clone(),
            me: Identity::onlooker(pipeline, sink).taking(selection),
        }
    }

    fn store(&self) -> Store<'_> {
        Store {
            http: &self.http,
            database: &self.database,
            me: &self.me,
        }
    }

    async fn put(&self, newest: Option<&Newest>, next: &Checkpoint) -> Result<()> {
        let store = self.store();
        let claim = store.next_claim(newest).await?;
        store
            .write(claim, next)
            .await
            .doing("writing the checkpoint")
    }
}

#[async_trait]
impl StoredCheckpoint for Orders {
    async fn look(&self) -> Result<Option<Checkpoint>> {
        self.store().lay_out().await?;
        let newest = self.store().newest().await?;
        newest.map(|newest| newest.checkpoint()).transpose()
    }

    async fn revise(&mut self, revise: Revise<'_>) -> Result<Checkpoint> {
        self.store().lay_out().await?;
        let newest = self.store().newest().await?;
        let known = newest
            .as_ref()
            .map(|newest| newest.checkpoint())
            .transpose()?;
        let next = revise(known.as_ref())?;
        self.put(newest.as_ref(), &next).await?;
        Ok(next)
    }

    async fn replace(&mut self, make: Make<'_>) -> Result<Checkpoint> {
        self.store().lay_out().await?;
        let newest = self.store().newest().await?;
        let next = make(newest.as_ref().map(|newest| newest.version));
        self.put(newest.as_ref(), &next).await?;
        Ok(next)
    }
}
