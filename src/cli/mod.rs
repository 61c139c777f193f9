//! The command line: what can be asked of walferry, and with which exit code it answers.

mod ask;
mod copy;
mod history;
mod logging;
mod progress;
mod rebuild;
mod sink;
mod status;
mod tail;
mod verify;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tokio_util::sync::CancellationToken;

use self::rebuild::Target;
use crate::apply::moment::Moment;
use crate::check;
use crate::config::{self, Secret, Settings, StoreSettings};
use crate::error::{Class, Error};
use crate::model::clock::unix_us;
use crate::model::{Lsn, Position, Selection};
use crate::sink::SkipOrder;
use crate::supervisor::Reload;
use crate::{reload, shutdown, supervisor};

/// Change data capture from a Postgres leader through Kafka into Postgres followers.
///
/// walferry reads the leader's logical replication stream, publishes ordered change events to
/// Kafka, and applies them to followers in whole leader transactions, in commit order. It says at
/// any moment how far behind each follower is.
#[derive(Debug, Parser)]
#[command(name = "walferry", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// Directory with walferry.toml
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "config",
        env = "WALFERRY_CONFIG"
    )]
    pub config: PathBuf,
    /// Directory with one TOML file a connector: the source and the sinks
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "connectors",
        env = "WALFERRY_CONNECTORS"
    )]
    pub connectors: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Environment variable with the `http.token` of a walferry whose settings are not here.
const TOKEN: &str = "WALFERRY_HTTP_TOKEN";

const EXAMPLES: &str = "\
Examples:
  walferry check                     is everything ready to start?
  walferry run                       run the source and all sinks of connectors/
  walferry run --only leader         run the source here, the sinks elsewhere
  walferry status --watch            lag, rates and errors, every second
  walferry tail public.orders        show changes of a table as they come
  walferry verify                    do followers hold what the leader holds?
  walferry history                   how far back can a follower be rebuilt?

Exit codes:
  0  done, or stopped in order
  1  something failed at run time
  2  settings or command line wrong
  3  check found a failure; status or run found a part halted or fenced; verify found a
     difference; history found a table without a usable copy";

