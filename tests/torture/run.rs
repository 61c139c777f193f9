//! One run: start, load and faults with checkers beside them, checks at the end, verdict.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fault::{Kind, Side};
use crate::independent;
use crate::inject::inject;
use crate::load::{self, Book, CLIENTS, Counts};
use crate::report::{Diary, Done, Findings, Looks, Report};
use crate::schedule::{Planned, Step, schedule};
use crate::world::{Machine, World};
use crate::{Arguments, checks, ending};

/// What the parts of a run share.
struct Run {
    world: Arc<World>,
    diary: Arc<Diary>,
    findings: Arc<Findings>,
    counts: Arc<Counts>,
    looks: Arc<[Looks; 2]>,
    lag: Arc<[Mutex<String>; 2]>,
    done: Mutex<Vec<Done>>,
    recoveries: Mutex<Vec<Duration>>,
}

/// Runs it; returns whether it passed.
pub async fn run(arguments: &Arguments, kinds: Vec<&'static Kind>) -> anyhow::Result<bool> {
    let machine = Machine::of_environment()?;
    let interrupted = Interruption::listen()?;
    let diary = Arc::new(Diary::open(&machine.dir.join("diary.log"))?);
    let (kinds, lacking): (Vec<_>, Vec<_>) = kinds.into_iter().partition(|k| machine.has(k.needs));
    let steps = schedule(arguments.seed, arguments.minutes, &kinds);
    let dir = machine.dir.clone();
    diary.say(&format!(
        "seed {}, {} minutes, {} steps, in {}",
        arguments.seed,
        arguments.minutes,
        steps.len(),
        dir.display()
    ));
    let mut report = Report {
        seed: arguments.seed,
        minutes: arguments.minutes,
        faults_asked: arguments.fault.clone(),
        skipped: lacking
            .iter()
            .map(|k| format!("{} (this machine has no {:?})", k.name, k.needs))
            .collect(),
        schedule: steps,
        ..Report::default()
    };
    let started = tokio::select! {
        world = World::start(machine, &diary) => world.context("starting"),
        interrupted = interrupted.until() => Err(interrupted),
    };
    let result = match started {
        Ok(world) => all(arguments.seed, world, &diary, &interrupted, &mut report).await,
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        report.findings.push(format!("{error:#}"));
    }
    report.passed = report.findings.is_empty();
    report.seconds = diary.seconds();
    report.print();
    let file = std::env::var_os("WALFERRY_TORTURE_REPORT")
        .map_or_else(|| dir.join("report.json"), PathBuf::from);
    std::fs::write(&file, serde_json::to_vec_pretty(&report)?)?;
    println!("{}", file.display());
    Ok(report.passed)
}

/// The first SIGINT or SIGTERM.
struct Interruption(CancellationToken);

impl Interruption {
    fn listen() -> anyhow::Result<Self> {
        let token = CancellationToken::new();
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let (mut signals, token) = (signal(kind)?, token.clone());
            tokio::spawn(async move {
                signals.recv().await;
                token.cancel();
            });
        }
        Ok(Interruption(token))
    }

    /// Waits for it; what to say then.
    async fn until(&self) -> anyhow::Error {
        self.0.cancelled().await;
        anyhow::anyhow!("interrupted")
    }
}

async fn all(
    seed: u64,
    world: World,
    diary: &Arc<Diary>,
    interrupted: &Interruption,
    report: &mut Report,
) -> anyhow::Result<()> {
    let world = Arc::new(world);
    let run = Run {
        world: world.clone(),
        diary: diary.clone(),
        findings: Arc::new(Findings::new()),
        counts: Arc::default(),
        looks: Arc::default(),
        lag: Arc::default(),
        done: Mutex::default(),
        recoveries: Mutex::default(),
    };
    let result = tokio::select! {
        result = run.torture(seed, report.schedule.clone()) => result,
        () = run.findings.any.cancelled() => Ok(None),
        interrupted = interrupted.until() => Err(interrupted),
    };
    world.stop().await;
    report.done = run.done.lock().expect("no panic holds it").clone();
    let recoveries = run.recoveries.lock().expect("no panic holds it").clone();
    report.recovered = recoveries.len();
    report.recovery_max_seconds = recoveries.iter().max().map_or(0.0, Duration::as_secs_f64);
    report.count(&run.counts, &run.looks);
    report.findings = run.findings.all();
    report.independent = result?;
    Ok(())
}

