//! Prometheus's text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>): all series of a metric stand together.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::rc::Rc;

use super::names::{ALL, Kind, Metric};
use crate::model::Lsn;
use crate::status::Histogram;

/// Series as they are found, by metric.
#[derive(Default)]
pub(super) struct Page {
    series: HashMap<&'static str, String>,
    /// Upper bounds of histograms as they are written, by where the bounds are.
    bounds: HashMap<*const f64, Rc<[String]>>,
}

impl Page {
    /// The text, metrics in their order; those without a series are absent.
    pub(super) fn text(&self) -> String {
        let series: usize = self.series.values().map(String::len).sum();
        let mut text = String::with_capacity(series + ALL.len() * 256);
        for metric in ALL {
            let Some(series) = self.series.get(metric.name) else {
                continue;
            };
            let Metric { name, help, .. } = metric;
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            line(
                &mut text,
                format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
            );
            text.push_str(series);
        }
        text
    }

    fn of(&mut self, metric: &Metric) -> &mut String {
        self.series.entry(metric.name).or_default()
    }

    fn bounds(&mut self, of: &'static [f64]) -> Rc<[String]> {
        let written = self.bounds.entry(of.as_ptr()).or_insert_with(|| {
            let bounds = of.iter().map(f64::to_string);
            bounds.chain(["+Inf".to_owned()]).collect()
        });
        Rc::clone(written)
    }
}

fn line(text: &mut String, of: std::fmt::Arguments<'_>) {
    let _infallible = text.write_fmt(of);
}

/// `a="1",b="2"`.
fn labels(metric: &Metric, values: &[&str]) -> String {
    assert_eq!(
        metric.labels.len(),
        values.len(),
        "labels of {}",
        metric.name
    );
    let mut text = String::with_capacity(64);
    for (name, value) in metric.labels.iter().zip(values) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text
}

fn braced(labels: &str) -> String {
    if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    }
}

impl Metric {
    /// The value of one series.
    pub(super) fn set(&self, page: &mut Page, of: &[&str], value: f64) {
        let whole = value as i64;
        if whole as f64 == value {
            self.write(page, of, format_args!("{whole}"));
        } else {
            self.write(page, of, format_args!("{value}"));
        }
    }

    fn write(&self, page: &mut Page, of: &[&str], value: std::fmt::Arguments<'_>) {
        let (name, labels) = (self.name, braced(&labels(self, of)));
        line(page.of(self), format_args!("{name}{labels} {value}\n"));
    }

    /// The same where the value is known.
    pub(super) fn set_known(&self, page: &mut Page, of: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.set(page, of, value);
        }
    }

    /// A position, in bytes.
    pub(super) fn set_lsn(&self, page: &mut Page, of: &[&str], lsn: Option<Lsn>) {
        self.set_known(page, of, lsn.map(|lsn| lsn.0 as f64));
    }

    /// The value of a counter.
    pub(super) fn count(&self, page: &mut Page, of: &[&str], value: u64) {
        self.write(page, of, format_args!("{value}"));
    }

    /// A distribution.
    pub(super) fn buckets(&self, page: &mut Page, of: &[&str], histogram: &Histogram) {
        let (name, labels) = (self.name, labels(self, of));
        let comma = if labels.is_empty() { "" } else { "," };
        let bounds = page.bounds(histogram.bounds());
        let text = page.of(self);
        for (le, (_, count)) in bounds.iter().zip(histogram.cumulative()) {
            line(
                text,
                format_args!("{name}_bucket{{{labels}{comma}le=\"{le}\"}} {count}\n"),
            );
        }
        let (labels, sum, count) = (braced(&labels), histogram.sum(), histogram.count());
        line(
            text,
            format_args!("{name}_sum{labels} {sum}\n{name}_count{labels} {count}\n"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::{BUILD_INFO, SOURCE_COPIED_ROWS};
    use super::*;

    #[test]
    fn values_of_labels_are_escaped() {
        let mut page = Page::default();
        let table = "public.a\"b\\c\nd";
        SOURCE_COPIED_ROWS.set(&mut page, &["shop", "leader", table], 1.0);
        BUILD_INFO.set(&mut page, &["1"], 1.0);
        let text = page.text();
        let series = r#"{pipeline="shop",source="leader",table="public.a\"b\\c\nd"} 1"#;
        assert!(text.contains(series), "{text}");
        assert_eq!(text.matches("# TYPE").count(), 2, "{text}");
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn helps_need_no_escapes() {
        for metric in ALL {
            assert!(!metric.help.contains(['\\', '\n']), "{}", metric.name);
        }
    }
}
