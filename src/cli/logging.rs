//! Log lines go to standard error: for people on a terminal, JSON otherwise.

use std::fmt;
use std::io::IsTerminal;

use serde_json::Value;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent};
use tracing_subscriber::registry::LookupSpan;

use super::progress::Bars;
use crate::config::{LogFormat, LogSettings};

/// Starts logging as the settings say, for a process of this pipeline. Where people read it on a terminal
/// there is room for bars below.
pub(super) fn init(settings: &LogSettings, pipeline: &str) -> Option<Bars> {
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !terminal,
    };
    let bars = (terminal && !json).then(Bars::new);
    let writer = match &bars {
        Some(bars) => BoxMakeWriter::new(bars.above()),
        None => BoxMakeWriter::new(std::io::stderr),
    };
    let json = json.then(|| OfPipeline::new(pipeline));
    start(EnvFilter::new(&settings.level), json, writer);
    bars
}

/// Warnings and errors only, for commands whose output is the point.
pub(super) fn init_quiet() {
    let writer = BoxMakeWriter::new(std::io::stderr);
    start(EnvFilter::new("error"), None, writer);
}

fn start(filter: EnvFilter, json: Option<OfPipeline>, writer: BoxMakeWriter) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start in one process, as tests do, keeps the first.
    let _ = match json {
        Some(json) => builder
            .fmt_fields(JsonFields::new())
            .event_format(json)
            .try_init(),
        None => builder.with_target(false).try_init(),
    };
}

/// One JSON object a line, each with the field `pipeline`: the label that metrics and dashboards have.
struct OfPipeline {
    /// `"pipeline":"NAME",`
    field: String,
    json: Format<Json>,
}

impl OfPipeline {
    fn new(pipeline: &str) -> Self {
        OfPipeline {
            field: format!("\"pipeline\":{},", Value::from(pipeline)),
            json: tracing_subscriber::fmt::format().json().flatten_event(true),
        }
    }
}

impl<S, N> FormatEvent<S, N> for OfPipeline
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> tracing_subscriber::fmt::FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.json
            .format_event(context, Writer::new(&mut line), event)?;
        match line.strip_prefix('{') {
            Some(rest) if !line.contains("\"pipeline\":") => {
                write!(writer, "{{{}{rest}", self.field)
            }
            _ => writer.write_str(&line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_line_is_an_object_with_the_pipeline_once() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(JsonFields::new())
            .event_format(OfPipeline::new("shop"))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(part = "warehouse", error = "a \"quoted\" one", "retrying");
            tracing::info!(pipeline = "shop", "started");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        for line in &lines {
            let object: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
            assert_eq!(object["pipeline"], "shop");
            assert_eq!(line.matches("\"pipeline\"").count(), 1, "{line}");
        }
        assert!(
            lines[0].contains("\"message\":\"retrying\""),
            "{}",
            lines[0]
        );
        assert!(lines[0].contains("\"part\":\"warehouse\""), "{}", lines[0]);
    }
}
