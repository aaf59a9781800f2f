//! The log on stderr: JSON lines for machines, text for people, and bars among it on a terminal.
//!
//! Log lines and progress bars are events of one subscriber, each written in one piece. On a
//! terminal each begins by clearing the line that the cursor is in, and a bar ends without a line
//! break: so the next event, bar or line, takes the place of a bar, and nothing is torn.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::process::settings::LogFormat;
use crate::visible;

/// The target of events that are bars. Enabled, at level trace, only where bars can be drawn.
pub(crate) const BAR: &str = "upgrade_gate::bar";

/// The client of Kubernetes, which logs every failed call as an error: the run says what it means.
const KUBE: &str = "kube_client";

/// More bytes of one value are not logged; the report has the rest.
const LONGEST: usize = 8 * 1024;

const CLEAR_LINE: &str = "\r\x1b[K";
const WRAP_OFF: &str = "\x1b[?7l";
const WRAP_ON: &str = "\x1b[?7h";

/// Sends all events of the process to stderr, unless they already go somewhere.
///
/// Without a format it is text on a terminal, and JSON elsewhere.
pub fn init(levels: &Targets, format: Option<LogFormat>) {
    let terminal =
        io::stderr().is_terminal().then(|| terminal_style(|name| std::env::var_os(name)));
    let subscriber = subscriber(levels, style(format, terminal), io::stderr);
    // Whoever was first, a test or the application, is right to keep it.
    let _ = tracing::dispatcher::set_global_default(subscriber);
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Json,
    /// Text that no terminal need understand.
    Plain,
    /// Text and bars.
    Terminal,
    /// Text and bars, coloured.
    Colour,
}

fn style(format: Option<LogFormat>, terminal: Option<Style>) -> Style {
    match (format, terminal) {
        (Some(LogFormat::Json), _) | (None, None) => Style::Json,
        (Some(LogFormat::Text), None) => Style::Plain,
        (Some(LogFormat::Text) | None, Some(style)) => style,
    }
}

/// What the terminal can, by its `TERM`, and may, by <https://no-color.org>.
fn terminal_style(env: impl Fn(&str) -> Option<OsString>) -> Style {
    if env("TERM").is_some_and(|term| term == "dumb") {
        Style::Plain
    } else if env("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        Style::Terminal
    } else {
        Style::Colour
    }
}

fn subscriber<W>(levels: &Targets, style: Style, writer: W) -> tracing::Dispatch
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let draws = matches!(style, Style::Terminal | Style::Colour);
    let bars = if draws && levels.would_enable(BAR, &Level::INFO) {
        LevelFilter::TRACE
    } else {
        LevelFilter::OFF
    };
    let mut levels = levels.clone().with_target(BAR, bars);
    if !levels.would_enable(KUBE, &Level::DEBUG) {
        levels = levels.with_target(KUBE, LevelFilter::OFF);
    }
    let registry = tracing_subscriber::registry().with(levels);
    // A stderr that nobody reads must not end the run.
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    match style {
        Style::Json => registry.with(layer.event_format(JsonLine(json_line()))).into(),
        Style::Plain => registry.with(layer.with_ansi(false).event_format(text_line())).into(),
        Style::Terminal => {
            registry.with(layer.with_ansi(false).event_format(OnTerminal(text_line()))).into()
        }
        Style::Colour => {
            registry.with(layer.with_ansi(true).event_format(OnTerminal(text_line()))).into()
        }
    }
}

fn json_line() -> Format<Json> {
    let format = tracing_subscriber::fmt::format().json().flatten_event(true).with_target(false);
    format.with_current_span(false).with_span_list(false)
}

fn text_line() -> TextLine {
    TextLine(tracing_subscriber::fmt::format().with_timer(Clock))
}

/// Where an event comes from matters at level debug only.
fn shows_module(event: &Event<'_>) -> bool {
    *event.metadata().level() > Level::INFO
}

/// The time in UTC, to the second.
#[derive(Clone, Copy)]
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", humantime::format_rfc3339_seconds(SystemTime::now()))
    }
}

struct TextLine(Format<Full, Clock>);

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        let format = self.0.clone().with_ansi(writer.has_ansi_escapes());
        let format = format.with_target(shows_module(event));
        format.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(&visible::visible_line(&line))
    }
}

struct OnTerminal(TextLine);

impl<S, N> FormatEvent<S, N> for OnTerminal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(CLEAR_LINE)?;
        if event.metadata().target() != BAR {
            return self.0.format_event(context, writer, event);
        }
        writer.write_str(WRAP_OFF)?;
        context.format_fields(writer.by_ref(), event)?;
        writer.write_str(WRAP_ON)
    }
}

