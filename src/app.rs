//! The daemon put together: every part is made here, watched here and stopped here.
//!
//! Start: bind HTTP (a taken port ends the start at once), then capture, then the streams; their order is free, because a
//! stream holds by itself until its tables are ready. Stop, within `limits.shutdown`: the streams commit what is open and
//! leave their groups, then capture and audit end, then the local store writes its last checkpoint, then HTTP ends, so that `/ready`
//! answers to the last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::config::Plan;
use crate::flow::audit::{Auditor, Audits};
use crate::flow::capture;
use crate::flow::enrich::Stream;
use crate::flow::lag;
use crate::flow::publish::{PublishStatus, Publisher};
use crate::flow::status::{Overview, StreamStatus};
use crate::flow::warm;
use crate::http;
use crate::model::{Stop, TableId};
use crate::mysql::{SourceStatus, read_through};
use crate::table::Tables;
use crate::table::store::Store;

/// How the daemon ended: the exit code of the process.
pub type ExitCode = u8;

/// Runs the daemon until a signal or a part that cannot go on ends it.
pub async fn run(plan: Plan) -> ExitCode {
    let deadline = plan.limits.shutdown;
    match Daemon::start(plan).await {
        Ok(daemon) => daemon.watch(deadline).await,
        Err(stop) => report(&stop),
    }
}

/// A part of the daemon that runs by itself; its early end is news.
struct Ended {
    part: String,
    result: Result<(), Stop>,
}

struct Daemon {
    ended: mpsc::Receiver<Ended>,
    /// Parts that have not ended.
    parts: Vec<String>,
    stop_streams: Arc<AtomicBool>,
    stop_capture: watch::Sender<bool>,
    stop_http: watch::Sender<bool>,
    store: Option<Arc<Store>>,
}