/// What walferry can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the source and the sinks until SIGTERM or SIGINT
    ///
    /// Each connector runs on its own: one that halts leaves the others alone, and the process
    /// stays up so that status can tell why. The first SIGTERM or SIGINT finishes what is in
    /// flight (15 seconds at most), a second one ends at once. The next start resumes.
    #[command(
        after_help = "Examples:\n  walferry run\n  walferry run --only leader\n  walferry run --only warehouse --only reports\n  walferry --config /etc/walferry --connectors /etc/walferry/connectors run"
    )]
    Run {
        /// Run only these connectors (file names in connectors/ without .toml)
        #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Check everything that can be known before starting
    ///
    /// Prints passes, warnings and failures with remedies for settings, leader, Kafka and
    /// followers. Changes nothing anywhere. Exits with 3 when something failed.
    #[command(after_help = "Example:\n  walferry check && walferry run")]
    Check,
    /// Show source and sinks: states, positions, lag, rates, last errors
    ///
    /// Asks a running walferry over HTTP (http.listen of the settings, or --url).
    #[command(
        after_help = "Examples:\n  walferry status\n  walferry status --watch\n  walferry status --json | jq '.sinks[] | {name, lag}'\n  walferry status --url http://10.0.0.5:8642"
    )]
    Status {
        /// Draw again every second, with rates
        #[arg(long)]
        watch: bool,
        /// Print the answer of /v1/status as it is
        #[arg(long)]
        json: bool,
        /// Where walferry listens, such as http://127.0.0.1:8642 [default: http.listen of the settings]
        #[arg(long)]
        url: Option<String>,
    },
    /// Print change events from Kafka as they come
    ///
    /// Only what counts: events of transactions that are completely in Kafka, in commit order.
    /// Reads only; no follower and no other reader is affected.
    #[command(
        after_help = "Examples:\n  walferry tail\n  walferry tail public.orders 'shop.*'\n  walferry tail --json --from earliest | jq .after"
    )]
    Tail {
        /// Tables to show: schema.table with * and ?, or a bare table name [default: all]
        #[arg(value_name = "TABLE")]
        tables: Vec<String>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Where to begin
        #[arg(long, value_enum, default_value_t = TailFrom::Now)]
        from: TailFrom,
    },
    /// Compare followers with the leader, row by row, while both are live
    ///
    /// Reads both; changes nothing, and stops nothing. Hashes are computed in the databases; only keys
    /// are shown. A row that is being changed is looked at again. Exits with 3 when a row is not the
    /// same, or a table could not be compared.
    #[command(
        after_help = "Examples:\n  walferry verify\n  walferry verify warehouse --tables 'public.*'\n  walferry verify --json | jq '.[].tables[] | select(.different.count > 0)'"
    )]
    Verify {
        /// Sinks [default: all with a Postgres follower]
        #[arg(value_name = "SINK")]
        sinks: Vec<String>,
        /// Tables to compare: schema.table with * and ?, or a bare table name [default: all]
        #[arg(long, value_name = "TABLE", num_args = 1.., value_delimiter = ',')]
        tables: Vec<String>,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
        /// Longest wait for a follower to show what the leader has
        #[arg(long, value_name = "TIME", default_value = "5min", value_parser = parse_patience)]
        patience: Duration,
    },
    /// Build a follower anew from Kafka, to the present or to a moment in the past
    ///
    /// The newest copy of each table is loaded, then its changes; nothing is asked of the leader. The
    /// follower's tables are emptied one by one as their copies come; until all are in effect it
    /// promises nothing. With a target the follower stops exactly there and stays: to look at the past, or
    /// to fetch back what an accident took. The order is written into the follower and carried out by
    /// its sink, wherever that runs; this command watches it, and may be ended and begun again.
    #[command(
        after_help = "Examples:\n  walferry rebuild warehouse\n  walferry rebuild warehouse --to-time 2026-11-27T20:15:00\n  walferry rebuild warehouse --before-transaction 81734\n  walferry sink resume warehouse    # follow again after a target"
    )]
    Rebuild {
        /// Its name: that of its file in connectors/ without .toml
        #[arg(value_name = "SINK")]
        name: String,
        /// Stop where all transactions that committed before this LSN are applied, and no other
        #[arg(long, value_name = "LSN", group = "target")]
        to_lsn: Option<Lsn>,
        /// Stop before the first transaction that committed later, by the leader's clock; UTC, such as
        /// 2026-11-27T20:15:00
        #[arg(long, value_name = "TIME", group = "target", value_parser = parse_time_ms)]
        to_time: Option<i64>,
        /// Stop behind this transaction (txId of change events)
        #[arg(long, value_name = "XID", group = "target")]
        to_transaction: Option<u32>,
        /// Stop before this transaction, and be without it
        #[arg(long, value_name = "XID", group = "target")]
        before_transaction: Option<u32>,
        /// Order it, and do not wait until it is done
        #[arg(long)]
        detach: bool,
    },
    /// Copy some tables of a follower anew, while its other tables go on
    ///
    /// For a table that is broken on one follower. The newest copy in Kafka is used, or, with --fresh,
    /// one that the source makes now. Other followers do not notice.
    #[command(
        after_help = "Examples:\n  walferry resync warehouse public.orders\n  walferry resync warehouse 'shop.*' --fresh"
    )]
    Resync {
        /// Its name: that of its file in connectors/ without .toml
        #[arg(value_name = "SINK")]
        name: String,
        /// Tables: schema.table with * and ?, or a bare table name
        #[arg(value_name = "TABLE", required = true)]
        tables: Vec<String>,
        /// Use no copy that is there, but have the source make one
        #[arg(long)]
        fresh: bool,
        /// Order it, and do not wait until it is done
        #[arg(long)]
        detach: bool,
    },
    /// Show how far back a follower can be rebuilt from Kafka
    ///
    /// Reads the commit log and the topics' watermarks; no follower and no other reader is affected. A
    /// copy of a table is usable while Kafka has its rows and all changes behind it. Exits with 3 when
    /// a captured table has none.
    #[command(
        after_help = "Examples:\n  walferry history\n  walferry history --tables 'shop.*'\n  walferry history --json | jq '.earliest, .latest'"
    )]
    History {
        /// Tables to look at: schema.table with * and ?, or a bare table name [default: all]
        #[arg(long, value_name = "TABLE", num_args = 1.., value_delimiter = ',')]
        tables: Vec<String>,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask for new copies of tables, and wait for them
    ///
    /// Streaming goes on, and followers that have their tables do not notice: a new copy is a base
    /// backup for those that are added or copied anew later. The source makes it wherever it runs,
    /// one group of tables after the other, and only copies that begin now count. Ctrl-C ends the
    /// waiting and nothing else. Exits with 3 when a table is not captured any more.
    #[command(
        after_help = "Examples:\n  walferry copy\n  walferry copy --tables public.orders 'shop.*'"
    )]
    Copy {
        /// Tables to copy: schema.table with * and ?, or a bare table name [default: all captured]
        #[arg(long, value_name = "TABLE", num_args = 1.., value_delimiter = ',')]
        tables: Vec<String>,
    },
    /// Let a running walferry read its settings again
    ///
    /// Connectors whose files are new are started, those whose files are gone are stopped in order,
    /// those with other settings are restarted, and the others go on undisturbed. The source looks at
    /// once which tables are to be captured. If the settings are wrong, or need a restart, nothing
    /// changes. The same as SIGHUP, with an answer. Where walferry wants http.token, it is taken from
    /// the settings, or from WALFERRY_HTTP_TOKEN.
    #[command(
        after_help = "Examples:\n  walferry reload\n  walferry reload --url http://10.0.0.5:8642"
    )]
    Reload {
        /// Where walferry listens, such as http://127.0.0.1:8642 [default: http.listen of the settings]
        #[arg(long)]
        url: Option<String>,
    },
    /// Act on one sink
    Sink {
        /// What to do with it
        #[command(subcommand)]
        action: SinkAction,
    },
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  walferry completions bash > /etc/bash_completion.d/walferry"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What can be done with one sink.
#[derive(Debug, Subcommand)]
pub enum SinkAction {
    /// Forget a sink that is gone for good
    ///
    /// The commit log is kept for every sink that ever said how far it is. This removes what the
    /// named one said, so that the log can be trimmed without it. Nothing is changed in its
    /// follower. A sink that runs again, or still runs, is known again at once.
    #[command(after_help = "Example:\n  walferry sink forget old_reports")]
    Forget {
        /// Its name: that of its file in connectors/ without .toml
        #[arg(value_name = "SINK")]
        name: String,
    },
    /// Order a sink to go on without one change
    ///
    /// A halted sink names the change that its follower cannot take. Repair the follower if you can:
    /// then nothing is lost. Else this orders the change to be passed over, and records it with the
    /// reason in the follower's table walferry.skips. The order counts from the sink's next session
    /// on: walferry sink resume, or a restart. The follower lacks that change from then on; later
    /// changes of the same row will halt the sink too.
    #[command(
        after_help = "Examples:\n  walferry sink skip reports --position 16/B374D848:3 --reason 'order 17 breaks our CHECK'\n  walferry sink skip reports --position 16/B374D848:3 --withdraw"
    )]
    Skip {
        /// Its name: that of its file in connectors/ without .toml
        #[arg(value_name = "SINK")]
        name: String,
        /// The change, as the error names it: commit LSN, colon, number of the record
        #[arg(long)]
        position: Position,
        /// Why, for whoever looks at walferry.skips later
        #[arg(long, value_name = "TEXT", required_unless_present = "withdraw")]
        reason: Option<String>,
        /// Take an order back that was not carried out yet
        #[arg(long, conflicts_with = "reason")]
        withdraw: bool,
    },
    /// Let a sink go on that has halted, or is paused
    ///
    /// One that was ordered to stop at a position (walferry rebuild --to-…) follows again. For one that
    /// has halted: asks a running walferry over HTTP (http.listen of the settings, or --url). The sink begins
    /// where it stopped; if what was in its way is still there, it halts again. Where walferry wants
    /// http.token, it is taken from the settings, or from WALFERRY_HTTP_TOKEN.
    #[command(
        after_help = "Examples:\n  walferry sink resume reports\n  walferry sink resume reports --url http://10.0.0.5:8642"
    )]
    Resume {
        /// Its name: that of its file in connectors/ without .toml
        #[arg(value_name = "SINK")]
        name: String,
        /// Where walferry listens, such as http://127.0.0.1:8642 [default: http.listen of the settings]
        #[arg(long)]
        url: Option<String>,
    },
}

