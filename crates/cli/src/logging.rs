//! The services' log: on standard error, as text for people or as JSON for machines.

use crate::{failure::Failure, terminal};
use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{dynamic_filter_fn, filter_fn},
    fmt,
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};

/// The variable that selects which lines are logged.
const FILTER: &str = "REVEILLE_LOG";
/// The variable that selects their format.
const FORMAT: &str = "REVEILLE_LOG_FORMAT";
/// Our own crates at `info`, libraries only when something is wrong. The client of NATS calls it an error that a server isn't ready to
/// admit a connection, which happens after each restart of a hub, and the connection's own line says so.
const DEFAULT_FILTER: &str = "warn,reveille=info,async_nats::connector=off";

/// Logs whole messages, and passwords in addresses, at the finer levels.
const INDISCREET: &str = "async_nats";

/// Whether only warnings are logged, since a person waits for the banner.
static CALM: AtomicBool = AtomicBool::new(false);

/// Starts logging for `up`. In a terminal it says nothing but warnings until [`all`], unless the filter is chosen.
pub fn start_calmly() -> Result<(), Failure> {
    CALM.store(
        io::stderr().is_terminal() && read(FILTER).is_none(),
        Ordering::Relaxed,
    );
    start()
}

/// Whether only warnings are logged now.
pub fn is_calm() -> bool {
    CALM.load(Ordering::Relaxed)
}

/// Logs everything from now on that the filter lets through.
pub fn all() {
    CALM.store(false, Ordering::Relaxed);
}

/// Starts logging. Only services log; the other commands just print their result.
pub fn start() -> Result<(), Failure> {
    let filter = read(FILTER).unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    let filter = EnvFilter::try_new(&filter)
        .map_err(|error| Failure::Config(format!("{FILTER} is not a log filter: {error}")))?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A failed write is reported on standard error too, which panics there once its reader is gone.
    let lines = fmt::layer().log_internal_errors(false);
    let lines = match read(FORMAT).as_deref() {
        None | Some("text") => lines
            .with_writer(move || Escaping { colours })
            .with_ansi(colours)
            .with_target(false)
            .boxed(),
        Some("json") => lines
            .with_writer(|| Escaping { colours: false })
            .json()
            .flatten_event(true)
            .boxed(),
        Some(other) => {
            return Err(Failure::Config(format!(
                "{FORMAT} is `{other}`, but must be text or json"
            )));
        }
    };
    registry()
        .with(filter)
        .with(filter_fn(is_discreet))
        .with(dynamic_filter_fn(|line, _| {
            !is_calm() || *line.level() <= Level::WARN
        }))
        .with(lines)
        .init();
    Ok(())
}

/// Prints a line for whoever watches the terminal. A service goes on when the reader of its output is gone.
pub fn notice(line: impl Display) {
    let line = format!("{line}\n");
    let _ = io::stderr().write_all(terminal::lines(&line).as_bytes());
}

/// Shows a line that replaces the last one, as far as it is as long.
pub fn replace_line(line: &str) {
    let mut shown = io::stderr();
    let _ = write!(shown, "\r{}", terminal::word(line));
    let _ = shown.flush();
}

/// Standard error, for lines with names in them.
struct Escaping {
    /// Whether the lines have colours. Then the formatter escapes what would change them.
    colours: bool,
}

impl Write for Escaping {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The formatter writes whole lines.
        let text = String::from_utf8_lossy(bytes);
        let text = match self.colours {
            true => terminal::coloured(&text),
            false => terminal::lines(&text),
        };
        io::stderr().write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Whether a line may be logged at all.
fn is_discreet(line: &Metadata<'_>) -> bool {
    !line.target().starts_with(INDISCREET) || *line.level() <= Level::INFO
}

fn read(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}
