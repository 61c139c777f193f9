//! The status page in a real browser: what an operator sees when all is well, when a follower lags, when one
//! has halted, when the source is down; on a wide screen and on a phone, light and dark.
//!
//! The server is walferry's own; what the parts say of themselves is set here. Pictures go to
//! `WALFERRY_SCREENSHOTS`, if that is set.

#[path = "support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::walferry::free_port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use walferry::config::HttpSettings;
use walferry::http::{self, Served};
use walferry::lag::{HostClock, SharedTracker};
use walferry::log::commit_log::Sample;
use walferry::model::clock::{POSTGRES_EPOCH_US, unix_us};
use walferry::model::{Lsn, SlotState, WalStatus};
use walferry::reload::channel;
use walferry::status::{
    CopyProgress, LastError, Parts, ProcessStatus, RowCounts, SinkHandle, SinkView, SourceView,
    State,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// A browser under its driver, spoken to in the WebDriver protocol.
struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// None where the machine has no browser and `./dev test` has said so.
    async fn start() -> Option<Self> {
        let driver = std::env::var("WALFERRY_CHROMEDRIVER").expect(
            "WALFERRY_CHROMEDRIVER names no chromedriver: run the tests by `./dev test`, which looks for it",
        );
        if driver == "none" {
            return None;
        }
        let port = free_port();
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new(driver)
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver can be started");
        let mut browser = Browser {
            driver: child,
            port,
            session: String::new(),
            _profile: profile,
        };
        let began = Instant::now();
        while let Err(error) = browser.send("GET", "/status", None).await {
            assert!(
                began.elapsed() < DEADLINE,
                "chromedriver does not answer: {error}"
            );
            tokio::task::yield_now().await;
        }
        let profile = browser._profile.path().display().to_string();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            &format!("--user-data-dir={profile}"),
        ];
        let options = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": {"args": arguments},
        }}});
        let answer = browser
            .send("POST", "/session", Some(options))
            .await
            .unwrap();
        browser.session = answer["sessionId"].as_str().expect("a session").to_owned();
        Some(browser)
    }

    /// Sends a command; its value.
    async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, String> {
        let failed = |error: std::io::Error| error.to_string();
        let at = ("127.0.0.1", self.port);
        let mut stream = tokio::net::TcpStream::connect(at).await.map_err(failed)?;
        let body = body.map_or_else(String::new, |body| body.to_string());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut answer = Vec::new();
        // It keeps the connection open: the length says where the answer ends.
        loop {
            if let Some(body) = whole_body(&answer) {
                let mut value: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
                let value = value["value"].take();
                return match value.get("error") {
                    Some(error) if value.get("message").is_some() => {
                        Err(format!("{error}: {value}"))
                    }
                    _ => Ok(value),
                };
            }
            let mut piece = vec![0; 1 << 16];
            let read = stream.read(&mut piece).await.map_err(failed)?;
            if read == 0 {
                return Err("the answer is cut off".to_owned());
            }
            answer.extend_from_slice(&piece[..read]);
        }
    }

    async fn command(&self, method: &str, what: &str, body: Value) -> Value {
        let path = format!("/session/{}/{what}", self.session);
        let body = (method != "GET").then_some(body);
        self.send(method, &path, body).await.unwrap()
    }

    async fn open(&self, url: &str) {
        self.command("POST", "url", json!({"url": url})).await;
    }

    /// What a script in the page returns.
    async fn run(&self, script: &str) -> Value {
        self.command(
            "POST",
            "execute/sync",
            json!({"script": script, "args": []}),
        )
        .await
    }

    /// Waits until a script returns true.
    async fn until(&self, what: &str, script: &str) {
        let began = Instant::now();
        while self.run(script).await != json!(true) {
            if began.elapsed() > DEADLINE {
                let text = self.run("return document.body.innerText").await;
                panic!("{what}: not within {DEADLINE:?}; the page says:\n{text}");
            }
        }
    }

    /// Screen and colour scheme as of a device.
    async fn device(&self, width: u32, height: u32, scheme: &str) {
        for (method, parameters) in [
            (
                "Emulation.setDeviceMetricsOverride",
                json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}),
            ),
            (
                "Emulation.setEmulatedMedia",
                json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
            ),
        ] {
            let command = json!({"cmd": method, "params": parameters});
            self.command("POST", "goog/cdp/execute", command).await;
        }
    }

    /// Keeps a picture of the whole page, if somebody wants it.
    async fn picture(&self, name: &str) {
        let Some(dir) = std::env::var_os("WALFERRY_SCREENSHOTS") else {
            return;
        };
        let command =
            json!({"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": true}});
        let answer = self.command("POST", "goog/cdp/execute", command).await;
        let picture = decoded(answer["data"].as_str().unwrap());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(
            std::path::Path::new(&dir).join(format!("{name}.png")),
            picture,
        )
        .unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser when it is asked to; killed, it leaves it behind.
        let goodbye = format!(
            "DELETE /session/{} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\r\n",
            self.session, self.port
        );
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.port)) {
            use std::io::{Read as _, Write as _};
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = stream.write_all(goodbye.as_bytes());
            let _ = stream.read(&mut [0; 512]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The body of an HTTP answer, when all of it has come.
fn whole_body(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|length| length.trim().parse().ok())?;
    answer.get(end + 4..end + 4 + length)
}

/// Base64.
fn decoded(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let values = text
        .bytes()
        .filter_map(|byte| LETTERS.iter().position(|l| *l == byte));
    let values: Vec<u32> = values.map(|value| value as u32).collect();
    let mut out = Vec::new();
    for group in values.chunks(4) {
        let bits = group
            .iter()
            .enumerate()
            .fold(0, |all, (at, value)| all | value << (18 - 6 * at));
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    out
}

/// A process with a source and three followers.
struct Process {
    served: Served,
    /// Whether samples of the leader come.
    sampled: Arc<AtomicBool>,
    stop: CancellationToken,
    address: SocketAddr,
}

const GIB: u64 = 1 << 30;
/// Where the leader is.
const FLUSH: u64 = 0x16_B374_D848;

impl Process {
    async fn start() -> Self {
        let names = ["warehouse", "reports", "search"];
        let sinks = names.map(SinkHandle::new);
        let served = Served {
            status: ProcessStatus::new(
                "shop",
                Parts {
                    source: Some(("leader".to_owned(), Arc::default())),
                    sinks: sinks.into(),
                },
            ),
            reload: channel().0,
            lag: SharedTracker::default(),
            clock: HostClock::start(),
        };
        let settings = HttpSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            metrics_listen: None,
            token: None,
        };
        let stop = CancellationToken::new();
        let listening = http::serve(&settings, served.clone(), stop.clone())
            .await
            .unwrap();
        let process = Process {
            served,
            sampled: Arc::default(),
            stop,
            address: listening.address,
        };
        process.is_well();
        tokio::spawn(process.sampling());
        process
    }

    /// A leader that stands still is sampled all the same, as a feed would do it; and followers take changes.
    fn sampling(&self) -> impl Future<Output = ()> + use<> {
        let (served, sampled) = (self.served.clone(), self.sampled.clone());
        let sampling = async move {
            let mut every = tokio::time::interval(Duration::from_millis(250));
            loop {
                every.tick().await;
                let mut tracker = served.lag.lock();
                let clock_us = served.clock.now_us();
                let flush = Lsn(FLUSH);
                if sampled.load(Ordering::Relaxed) {
                    tracker.take(Sample { flush, clock_us }, clock_us);
                }
                drop(tracker);
                for sink in &served.status.parts().sinks {
                    sink.view.update(|view| view.changes += 100);
                }
            }
        };
        let stop = self.stop.clone();
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = sampling => {}
            }
        }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Ten minutes of samples up to now, 1 MiB a second.
    fn samples(&self) {
        let mut tracker = self.served.lag.lock();
        tracker.behind();
        let now = self.served.clock.now_us();
        for ago in (0..600).rev() {
            let sample = Sample {
                flush: Lsn(FLUSH - ago * (1 << 20)),
                clock_us: now - ago as i64 * 1_000_000,
            };
            tracker.take(sample, sample.clock_us);
        }
        tracker.caught_up();
        self.sampled.store(true, Ordering::Relaxed);
    }

    fn source(&self, change: impl FnOnce(&mut SourceView)) {
        self.served
            .status
            .parts()
            .source
            .as_ref()
            .unwrap()
            .1
            .update(change);
    }

    fn sink(&self, at: usize, change: impl FnOnce(&mut SinkView)) {
        self.served.status.parts().sinks[at].view.update(change);
    }

    fn is_well(&self) {
        self.samples();
        self.source(|view| {
            *view = SourceView {
                state: State::Streaming,
                epoch: Some(41),
                received: Some(Lsn(FLUSH)),
                published: Some(Lsn(FLUSH)),
                confirmed: Some(Lsn(FLUSH - 4096)),
                leader_flush: Some(Lsn(FLUSH)),
                slot: Some(SlotState {
                    active: true,
                    wal_status: Some(WalStatus::Reserved),
                    retained_bytes: Some(24 << 20),
                    safe_bytes: Some(9 * GIB),
                }),
                clock_offset_us: Some(1_200),
                entry_at_us: Some(unix_us(std::time::SystemTime::now())),
                transactions: 81_000,
                changes: 420_000,
                bytes: 90 << 20,
                ..SourceView::default()
            };
        });
        for at in 0..3 {
            self.sink(at, |view| {
                *view = SinkView {
                    state: State::Streaming,
                    applied: Some(Lsn(FLUSH)),
                    commit_time_us: Some(unix_us(std::time::SystemTime::now()) - POSTGRES_EPOCH_US),
                    changes: 420_000,
                    rows: RowCounts {
                        inserted: 400_000,
                        ..RowCounts::default()
                    },
                    ..SinkView::default()
                };
            });
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

const HEADLINE: &str = "document.getElementById('headline').textContent";

async fn shows(browser: &Browser, headline: &str) {
    let script = format!("return {HEADLINE} === {}", json!(headline));
    browser.until(headline, &script).await;
}

/// What every state is looked at for: nothing hidden, nothing cut off, readable, on every screen.
async fn looks_right(browser: &Browser, name: &str) {
    for (device, width, height) in [("wide", 1280, 900), ("phone", 390, 844)] {
        for scheme in ["light", "dark"] {
            browser.device(width, height, scheme).await;
            let overflow = "return document.documentElement.scrollWidth <= window.innerWidth";
            browser
                .until("nothing is wider than the screen", overflow)
                .await;
            let poor = browser.run(CONTRAST).await;
            assert_eq!(
                poor,
                json!([]),
                "{name}, {device}, {scheme}: text that is hard to read"
            );
            browser.picture(&format!("{name}-{device}-{scheme}")).await;
        }
    }
    browser.device(1280, 900, "light").await;
}

/// Texts whose contrast with what is behind them is below WCAG's 4.5.
const CONTRAST: &str = r"
const channels = (text) => text.match(/[\d.]+/g).map(Number);
const linear = (c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = channels(getComputedStyle(at).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
  return [255, 255, 255];
};
const poor = [];
for (const element of document.querySelectorAll('body *')) {
  const own = [...element.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!own || !element.checkVisibility()) continue;
  const pair = [luminance(channels(getComputedStyle(element).color)), luminance(behind(element))];
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (ratio < 4.5) poor.push(`${element.textContent.slice(0, 40)}: ${ratio.toFixed(2)}`);
}
return poor;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_at_once_how_followers_are() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let process = Process::start().await;
    browser.open(&process.url()).await;

    shows(&browser, "All 3 followers are current").await;
    browser
        .until(
            "it is live",
            "return document.getElementById('connection').textContent === '● live'",
        )
        .await;
    let rows = "return [...document.querySelectorAll('#sinks tbody tr')].map((row) => row.dataset.sink ?? 'problem')";
    assert_eq!(
        browser.run(rows).await,
        json!(["reports", "search", "warehouse"])
    );
    let rate = "return /[1-9][0-9]*\\/s/.test(document.querySelector('[data-sink=warehouse]').textContent)";
    browser.until("changes a second", rate).await;
    // Numbers move: a change of the view is on the page without a reload.
    process.sink(0, |view| view.applied = Some(Lsn(FLUSH - 512)));
    browser
        .until(
            "lag is shown",
            "return document.querySelector('[data-sink=warehouse]').textContent.includes('512 B')",
        )
        .await;
    process.is_well();
    shows(&browser, "All 3 followers are current").await;
    looks_right(&browser, "healthy").await;

    process.sink(0, |view| view.applied = Some(Lsn(FLUSH - 252 * (1 << 20))));
    shows(&browser, "warehouse is behind, one of 3 followers").await;
    let facts = "return document.getElementById('facts').innerText";
    let told = browser.run(facts).await;
    assert!(told.as_str().unwrap().contains("behind for 4m"), "{told}");
    assert_eq!(
        browser.run(rows).await,
        json!(["warehouse", "reports", "search"]),
        "the worst first"
    );
    looks_right(&browser, "lagging").await;

    process.sink(1, |view| {
        view.state = State::Halted;
        view.applied = Some(Lsn(FLUSH - 90 * (1 << 20)));
        view.last_error = Some(LastError {
            what: "public.orders at 16/B374D848:3: a row collides with one of the follower's (constraint orders_pkey)".to_owned(),
            remedy: Some("delete that row on the follower, then walferry sink resume reports".to_owned()),
            at_unix_seconds: 1_790_000_000,
        });
    });
    shows(&browser, "reports has halted, one of 3 followers").await;
    let told = browser.run(facts).await;
    for part in ["orders_pkey", "What to do", "walferry sink resume reports"] {
        let all = "return document.body.innerText + getComputedStyle(document.querySelector('.remedy'), '::before').content";
        let all = browser.run(all).await;
        assert!(all.as_str().unwrap().contains(part), "{part}: {told}");
    }
    looks_right(&browser, "halted").await;

    process.is_well();
    process.sampled.store(false, Ordering::Relaxed);
    process.served.lag.lock().behind();
    process.source(|view| {
        view.state = State::Retrying;
        view.slot = None;
        view.last_error = Some(LastError {
            what: "the leader at db1:5432 refuses connections".to_owned(),
            remedy: None,
            at_unix_seconds: 1_790_000_000,
        });
    });
    shows(
        &browser,
        "The source does not stream: how far followers are is not known",
    )
    .await;
    let lag = "return document.querySelector('[data-sink=warehouse]').innerText";
    let lag = browser.run(lag).await;
    assert!(
        lag.as_str().unwrap().contains("unknown"),
        "never 0 when it is not known: {lag}"
    );
    looks_right(&browser, "source-down").await;

    process.is_well();
    process.sink(2, |view| {
        (view.state, view.copying) = (State::Copying, true);
        view.copies = vec![CopyProgress {
            table: "public.orders".to_owned(),
            rows: 420_000,
            rows_estimate: Some(1_000_000),
            done: false,
        }];
    });
    shows(&browser, "search is being copied, one of 3 followers").await;
    let copies = browser
        .run("return document.getElementById('copies').innerText")
        .await;
    assert!(
        copies
            .as_str()
            .unwrap()
            .contains("420,000 of about 1,000,000 rows"),
        "{copies}"
    );
    looks_right(&browser, "copying").await;

    // A server that is gone is said; what is shown is old.
    process.stop.cancel();
    shows(
        &browser,
        "walferry does not answer: this is what it said last",
    )
    .await;
    browser
        .until(
            "it says that it is not live",
            "return document.getElementById('connection').textContent.includes('no answer')",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_used_by_keyboard_and_brings_nothing_from_elsewhere() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let process = Process::start().await;
    browser.open(&process.url()).await;
    shows(&browser, "All 3 followers are current").await;
    let from = "return performance.getEntriesByType('resource').map((entry) => new URL(entry.name).origin)";
    let origins = browser.run(from).await;
    let own = process.url();
    assert!(origins.as_array().unwrap().len() >= 3, "{origins}");
    for origin in origins.as_array().unwrap() {
        assert_eq!(format!("{}/", origin.as_str().unwrap()), own);
    }
    // Everything that does something can be reached and has a name.
    let unnamed = "return [...document.querySelectorAll('a, button, [tabindex], svg[role=img], progress')]
        .filter((element) => !(element.textContent.trim() || element.getAttribute('aria-label') || element.getAttribute('aria-labelledby')))
        .map((element) => element.outerHTML)";
    assert_eq!(browser.run(unnamed).await, json!([]));
    let heads = "return [...document.querySelectorAll('#sinks thead th')].every((head) => head.scope === 'col')
        && [...document.querySelectorAll('#sinks tbody th')].every((head) => head.scope === 'row')";
    assert_eq!(browser.run(heads).await, json!(true));
    // A state is a sign and a word, not only a colour.
    let state = browser
        .run("return document.querySelector('.state').textContent")
        .await;
    assert_eq!(state, json!("▶ streaming"));
    let command = browser
        .run("return document.getElementById('command').textContent")
        .await;
    let expected = format!("walferry status --json --url {}", own.trim_end_matches('/'));
    assert_eq!(command, json!(expected));
    // Names from elsewhere are text, whatever is in them.
    process.sink(0, |view| {
        view.state = State::Halted;
        view.last_error = Some(LastError {
            what: "<img src=x onerror=\"document.title='taken'\">".to_owned(),
            remedy: None,
            at_unix_seconds: 0,
        });
    });
    shows(&browser, "warehouse has halted, one of 3 followers").await;
    let images = browser
        .run("return document.querySelectorAll('img').length")
        .await;
    assert_eq!(images, json!(0));
}