/// Where `tail` begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TailFrom {
    /// With the oldest entry of the log
    Earliest,
    /// With the next transaction
    Now,
}

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
        Command::Verify {
            sinks,
            tables,
            json,
            patience,
        } => {
            logging::init_quiet();
            let asked = verify::Asked {
                sinks,
                tables,
                json,
                patience,
            };
            verify::run(&settings()?, &asked).await
        }
        Command::Rebuild {
            name,
            to_lsn,
            to_time,
            to_transaction,
            before_transaction,
            detach,
        } => {
            logging::init_quiet();
            let moment = to_time
                .map(Moment::Time)
                .or(to_transaction.map(Moment::Behind))
                .or(before_transaction.map(Moment::Before));
            let asked = rebuild::Asked {
                sink: name,
                target: to_lsn.map(Target::Lsn).or(moment.map(Target::Moment)),
                tables: None,
                fresh: false,
                detach,
            };
            rebuild::run(&settings()?, asked).await
        }
        Command::Resync {
            name,
            tables,
            fresh,
            detach,
        } => {
            logging::init_quiet();
            let patterns = tail::patterns(&tables).map_err(Failure::Usage)?;
            let asked = rebuild::Asked {
                sink: name,
                target: None,
                tables: Some(Selection::new(&patterns, &[])),
                fresh,
                detach,
            };
            rebuild::run(&settings()?, asked).await
        }
        Command::History { tables, json } => {
            logging::init_quiet();
            history::run(&settings()?, &tables, json).await
        }
        Command::Copy { tables } => {
            logging::init_quiet();
            copy::run(&settings()?, &tables).await
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
                    if url.is_none()
                        && rebuild::resume(&settings()?, &name)
                            .await
                            .map_err(Failure::of)?
                    {
                        println!("{name} follows the leader again");
                        return Ok(());
                    }
                    let token = token(url.is_some(), settings)?;
                    ask::resume(&address(url, settings)?, &name, token.as_ref()).await
                }
            }
        }
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "walferry", &mut out);
            print!("{}", String::from_utf8_lossy(&out));
            Ok(())
        }
    }
}

