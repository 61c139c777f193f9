//! Followers that are compared with the leader now and then, as `verify_every` of their settings says.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::{Asked, Report, run};
use crate::config::{Settings, SinkSettings, SourceSettings};
use crate::model::Selection;
use crate::status::{Shared, SinkView, Verified};

/// Longest wait for a follower; when it is over the comparison is tried again.
const PATIENCE: Duration = Duration::from_secs(300);
/// Wait after a comparison that could not be made.
const RETRY: Duration = Duration::from_secs(600);

/// One sink that is compared.
pub struct Periodic {
    pipeline: String,
    source: SourceSettings,
    sink: SinkSettings,
    every: Duration,
    view: Arc<Shared<SinkView>>,
    stop: CancellationToken,
}

impl Periodic {
    /// That of a sink, if it wants it; where the source does not run too, that is told in the log.
    pub fn of(
        settings: &Settings,
        sink: &SinkSettings,
        view: &Arc<Shared<SinkView>>,
        stop: CancellationToken,
    ) -> Option<Periodic> {
        let every = sink.verify().every?;
        let Some(source) = &settings.source else {
            tracing::warn!(
                sink = sink.name,
                "verify_every is not carried out: this process does not run the source, so it has no leader to compare with"
            );
            return None;
        };
        Some(Periodic {
            pipeline: settings.pipeline.clone(),
            source: source.clone(),
            sink: sink.clone(),
            every,
            view: view.clone(),
            stop,
        })
    }

    /// Compares again and again until asked to stop, the first time after the time that is set.
    pub async fn keep_verifying(self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.go_on() => {}
        }
    }

    async fn go_on(&self) {
        let mut wait = self.every;
        loop {
            tokio::time::sleep(wait).await;
            wait = match self.verify().await {
                Ok(report) => {
                    self.note(&report);
                    self.every
                }
                Err(error) => {
                    tracing::warn!(sink = self.sink.name, error = %error.what(), remedy = error.remedy(), "the follower could not be compared with the leader");
                    self.every.min(RETRY)
                }
            };
        }
    }

    async fn verify(&self) -> crate::error::Result<Report> {
        let asked = Asked {
            pipeline: &self.pipeline,
            source: &self.source,
            sink: &self.sink,
            selection: &Selection::new(&self.sink.include, &self.sink.exclude),
            tables: &Selection::new(&["*.*".to_owned()], &[]),
            patience: PATIENCE,
            max_rows_per_second: self.sink.verify().max_rows_per_second,
        };
        run(asked, &|_progress| {}).await
    }

    fn note(&self, report: &Report) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut verified = Verified {
            at_unix_seconds: now.unwrap_or_default().as_secs(),
            ..Verified::default()
        };
        for table in &report.tables {
            let differing = table.differing();
            verified.rows += table.rows;
            verified.differing += differing;
            verified.not_compared += u64::from(!table.compared());
            if differing > 0 {
                tracing::error!(
                    sink = self.sink.name,
                    table = %table.table,
                    missing = table.missing.count,
                    extra = table.extra.count,
                    different = table.different.count,
                    remedy = "walferry verify names the keys; walferry verify --repair has such tables copied anew",
                    "the follower differs from the leader"
                );
            }
        }
        tracing::info!(
            sink = self.sink.name,
            rows = verified.rows,
            differing = verified.differing,
            not_compared = verified.not_compared,
            "the follower was compared with the leader"
        );
        self.view.update(|view| view.verified = Some(verified));
    }
}
