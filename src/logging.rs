//! Log lines on stderr, as JSON or as text.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::plan::{LogFormat, LogPlan};

/// Installs the log of the process; called once. A filter that cannot be read falls back to `info` and says so.
pub fn install(plan: &LogPlan) {
    let (filter, wrong) = match EnvFilter::try_new(&plan.level) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_timer(SystemTime).with_target(false);
    match plan.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
        LogFormat::Text => lines.with_ansi(false).init(),
    }
    if let Some(error) = wrong {
        tracing::warn!("log.level \"{}\" cannot be read, \"info\" is used: {error}", plan.level);
    }
}