fn parse_patience(text: &str) -> Result<Duration, String> {
    let wrong = "write a time with its unit, such as 30s or 5min";
    config::values::parse_duration(text).ok_or_else(|| wrong.to_owned())
}

/// Milliseconds since 1970.
fn parse_time_ms(text: &str) -> Result<i64, String> {
    let wrong = |_| "write a time in UTC, such as 2026-11-27T20:15:00 or 2026-11-27 20:15:00.250";
    let time = humantime::parse_rfc3339_weak(text).map_err(wrong)?;
    Ok(unix_us(time) / 1_000)
}

/// The sinks of the settings, for an error's remedy.
fn sink_names(settings: &Settings) -> String {
    let names: Vec<&str> = settings.sinks.iter().map(|s| s.name.as_str()).collect();
    names.join(", ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn directories_may_stand_before_or_behind_the_command() {
        for line in [
            ["walferry", "--config", "c", "run"],
            ["walferry", "run", "--config", "c"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.config, PathBuf::from("c"));
        }
    }

    #[test]
    fn only_takes_several_names_in_either_form() {
        for line in [
            &["walferry", "run", "--only", "a", "b"][..],
            &["walferry", "run", "--only", "a", "--only", "b"],
            &["walferry", "run", "--only", "a,b"],
        ] {
            let Command::Run { only } = Cli::try_parse_from(line).unwrap().command else {
                panic!("{line:?}")
            };
            assert_eq!(only, ["a", "b"], "{line:?}");
        }
    }
}