impl Run {
    /// Everything between start and stop; returns what the independent reader says.
    async fn torture(&self, seed: u64, steps: Vec<Step>) -> anyhow::Result<Option<String>> {
        let stop = CancellationToken::new();
        let _at_the_end = stop.clone().drop_guard();
        let checkers = self.start_checkers(&stop);
        let end_of_load = CancellationToken::new();
        let _also = end_of_load.clone().drop_guard();
        let clients: Vec<JoinHandle<Book>> = (0..CLIENTS)
            .map(|n| {
                tokio::spawn(load::run(
                    self.world.clone(),
                    seed,
                    n,
                    self.counts.clone(),
                    end_of_load.clone(),
                ))
            })
            .collect();
        checks::caught_up(&self.world)
            .await
            .context("the first copy")?;
        self.diary.say("the first copy is done; faults begin");
        let (number, mut last) = (steps.len(), None);
        for (n, step) in steps.into_iter().enumerate() {
            self.diary
                .say(&format!("step {} of {number}: {step}", n + 1));
            self.step(&step)
                .await
                .with_context(|| format!("step {}: {step}", n + 1))?;
            last = Some(n);
        }
        self.diary.say(&format!(
            "faults have ended after step {}; the load stops",
            last.map_or(0, |n| n + 1)
        ));
        end_of_load.cancel();
        let mut books = Vec::new();
        for client in clients {
            books.push(client.await?);
        }
        self.caught_up("the end").await?;
        stop.cancel();
        for checker in checkers {
            checker.await?;
        }
        self.compare(&books).await.map(Some)
    }

    async fn compare(&self, books: &[Book]) -> anyhow::Result<String> {
        ending::contents(&self.world).await?;
        ending::ledger(&self.world, books).await?;
        self.diary
            .say("followers and books agree with the leader; the independent reader begins");
        let rebuilt = independent::compare(&self.world)
            .await
            .context("independent reader")?;
        self.diary.say(&format!("independent reader: {rebuilt}"));
        self.world.workers.terminate_all().await?;
        Ok(rebuilt)
    }

    fn start_checkers(&self, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        let shared = || (self.findings.clone(), self.diary.clone(), stop.clone());
        let mut tasks = Vec::new();
        for side in Side::BOTH {
            let (findings, diary, stop) = shared();
            tasks.push(tokio::spawn(checks::watch(
                self.world.clone(),
                side,
                self.looks.clone(),
                findings,
                diary,
                stop,
            )));
        }
        let (findings, diary, stop_listening) = shared();
        tasks.push(tokio::spawn(checks::listen(
            self.world.clone(),
            self.lag.clone(),
            findings,
            diary,
            stop_listening,
        )));
        let (counts, looks, lag) = (self.counts.clone(), self.looks.clone(), self.lag.clone());
        let (_, diary, stop) = shared();
        tasks.push(tokio::spawn(async move {
            while !stop.is_cancelled() {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(Duration::from_secs(5)) => progress(&diary, &counts, &looks, &lag),
                }
            }
        }));
        tasks
    }

    async fn step(&self, step: &Step) -> anyhow::Result<()> {
        tokio::time::sleep(Duration::from_millis(step.pause_ms)).await;
        let second = async {
            if let Some((after_ms, planned)) = &step.second {
                tokio::time::sleep(Duration::from_millis(*after_ms)).await;
                self.fault(planned).await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(self.fault(&step.first), second)?;
        if step.settle {
            self.caught_up("settling").await?;
        }
        Ok(())
    }

    async fn fault(&self, planned: &Planned) -> anyhow::Result<()> {
        let at_seconds = self.diary.seconds();
        self.diary.say(&format!("{} begins", planned.name));
        let hold = Duration::from_millis(planned.hold_ms);
        let note = inject(&self.world, planned.fault, hold)
            .await
            .with_context(|| planned.name)?;
        let shown = note.as_ref().map_or_else(String::new, |n| format!(": {n}"));
        self.diary
            .say(&format!("{} has ended{shown}", planned.name));
        self.done.lock().expect("no panic holds it").push(Done {
            name: planned.name,
            what: planned.fault.to_string(),
            at_seconds,
            hold_ms: planned.hold_ms,
            note,
        });
        Ok(())
    }

    async fn caught_up(&self, when: &str) -> anyhow::Result<()> {
        let took = checks::caught_up(&self.world)
            .await
            .context(when.to_owned())?;
        self.diary.say(&format!(
            "{when}: both followers have caught up, after {:.1} s",
            took.as_secs_f64()
        ));
        self.recoveries
            .lock()
            .expect("no panic holds it")
            .push(took);
        Ok(())
    }
}

fn progress(diary: &Diary, counts: &Counts, looks: &[Looks; 2], lag: &[Mutex<String>; 2]) {
    let lag = |side: usize| lag[side].lock().expect("no panic holds it").clone();
    diary.say(&format!(
        "  {} transactions; looks {} and {}; lag of a {}, of b {}",
        counts.committed.load(Ordering::Relaxed),
        looks[0].whole.load(Ordering::Relaxed),
        looks[1].whole.load(Ordering::Relaxed),
        lag(0),
        lag(1)
    ));
}
