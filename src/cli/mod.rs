//! The command line: what can be asked of walferry, and with which exit code it answers.

mod arguments;
mod ask;
mod bar;
mod beside;
mod copy;
mod history;
mod logging;
mod progress;
mod reach;
mod rebuild;
mod replay;
mod sink;
mod status;
mod tables;
mod tail;
mod target;
mod verify;
mod watch;
mod worker;

use std::io::IsTerminal;

use clap::CommandFactory;
use tokio_util::sync::CancellationToken;

use self::rebuild::Tables;
use self::target::Target;
use crate::apply::moment::Moment;
use crate::check;
use crate::config::{self, Secret, Settings, SinkSettings, StoreSettings};
use crate::error::{Class, Error};
use crate::sink::SkipOrder;
use crate::source::event_trigger;
use crate::supervisor::Reload;
use crate::{reload, shutdown, supervisor};

use arguments::STDOUT;
pub use arguments::{Boundary, Cli, Command, SinkAction, TailFrom};

/// Environment variable with the `http.token` of a walferry whose settings are not here.
const TOKEN: &str = "WALFERRY_HTTP_TOKEN";

/// How a command ended, when not well.
#[derive(Debug)]
pub enum Failure {
    /// Something failed at run time: 1.
    RunTime(Error),
    /// Settings or command line wrong: 2.
    Usage(Error),
    /// What was looked at is not well, and that has been printed: 3.
    Unhealthy,
}

impl Failure {
    /// Of a command that asked servers: what a person must put right is told apart from what may pass.
    fn of(error: Error) -> Self {
        match error.class() {
            Class::Halt => Failure::Usage(error),
            Class::Transient | Class::Fenced => Failure::RunTime(error),
        }
    }

    /// Prints what has not been printed yet, and gives the exit code.
    pub fn report(&self) -> i32 {
        let (error, code) = match self {
            Failure::RunTime(error) => (Some(error), 1),
            Failure::Usage(error) => (Some(error), 2),
            Failure::Unhealthy => (None, 3),
        };
        if let Some(error) = error {
            eprintln!("error: {}", error.what());
            if let Some(remedy) = error.remedy() {
                eprintln!("remedy: {remedy}");
            }
        }
        code
    }
}

/// Does what was asked.
pub async fn execute(cli: Cli) -> Result<(), Failure> {
    let settings = || config::load(&cli.config, &cli.connectors).map_err(Failure::Usage);
    match cli.command {
        Command::Run { only } => {
            let load =
                move || supervisor::select(config::load(&cli.config, &cli.connectors)?, &only);
            run(load).await
        }
        Command::Reload { url } => {
            let token = token(url.is_some(), settings)?;
            ask::reload(&address(url, settings)?, token.as_ref()).await
        }
        Command::Check => {
            let settings = settings()?;
            logging::init_quiet();
            let report = check::run(&settings).await;
            print!("{report}");
            if report.failed() {
                Err(Failure::Unhealthy)
            } else {
                Ok(())
            }
        }
        Command::Status { watch, json, url } => {
            status::run(&address(url, settings)?, watch, json).await
        }
        Command::Tail { tables, json, from } => {
            let settings = settings()?;
            logging::init_quiet();
            tail::run(settings, &tables, json, from).await
        }
        Command::Replay {
            tables,
            from_lsn,
            from_time,
            to,
            json,
            into,
        } => {
            let settings = settings()?;
            logging::init_quiet();
            if into != STDOUT {
                if json || !tables.is_empty() || from_time.is_some() {
                    return Err(Failure::Usage(Error::halt(
                        format!("--tables, --json and --from-time do not go with --into {into}"),
                        "leave them out: a follower goes on from where it stands, with all its tables",
                    )));
                }
                let asked = rebuild::Asked {
                    sink: into,
                    what: rebuild::What::Replay { from: from_lsn },
                    target: to.target(),
                    detach: false,
                };
                return rebuild::run(&settings, asked).await.map(say);
            }
            let from_time = from_time.map(Moment::Time).map(Target::Moment);
            let asked = replay::Asked {
                tables,
                from: from_lsn.map(Target::Lsn).or(from_time),
                to: to.target(),
                json,
            };
            replay::run(settings, asked).await
        }
        Command::Verify {
            sinks,
            tables,
            json,
            repair,
            max_rows_per_second,
            patience,
        } => {
            logging::init_quiet();
            let asked = verify::Asked {
                sinks,
                tables,
                json,
                repair,
                max_rows_per_second,
                patience,
            };
            verify::run(&settings()?, &asked).await
        }
        Command::Rebuild {
            name,
            to,
            tables,
            beside,
            leave_behind,
            detach,
        } => {
            logging::init_quiet();
            let how = rebuild::Rebuild {
                target: to.target(),
                tables,
                beside,
                leave_behind,
                detach,
            };
            rebuild::rebuild(&settings()?, name, how).await.map(say)
        }
        Command::Resync {
            name,
            tables,
            fresh,
            detach,
        } => {
            logging::init_quiet();
            let tables = Tables::Named(tables);
            let asked = rebuild::Asked {
                sink: name,
                what: rebuild::What::Resync { tables, fresh },
                target: None,
                detach,
            };
            rebuild::run(&settings()?, asked).await.map(say)
        }
        Command::History { tables, json } => {
            logging::init_quiet();
            history::run(&settings()?, &tables, json).await
        }
        Command::Copy {
            tables,
            from,
            pause,
            resume,
        } => {
            logging::init_quiet();
            match pause || resume {
                true => copy::pause(&settings()?, pause).await,
                false => copy::run(&settings()?, &tables, from.as_deref()).await,
            }
        }
        Command::Sink { action } => {
            logging::init_quiet();
            match action {
                SinkAction::Forget { name } => sink::forget(settings()?, &name).await,
                SinkAction::Skip {
                    name,
                    position,
                    reason,
                    withdraw: _or_there_is_no_reason,
                } => {
                    let order = match reason {
                        Some(reason) => SkipOrder::Skip { reason },
                        None => SkipOrder::Withdraw,
                    };
                    sink::skip(&settings()?, &name, position, &order).await
                }
                SinkAction::Resume { name, url } => {
                    if url.is_none() && rebuild::resume(&settings()?, &name).await? {
                        println!("{name} follows the leader again");
                        return Ok(());
                    }
                    let token = token(url.is_some(), settings)?;
                    ask::resume(&address(url, settings)?, &name, token.as_ref()).await
                }
            }
        }
        Command::EventTrigger => {
            print!("{}", event_trigger::SQL);
            Ok(())
        }
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "walferry", &mut out);
            print!("{}", String::from_utf8_lossy(&out));
            Ok(())
        }
    }
}

