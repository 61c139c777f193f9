//! What can be asked of walferry on the command line, with the help that explains it.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::config;
use crate::model::clock::unix_us;
use crate::model::{Lsn, Position};

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

/// What `--into` says for standard output.
pub const STDOUT: &str = "stdout";

const EXAMPLES: &str = "\
Examples:
  walferry check                     is everything ready to start?
  walferry run                       run the source and all sinks of connectors/
  walferry run --only leader         run the source here, the sinks elsewhere
  walferry status --watch            lag, rates and errors, every second
  walferry tail public.orders        show changes of a table as they come
  walferry replay                    show all changes that are still there, and end
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
    /// Replay a range of transactions from Kafka, to standard output or into a follower, and end
    ///
    /// All transactions with from <= commit LSN < to, whole and in commit order. Printed as tail prints
    /// them; the same range prints the same. Ends with an error, and prints nothing, when changes of the
    /// range are no longer in Kafka. Reads only; no follower and no other reader is affected.
    ///
    /// With --into, a follower that stands at a boundary (behind walferry rebuild --to-…, or another
    /// replay) is moved on to a later one and stays there: to look at the leader's past step by step.
    #[command(
        after_help = "Examples:\n  walferry replay --from-lsn 16/B374D848 --to-lsn 16/B37B0000\n  walferry replay --tables public.orders --json | jq .after\n  walferry replay --from-time 2026-11-27T20:15:00    # up to now\n  walferry replay --into warehouse --to-transaction 81734"
    )]
    Replay {
        /// Tables to print: schema.table with * and ?, or a bare table name [default: all]
        #[arg(long, value_name = "TABLE", num_args = 1.., value_delimiter = ',')]
        tables: Vec<String>,
        /// Transactions that committed at or behind this LSN [default: from where the log begins, or where
        /// the follower stands]
        #[arg(long, value_name = "LSN", group = "beginning")]
        from_lsn: Option<Lsn>,
        /// From the first transaction that committed later, by the leader's clock; UTC
        #[arg(long, value_name = "TIME", group = "beginning", value_parser = parse_time_ms)]
        from_time: Option<i64>,
        /// Where it ends [default: where the log ends now]
        #[command(flatten)]
        to: Boundary,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Sink whose follower is moved on to the end of the range, or stdout
        #[arg(long, value_name = "SINK", default_value = STDOUT)]
        into: String,
    },
    /// Compare followers with the leader, row by row, while both are live
    ///
    /// At one and the same boundary, at which the follower stands for a moment. Reads both and changes no
    /// row; hashes are computed in the databases, and only keys are shown. With --repair tables that differ
    /// are copied anew from the leader, while the others go on, and compared again. Exits with 3 when in
    /// the end a row is not the same, or a table could not be compared.
    #[command(
        after_help = "Examples:\n  walferry verify\n  walferry verify warehouse --tables 'public.*'\n  walferry verify warehouse --repair\n  walferry verify --max-rows-per-second 50000\n  walferry verify --json | jq '.[].tables[] | select(.different.count > 0)'"
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
        /// Have the source copy tables that differ, and compare those again
        #[arg(long)]
        repair: bool,
        /// Read no more rows of each server a second [default: verify_max_rows_per_second of the sink]
        #[arg(long, value_name = "N")]
        max_rows_per_second: Option<NonZeroU64>,
        /// Longest wait for a follower to show what the leader has, and for the leader's open transactions
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
    ///
    /// With --beside the follower's database goes on serving while this command builds another one on the
    /// same server; when both show the same, they change names. Ended at any step, the same command goes on.
    #[command(
        after_help = "Examples:\n  walferry rebuild warehouse\n  walferry rebuild warehouse --tables public.orders 'shop.*'\n  walferry rebuild warehouse --beside warehouse_new\n  walferry rebuild warehouse --to-time 2026-11-27T20:15:00\n  walferry rebuild warehouse --before-transaction 81734\n  walferry sink resume warehouse    # follow again after a target"
    )]
    Rebuild {
        /// Its name: that of its file in connectors/ without .toml
        #[arg(value_name = "SINK")]
        name: String,
        /// Where it stops [default: it goes on with the present]
        #[command(flatten)]
        to: Boundary,
        /// Only these tables, from their newest copies, while the others go on: schema.table with * and ?, or
        /// a bare table name [default: all]
        #[arg(long, value_name = "TABLE", num_args = 1.., value_delimiter = ',')]
        tables: Vec<String>,
        /// Build it in this database of the same server, which is created, while the old one goes on serving;
        /// then they change names
        #[arg(long, value_name = "DATABASE")]
        beside: Option<String>,
        /// With --beside: go on although the old database has what the new one will not have
        #[arg(long)]
        leave_behind: bool,
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
    /// one group of tables after the other, and only copies that begin now count. With --from the rows
    /// are read from the follower of a sink instead of the leader; one that is not fit for it is refused
    /// before anything is asked. Ctrl-C ends the waiting and nothing else. Exits with 3 when a table is
    /// not captured any more.
    #[command(
        after_help = "Examples:\n  walferry copy\n  walferry copy --tables public.orders 'shop.*'\n  walferry copy --from warehouse    # at no cost to the leader\n  walferry copy --pause             # until walferry copy --resume"
    )]
    Copy {
        /// Tables to copy: schema.table with * and ?, or a bare table name [default: all captured]
        #[arg(long, value_name = "TABLE", num_args = 1.., value_delimiter = ',')]
        tables: Vec<String>,
        /// Read the rows from the Postgres follower of this sink [default: from the leader]
        #[arg(long, value_name = "SINK")]
        from: Option<String>,
        /// Ask for nothing, but pause the source's copies: those under way and those to come
        #[arg(long, conflicts_with_all = ["tables", "from", "resume"])]
        pause: bool,
        /// Ask for nothing, but let paused copies go on
        #[arg(long, conflicts_with_all = ["tables", "from"])]
        resume: bool,
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
    /// Print the SQL of the leader's event triggers
    ///
    /// With `event_trigger = true` the source makes them itself where it may; on most servers a superuser has
    /// to. They say in the leader's stream what ALTER TABLE does, so that followers do exactly that.
    #[command(
        after_help = "Example:\n  walferry event-trigger | psql postgres://postgres@leader/shop"
    )]
    EventTrigger,
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  walferry completions bash > /etc/bash_completion.d/walferry"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// A boundary between transactions, as a person names it.
#[derive(Args, Clone, Copy, Debug)]
#[group(multiple = false)]
pub struct Boundary {
    /// All transactions that committed before this LSN, and no other
    #[arg(long, value_name = "LSN")]
    pub to_lsn: Option<Lsn>,
    /// Before the first transaction that committed later, by the leader's clock; UTC, such as
    /// 2026-11-27T20:15:00
    #[arg(long, value_name = "TIME", value_parser = parse_time_ms)]
    pub to_time: Option<i64>,
    /// Behind this transaction (txId of change events)
    #[arg(long, value_name = "XID")]
    pub to_transaction: Option<u32>,
    /// Before this transaction, and without it
    #[arg(long, value_name = "XID")]
    pub before_transaction: Option<u32>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

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