impl Daemon {
    async fn start(plan: Plan) -> Result<Self, Stop> {
        let plan = Arc::new(plan);
        let server = http::bind(&plan.http).await?;
        info!(name = plan.name, version = env!("CARGO_PKG_VERSION"), "larder {} starts as {}", env!("CARGO_PKG_VERSION"), plan.name);

        let store = open_store(&plan)?;
        let mut tables = Tables::new(plan.tables.iter().map(|t| (t.name.clone(), format!("{}.{}", t.database, t.table))));
        for (table, max_bytes) in plan.bounded_tables() {
            tables = tables.bound(table, max_bytes);
        }
        let tables = Arc::new(tables);
        for (index, history) in plan.tables.iter().enumerate().filter_map(|(index, table)| Some((index, table.history.as_ref()?))) {
            let table = TableId(u16::try_from(index).expect("a plan has fewer than 65,536 tables"));
            tables.keep_history(table, u64::try_from(history.keep.as_micros()).unwrap_or(u64::MAX), history.max_bytes);
        }
        let source = plan.mysql.is_some().then(|| Arc::new(SourceStatus::default()));
        let table_name = |id: TableId| plan.tables[id.index()].name.clone();
        let streams: Vec<_> = plan.streams.iter().map(|s| Arc::new(StreamStatus::new(s, table_name))).collect();
        let published = Arc::new(PublishStatus::new(plan.tables.len()));
        let audits = Arc::new(Audits::new(plan.tables.iter().map(|t| t.name.clone())));
        let overview = Arc::new(Overview {
            plan: Arc::clone(&plan),
            tables: Arc::clone(&tables),
            source: source.clone(),
            streams: streams.clone(),
            publisher: plan.tables.iter().any(|table| table.publish.is_some()).then(|| Arc::clone(&published)),
            audits: Arc::clone(&audits),
            store: store.clone(),
            started: Instant::now(),
        });

        let (sender, ended) = mpsc::channel(16);
        let (stop_http, _) = watch::channel(false);
        let (stop_capture, _) = watch::channel(false);
        let stop_streams = Arc::new(AtomicBool::new(false));
        let mut daemon = Self { ended, parts: Vec::new(), stop_streams, stop_capture, stop_http, store: store.clone() };

        if let Some(server) = server {
            let running = server.run(Arc::clone(&overview), daemon.stop_http.subscribe());
            daemon.spawn("http", &sender, running);
        }
        let rows_of = source.clone();
        if let Some(store) = store.clone() {
            let tables = Arc::clone(&tables);
            daemon.spawn_thread("store", &sender, move || {
                store.run(&tables);
                Ok(())
            })?;
        }
        if let Some(source) = source {
            let auditor = Auditor { plan: Arc::clone(&plan), tables: Arc::clone(&tables), source: Arc::clone(&source), audits };
            let stop = daemon.stop_capture.subscribe();
            daemon.spawn_thread("audit", &sender, move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|e| Stop::Bug(format!("no runtime for the audit: {e}")))?;
                runtime.block_on(auditor.run(stop))
            })?;
            let (plan, tables, stop) = (Arc::clone(&plan), Arc::clone(&tables), daemon.stop_capture.subscribe());
            // Decoding is work for a processor: on a thread of its own it delays no answer over HTTP.
            daemon.spawn_thread("capture", &sender, move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|e| Stop::Bug(format!("no runtime for the capture: {e}")))?;
                runtime.block_on(capture::run_from(store, plan, tables, source, stop))
            })?;
        }
        if let Some(publisher) = Publisher::new(Arc::clone(&plan), Arc::clone(&tables), published, Arc::clone(&daemon.stop_streams)) {
            daemon.spawn_thread("publisher", &sender, move || publisher.run())?;
        }
        if let Some(source) = rows_of
            && plan.bounded_tables().next().is_some()
        {
            let running = read_through::run(Arc::clone(&plan), Arc::clone(&tables), source, daemon.stop_capture.subscribe());
            daemon.spawn("read-through", &sender, running);
        }
        for (stream, status) in plan.streams.iter().zip(streams) {
            let stream = Stream {
                name: plan.name.clone(),
                instance: plan.instance.clone(),
                plan: Arc::new(stream.clone()),
                kafka: plan.kafka.clone(),
                limits: plan.limits.clone(),
                tables: Arc::clone(&tables),
                status,
                stop: Arc::clone(&daemon.stop_streams),
            };
            let part = format!("stream {}", stream.plan.name);
            daemon.spawn_thread(&part, &sender, move || stream.run())?;
        }
        if !plan.streams.is_empty() {
            let stop = Arc::clone(&daemon.stop_streams);
            daemon.spawn_thread("lag", &sender, move || lag::watch(&overview, &stop))?;
        }
        Ok(daemon)
    }

    fn spawn(&mut self, part: &str, sender: &mpsc::Sender<Ended>, running: impl Future<Output = Result<(), Stop>> + Send + 'static) {
        self.parts.push(part.to_string());
        let (part, sender) = (part.to_string(), sender.clone());
        let task = tokio::spawn(running);
        tokio::spawn(async move {
            let result = task.await.unwrap_or_else(|e| Err(Stop::Bug(format!("{part} panicked: {e}"))));
            // The receiver is gone only when the process ends anyway.
            let _ = sender.send(Ended { part, result }).await;
        });
    }

    fn spawn_thread(
        &mut self,
        part: &str,
        sender: &mpsc::Sender<Ended>,
        running: impl FnOnce() -> Result<(), Stop> + Send + 'static,
    ) -> Result<(), Stop> {
        self.parts.push(part.to_string());
        let (part, sender) = (part.to_string(), sender.clone());
        let name = part.clone();
        let spawned = std::thread::Builder::new().name(name).spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(running));
            let result = result.unwrap_or_else(|_| Err(Stop::Bug(format!("{part} panicked"))));
            let _ = sender.blocking_send(Ended { part, result });
        });
        spawned.map(drop).map_err(|e| Stop::Bug(format!("no thread could be started: {e}")))
    }

    /// Waits for a signal or for a part that ends by itself, then stops everything in order. The last line says why.
    async fn watch(mut self, deadline: Duration) -> ExitCode {
        let mut signals = Signals::new();
        let cause = tokio::select! {
            signal = signals.next() => {
                info!("{signal} received, stopping within {} s", deadline.as_secs());
                None
            }
            ended = self.ended.recv() => self.early_end(ended),
        };
        tokio::select! {
            stopped = tokio::time::timeout(deadline, self.stop(deadline)) => match (cause, stopped) {
                (Some(cause), _) => report(&cause),
                (None, Ok(None)) => {
                    info!("stopped");
                    0
                }
                (None, Ok(Some(cause))) => report(&cause),
                (None, Err(_)) => {
                    let seconds = deadline.as_secs();
                    error!("not everything stopped within {seconds} s; what was not committed is done again at the next start");
                    70
                }
            },
            signal = signals.next() => {
                warn!("{signal} received again, stopping at once");
                cause.map_or_else(|| signals.code_of(signal), |cause| report(&cause))
            }
        }
    }

    /// A part that ended by itself takes the daemon with it.
    fn early_end(&mut self, ended: Option<Ended>) -> Option<Stop> {
        let Ended { part, result } = ended?;
        self.parts.retain(|p| *p != part);
        warn!("{part} has ended, stopping the other parts");
        Some(result.err().unwrap_or_else(|| Stop::Bug(format!("{part} ended although nobody asked it to"))))
    }

    /// Streams, capture, store, HTTP, each awaited before the next. Returns the first thing that went wrong on the way.
    async fn stop(&mut self, within: Duration) -> Option<Stop> {
        self.stop_streams.store(true, Ordering::Release);
        let streams = self.wait_until_ended(|part| !["capture", "audit", "read-through", "store", "http"].contains(&part)).await;
        // Who watches these may have ended already.
        let _ = self.stop_capture.send(true);
        let capture = self.wait_until_ended(|part| !matches!(part, "store" | "http")).await;
        if let Some(store) = &self.store {
            // What takes longer would end the process as one that hangs.
            store.stop(within / 2);
        }
        let store = self.wait_until_ended(|part| part != "http").await;
        let _ = self.stop_http.send(true);
        let http = self.wait_until_ended(|_| true).await;
        streams.or(capture).or(store).or(http)
    }

    async fn wait_until_ended(&mut self, these: impl Fn(&str) -> bool) -> Option<Stop> {
        let mut first = None;
        while self.parts.iter().any(|part| these(part)) {
            let Some(ended) = self.ended.recv().await else { break };
            self.parts.retain(|part| *part != ended.part);
            first = first.or(ended.result.err());
        }
        first
    }
}

/// The local store, where the configuration has one. Someone must see to a path that leads nowhere, or to another process that uses it.
fn open_store(plan: &Plan) -> Result<Option<Arc<Store>>, Stop> {
    let Some(path) = plan.state.path.clone() else { return Ok(None) };
    let tables = plan.tables.iter().map(|table| (table.name.clone(), warm::identity(table))).collect();
    Store::open(path, tables).map(|store| Some(Arc::new(store))).map_err(|error| Stop::Precondition(error.to_string()))
}

/// The last line of the process says why it ends.
fn report(stop: &Stop) -> ExitCode {
    error!(exit_code = stop.exit_code(), "{stop}");
    stop.exit_code()
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let terminate = signal(SignalKind::terminate()).expect("SIGTERM can be watched");
        let interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be watched");
        Self { terminate, interrupt }
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Contract G5: 128 and the number of the signal.
    fn code_of(&self, signal: &str) -> ExitCode {
        if signal == "SIGTERM" { 143 } else { 130 }
    }
}