/// Prints what a command has to say at its end.
fn say(done: Option<String>) {
    if let Some(done) = done {
        println!("{done}");
    }
}

/// The sinks of the settings, for an error's remedy.
fn sink_names(settings: &Settings) -> String {
    let names: Vec<&str> = settings.sinks.iter().map(|s| s.name.as_str()).collect();
    names.join(", ")
}

/// The sink of this name.
fn sink_of<'a>(settings: &'a Settings, name: &str) -> Result<&'a SinkSettings, Failure> {
    let mut sinks = settings.sinks.iter();
    sinks.find(|sink| sink.name == name).ok_or_else(|| {
        Failure::Usage(Error::halt(
            format!("there is no sink {name} in connectors/"),
            format!("name one of: {}", sink_names(settings)),
        ))
    })
}

/// Where to ask a running walferry.
fn address(
    url: Option<String>,
    settings: impl Fn() -> Result<Settings, Failure>,
) -> Result<String, Failure> {
    match url {
        Some(url) => ask::address_of(&url).map_err(Failure::Usage),
        None => Ok(ask::local(settings()?.http.listen).to_string()),
    }
}

/// What a running walferry wants to see before it changes something: that of the environment, or of the
/// settings where they are those of the process that is asked.
fn token(
    asks_another: bool,
    settings: impl Fn() -> Result<Settings, Failure>,
) -> Result<Option<Secret>, Failure> {
    match std::env::var(TOKEN) {
        Ok(token) => Ok(Some(Secret::new(token))),
        Err(_) if asks_another => Ok(None),
        Err(_) => Ok(settings()?.http.token),
    }
}

async fn run(
    load: impl Fn() -> crate::error::Result<Settings> + Send + 'static,
) -> Result<(), Failure> {
    let settings = load().map_err(Failure::Usage)?;
    let bars =
        logging::init(&settings.log, &settings.pipeline).filter(|_| !prints_to_terminal(&settings));
    let stop = CancellationToken::new();
    shutdown::listen(stop.clone()).map_err(Failure::RunTime)?;
    let (handle, asked) = reload::channel();
    shutdown::reload_on_hangup(handle.clone()).map_err(Failure::RunTime)?;
    let reload = Reload {
        load: Box::new(load),
        handle,
        asked,
    };
    let status = supervisor::views(&settings);
    let unwell = tokio::select! {
        unwell = supervisor::run(settings, status.clone(), reload, stop) => unwell,
        never = progress::show(&status, bars) => match never {},
    };
    if unwell.map_err(Failure::RunTime)?.is_empty() {
        Ok(())
    } else {
        // Logged when it happened, with the remedy.
        Err(Failure::Unhealthy)
    }
}

/// Whether a sink's changes are printed where bars would be drawn.
fn prints_to_terminal(settings: &Settings) -> bool {
    let mut sinks = settings.sinks.iter();
    std::io::stdout().is_terminal() && sinks.any(|s| matches!(s.store, StoreSettings::Stdout(_)))
}
