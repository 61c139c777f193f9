//! What a scrape of `/metrics` costs: over HTTP, of a process with one source and 100 sinks that have all
//! something to tell.
//!
//! `cargo bench --bench scrape`

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use walferry::config::HttpSettings;
use walferry::http::{self, Served};
use walferry::lag::{HostClock, SharedTracker};
use walferry::log::commit_log::Sample;
use walferry::model::{Lsn, SlotState, WalStatus};
use walferry::reload::channel;
use walferry::status::{Parts, ProcessStatus, SinkHandle, SinkView, SourceView, State};

const SINKS: usize = 100;
const SCRAPES: usize = 2_000;

fn served() -> Served {
    let source = SourceView {
        state: State::Streaming,
        epoch: Some(1),
        received: Some(Lsn(1 << 40)),
        published: Some(Lsn(1 << 40)),
        confirmed: Some(Lsn(1 << 40)),
        leader_flush: Some(Lsn(1 << 40)),
        slot: Some(SlotState {
            active: true,
            wal_status: Some(WalStatus::Reserved),
            retained_bytes: Some(1 << 20),
            safe_bytes: Some(1 << 30),
        }),
        clock_offset_us: Some(1_000),
        entry_at_us: Some(1),
        ..SourceView::default()
    };
    let sinks = (0..SINKS).map(|number| {
        let mut view = SinkView {
            state: State::Streaming,
            applied: Some(Lsn((1 << 40) - number as u64)),
            log_offset: Some(0),
            commit_time_us: Some(1),
            progress_at_us: Some(1),
            changes: 1_000_000,
            ..SinkView::default()
        };
        for times in [
            &mut view.times.wait,
            &mut view.times.apply,
            &mut view.times.commit,
        ] {
            times.observe(0.003);
        }
        let handle = SinkHandle::new(&format!("sink_{number:03}"));
        handle.view.update(|shown| *shown = view);
        handle
    });
    let served = Served {
        status: ProcessStatus::new(
            "shop",
            Parts {
                source: Some(("leader".to_owned(), Arc::default())),
                sinks: sinks.collect(),
            },
        ),
        reload: channel().0,
        lag: SharedTracker::default(),
        clock: HostClock::start(),
    };
    if let Some((_, view)) = &served.status.parts().source {
        view.update(|shown| *shown = source);
    }
    let mut tracker = served.lag.lock();
    let now = served.clock.now_us();
    for ago in (0..3_600).rev() {
        let clock_us = now - ago * 1_000_000;
        let flush = Lsn((1 << 40) - ago as u64);
        tracker.take(Sample { flush, clock_us }, clock_us);
    }
    tracker.caught_up();
    drop(tracker);
    served
}

/// One scrape on a connection that is kept; its bytes.
fn scrape(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    buffer.clear();
    let mut piece = [0; 1 << 16];
    loop {
        let read = stream.read(&mut piece)?;
        buffer.extend_from_slice(&piece[..read]);
        let Some(end) = buffer.windows(4).position(|part| part == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        if read == 0 || buffer.len() >= end + 4 + length {
            return Ok(buffer.len());
        }
    }
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let settings = HttpSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        metrics_listen: None,
        token: None,
    };
    let stop = CancellationToken::new();
    let listening = runtime.block_on(http::serve(&settings, served(), stop.clone()));
    let address = listening
        .map_err(|error| anyhow::anyhow!("{error}"))?
        .address;
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    let mut times: Vec<Duration> = Vec::new();
    let mut bytes = 0;
    for _ in 0..SCRAPES {
        let began = Instant::now();
        bytes = scrape(&mut stream, &mut buffer)?;
        times.push(began.elapsed());
    }
    stop.cancel();
    let series = buffer
        .split(|byte| *byte == b'\n')
        .filter(|line| line.starts_with(b"walferry_"));
    println!(
        "{SINKS} sinks, {} series, {bytes} bytes, {SCRAPES} scrapes",
        series.count()
    );
    times.sort();
    for (name, at) in [("p50", 50), ("p99", 99), ("max", 100)] {
        let time = times[(times.len() * at / 100).min(times.len() - 1)];
        println!("{name} {:.2} ms", time.as_secs_f64() * 1e3);
    }
    Ok(())
}
