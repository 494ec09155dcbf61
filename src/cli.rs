//! The command line (design 4): arguments in, exit code out.

use clap::{Parser, Subcommand};
use std::io::Write as _;
use std::path::PathBuf;

use crate::app::ExitCode;
use crate::config::{self, Plan};
use crate::{app, ask, demo, kafka, logging, mysql};

/// Change-data-capture enrichment sidecar: MySQL tables in memory, Kafka streams joined against them, exactly once.
#[derive(Parser)]
#[command(name = "larder", version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, env = "LARDER_CONFIG", default_value = "larder.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the daemon.
    Run,
    /// Checks the configuration; prints every error with its place and a remedy.
    Check {
        /// Also MySQL and Kafka: servers, settings, grants, tables, topics. All failures at once.
        #[arg(long)]
        connect: bool,
        /// Prints the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows what will run: tables, streams, topics, groups; secrets are masked.
    Plan {
        #[arg(long)]
        json: bool,
    },
    /// Has the running daemon compare its tables with MySQL. Exits 0 when all rows are the same, 1 when some differ, 3 when it could not be done.
    Audit {
        /// One table by its name in the configuration; all of them without it.
        #[arg(long)]
        table: Option<String>,
        /// Prints the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Runs the pizza shop on stand-ins, everything in one process.
    Demo(demo::Options),
}

/// Runs the process; the exit code is that of promise W10.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // Nobody is left to be told when the terminal is gone.
            let _ = error.print();
            return code;
        }
    };
    // A panic anywhere is our bug (promise W10); its message has been printed by then.
    std::panic::catch_unwind(|| run(arguments)).unwrap_or(70)
}

fn run(arguments: Arguments) -> ExitCode {
    if let Command::Demo(options) = arguments.command {
        return match demo::run(&options) {
            Ok(()) => 0,
            Err(error) => complain(&format!("demo: {error:#}"), 70),
        };
    }
    let plan = match config::load(&arguments.config) {
        Ok(plan) => plan,
        Err(errors) => {
            if let Command::Check { json: true, .. } = arguments.command {
                let list: Vec<_> = errors
                    .0
                    .iter()
                    .map(|e| serde_json::json!({ "place": e.place, "key": e.key, "message": e.message, "remedy": e.remedy }))
                    .collect();
                say(&format!("{:#}", serde_json::json!({ "ok": false, "errors": list })));
            }
            return complain(&errors.to_string(), 2);
        }
    };
    match arguments.command {
        Command::Run => daemon(plan),
        Command::Plan { json: false } => say(&config::describe(&plan)),
        Command::Plan { json: true } => say(&format!("{:#}", config::describe_json(&plan))),
        Command::Check { connect, json } => check(&plan, connect, json),
        Command::Audit { table, json } => match ask::audit(&plan, table.as_deref(), json) {
            Ok(audited) => {
                say(&audited.text);
                audited.code
            }
            Err(error) => complain(&error, 3),
        },
        Command::Demo(_) => 0,
    }
}

fn daemon(plan: Plan) -> ExitCode {
    logging::install(&plan.log);
    match runtime() {
        Ok(runtime) => {
            let code = runtime.block_on(app::run(plan));
            // Blocked threads of a forced stop must not keep the process alive.
            runtime.shutdown_background();
            code
        }
        Err(error) => complain(&format!("no runtime: {error}"), 70),
    }
}

/// `check`: the configuration is right by now; with `--connect` the servers are asked, everything wrong at once.
fn check(plan: &Plan, connect: bool, json: bool) -> ExitCode {
    let mut failures = Vec::new();
    let mut warnings = Vec::new();
    if connect {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => return complain(&format!("no runtime: {error}"), 70),
        };
        if let Some(mysql) = &plan.mysql {
            let report = runtime.block_on(mysql::preconditions::check(mysql, &plan.tables));
            failures.extend(report.failures.into_iter().map(|f| (format!("mysql: {}", f.what), f.remedy)));
            warnings.extend(report.warnings);
        }
        failures.extend(kafka::topics::check(plan).into_iter().map(|(what, remedy)| (format!("kafka: {what}"), remedy)));
    }
    let code = if failures.is_empty() { 0 } else { 3 };
    if json {
        let list: Vec<_> = failures.iter().map(|(what, remedy)| serde_json::json!({ "message": what, "remedy": remedy })).collect();
        say(&format!("{:#}", serde_json::json!({ "ok": code == 0, "errors": list, "warnings": warnings })));
        return code;
    }
    for warning in warnings {
        say(&format!("warning: {warning}"));
    }
    if code != 0 {
        let blocks: Vec<_> = failures.iter().map(|(what, remedy)| format!("{what}\n    {remedy}")).collect();
        return complain(&blocks.join("\n"), code);
    }
    say(if connect { "configuration, MySQL and Kafka are as they must be" } else { "the configuration is right" })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Standard output; a reader that went away is no error of ours.
fn say(text: &str) -> ExitCode {
    let _ = writeln!(std::io::stdout(), "{text}");
    0
}

fn complain(text: &str, code: ExitCode) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{text}");
    code
}