/// One object a line: the event's fields next to `timestamp`, `level` and `message`.
struct JsonLine(Format<Json>);

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let mut fields: Map<String, Value> = serde_json::from_str(&line).map_err(|_| fmt::Error)?;
        if shows_module(event) {
            // Not `target`: that is the version to reach.
            fields.insert("module".to_owned(), event.metadata().target().into());
        }
        for value in fields.values_mut() {
            if let Value::String(text) = value {
                visible::cut(text, LONGEST);
            }
        }
        writeln!(writer, "{}", visible::to_json(&fields).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::error::Error;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing::{debug, info, trace, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(levels: &str, style: Style, work: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = subscriber(&levels.parse().unwrap(), style, move || writer.clone());
        tracing::dispatcher::with_default(&subscriber, work);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// What `work` logs in a container.
    pub(crate) fn logged_as_json(work: impl FnOnce()) -> Vec<Value> {
        let log = logged("info", Style::Json, work);
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What `work` logs on a terminal without colours.
    pub(crate) fn logged_on_terminal(work: impl FnOnce()) -> String {
        logged("info", Style::Terminal, work)
    }

    #[test]
    fn a_json_line_has_its_fields_beside_the_message() {
        let error = io::Error::other("broken");
        let lines = logged_as_json(|| {
            let (eta_s, nobody) = (Some(7_u64), None::<u64>);
            info!(
                app = "datalab",
                target = %"0.8.0",
                total = 10_u64,
                rate = 1.5,
                open = true,
                eta_s,
                nobody,
                error = &error as &dyn Error,
                "a \"message\"\n"
            );
            debug!("unheard");
        });
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        let mut line = line.clone();
        let timestamp = line.as_object_mut().unwrap().shift_remove("timestamp").unwrap();
        assert!(humantime::parse_rfc3339(timestamp.as_str().unwrap()).is_ok());
        let expected = serde_json::json!({
            "level": "INFO", "message": "a \"message\"\n", "app": "datalab", "target": "0.8.0",
            "total": 10, "rate": 1.5, "open": true, "eta_s": 7, "error": "broken",
        });
        assert_eq!(line.to_string(), expected.to_string());
    }

    #[test]
    fn only_below_info_does_a_line_name_its_module() {
        let speak = || {
            info!("one");
            debug!("two");
        };
        let json = logged("debug", Style::Json, speak);
        let modules: Vec<_> = json.lines().map(|line| line.contains("\"module\"")).collect();
        assert_eq!(modules, [false, true]);
        let text = logged("debug", Style::Plain, speak);
        let modules: Vec<_> =
            text.lines().map(|line| line.contains("upgrade_gate::process::log")).collect();
        assert_eq!(modules, [false, true]);
    }

    #[test]
    fn plain_text_has_no_control_sequences() {
        let text = logged("info", Style::Plain, || warn!(total = 1, "a \x1b[31mmessage"));
        assert!(text.ends_with("Z  WARN a \\x1b[31mmessage total=1\n"), "{text}");
        assert!(!text.contains('\x1b') && !text.contains('\r'), "{text}");
        assert!(logged("info", Style::Colour, || warn!("x")).contains("\x1b[33m"));
    }

    #[test]
    fn whatever_follows_a_bar_takes_its_place() {
        let text = logged_on_terminal(|| {
            trace!(target: BAR, "[=> ]");
            info!("a line");
            trace!(target: BAR, "[==>]");
            trace!(target: BAR, "");
        });
        let lines: Vec<_> = text.split(CLEAR_LINE).collect();
        let ["", one, line, two, cleared] = lines.as_slice() else { panic!("{lines:?}") };
        let bar = |bar| format!("{WRAP_OFF}{bar}{WRAP_ON}");
        assert_eq!((*one, *two, *cleared), (&*bar("[=> ]"), &*bar("[==>]"), &*bar("")));
        assert!(line.ends_with("INFO a line\n"), "{line}");
    }

    #[test]
    fn a_bar_is_drawn_only_on_a_terminal_that_shows_progress() {
        let draw = || trace!(target: BAR, "[=>]");
        assert_eq!(logged("trace", Style::Json, draw), "");
        assert_eq!(logged("trace", Style::Plain, draw), "");
        assert_eq!(logged("warn", Style::Colour, draw), "");
        assert_eq!(logged("info,upgrade_gate=warn", Style::Terminal, draw), "");
        assert!(logged("info", Style::Terminal, draw).contains("[=>]"));
    }

    #[test]
    fn the_style_is_as_asked_or_else_as_stderr_needs_it() {
        let (text, json) = (Some(LogFormat::Text), Some(LogFormat::Json));
        let terminal = Some(Style::Colour);
        assert_eq!(style(None, None), Style::Json);
        assert_eq!(style(text, None), Style::Plain);
        assert_eq!(style(json, terminal), Style::Json);
        assert_eq!(style(None, terminal), Style::Colour);
        assert_eq!(style(text, terminal), Style::Colour);
    }

    #[test]
    fn a_terminal_is_coloured_unless_it_cannot_or_must_not_be() {
        let with = |name: &'static str, value: &'static str| {
            terminal_style(move |asked| (asked == name).then(|| value.into()))
        };
        assert_eq!(with("TERM", "xterm"), Style::Colour);
        assert_eq!(with("TERM", "dumb"), Style::Plain);
        assert_eq!(with("NO_COLOR", "1"), Style::Terminal);
        assert_eq!(with("NO_COLOR", ""), Style::Colour);
    }
}
