//! Change topics: what MySQL commits, as records in Debezium's form, exactly once (contract A5 and B).
//!
//! One process of all that share a name publishes: the one elected by the group `<name>.publish`. It has a binlog connection of its
//! own, because it stands where the topics stand (the progress in Kafka), while the tables in memory stand where this process does: each
//! can start, wait and fail without the other.
//!
//! ```text
//! election ──► producer initialised: the one before is fenced, what it left open is aborted
//!                └──► progress read ──► leader.rs: tables read (tables.rs), changes published (maker.rs ► writer.rs)
//!                        ▲                                    │ any fault
//!                        └────────────────────────────────────┘
//! ```

mod difference;
mod leader;
mod maker;
mod progress;
mod reach;
mod reading;
mod rows;
mod status;
mod tables;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use self::leader::Leader;
use self::maker::{Known, record_form};
use self::progress::{Progress, TableProgress, TableState};
pub use self::status::PublishStatus;
use self::writer::{Target, Writer};
use super::backoff::Backoff;
use crate::config::Plan;
use crate::config::plan::{MysqlPlan, OnPurge, TablePlan};
use crate::kafka::client::{Fault, RECORD_OVERHEAD, batches_within};
use crate::kafka::election::{Election, Standing};
use crate::kafka::producer::Producer;
use crate::kafka::reader;
use crate::kafka::topics::Topics;
use crate::model::{Reason, Schema, Stop, TableId};
use crate::mysql::assemble::Broken;
use crate::mysql::connect::{self, Error};
use crate::mysql::identity::{self, Verdict};
use crate::mysql::{catalogue, defaults, preconditions};
use crate::table::Tables;

/// Table maps without names that disagree with the catalogue, in a row, after which a table is stopped.
const DISAGREEMENTS: u8 = 3;

/// So many ends of the stream that name our server id, or a fenced producer, in a row are no accident.
const CLASHES: u32 = 3;

/// Fences that lie further apart have nothing to do with each other.
const FENCED_AGAIN: Duration = Duration::from_secs(60);

/// Everything the publisher needs.
pub struct Publisher {
    pub plan: Arc<Plan>,
    /// With the server id of the publisher's own connection.
    mysql: MysqlPlan,
    tables: Arc<Tables>,
    status: Arc<PublishStatus>,
    stop: Arc<AtomicBool>,
    disagreements: Mutex<BTreeMap<TableId, u8>>,
}

/// Why publishing ended, for now or for good.
#[derive(Debug)]
pub enum Ended {
    /// The daemon stops.
    Stopped,
    /// Somebody else is elected.
    Resigned,
    /// Begin again from the last commit, without a pause.
    AtOnce,
    /// Begin again from the last commit.
    Again(String),
    /// Our transactional id was initialised elsewhere.
    Fenced(String),
    /// The same server id is in use.
    Clash(String),
    /// What follows the progress is not to be had any more.
    Gone {
        reason: Reason,
        message: String,
    },
    Stop(Stop),
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Retry(text) | Fault::NewSession(text) => Ended::Again(text),
            Fault::Fenced(text) => Ended::Fenced(text),
            Fault::Denied(text) => Ended::Stop(Stop::Precondition(format!(
                "change topics: Kafka refuses: {text}; check [kafka.client] and the rights of its user (README, \"Rights\")"
            ))),
            Fault::OffsetLost => Ended::Again("records of the topic were deleted while it was read".into()),
        }
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        match error {
            Error::Lost(text) | Error::NoTable(text) | Error::Damaged(text) => Ended::Again(text),
            Error::Refused(_) => Ended::Stop(Stop::Precondition(format!("{error}; {}", preconditions::unreachable_remedy(&error)))),
            Error::Purged(message) => Ended::Gone { reason: Reason::Purged, message },
            Error::Reset(message) => Ended::Gone { reason: Reason::Reset, message },
            Error::ServerIdClash(text) => Ended::Clash(text),
        }
    }
}

/// The stream cannot be followed.
fn broken(error: &Broken) -> Ended {
    Ended::Again(error.to_string())
}

impl Publisher {
    /// `None` where no table has a change topic.
    pub fn new(plan: Arc<Plan>, tables: Arc<Tables>, status: Arc<PublishStatus>, stop: Arc<AtomicBool>) -> Option<Self> {
        let mysql = plan.mysql.clone().filter(|_| plan.tables.iter().any(|table| table.publish.is_some()))?;
        let mysql = MysqlPlan { server_id: server_id(&plan.name), ..mysql };
        Some(Self { plan, mysql, tables, status, stop, disagreements: Mutex::default() })
    }

    /// Stands for election and publishes when elected, until `stop` is raised or something ends the process.
    pub fn run(&self) -> Result<(), Stop> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Stop::Bug(format!("no runtime for the publisher: {error}")))?;
        let mut pause = Backoff::default();
        let mut clashes = 0;
        let mut fenced = 0;
        // Tables that were stopped are tried again once in the life of a process: the cause may have been corrected.
        let mut fresh = true;
        let mut again = false;
        let mut election = None;
        let mut last_fenced = Instant::now();
        while !self.is_stopping() {
            // After a fatal error a client is of no use.
            election = election.filter(|election: &Election| !election.is_over());
            let Err(ended) = self.take_part(&runtime, &mut election, &mut fresh, &mut again);
            self.status.set_elected(false);
            if self.status.take_progress() {
                (clashes, fenced) = (0, 0);
                pause = Backoff::default();
            }
            match ended {
                Ended::Stopped => return Ok(()),
                Ended::Resigned => {
                    self.status.set_standby();
                    info!("another instance publishes the changes now");
                }
                Ended::AtOnce => {}
                Ended::Again(text) => {
                    if pause.is_first() {
                        warn!("publishing changes is begun again from the last commit: {text}");
                    }
                    pause.sleep(&self.stop);
                }
                Ended::Fenced(text) => {
                    fenced = if last_fenced.elapsed() > FENCED_AGAIN { 1 } else { fenced + 1 };
                    last_fenced = Instant::now();
                    if election.as_ref().is_some_and(Election::replaced) || fenced > CLASHES {
                        return Err(Stop::Fenced(format!(
                            "{} is in use by another process ({text}); give each instance its own `instance`, or stop the other one",
                            self.member()
                        )));
                    }
                    warn!("the publisher was fenced, another instance may have been elected: {text}");
                    pause.sleep(&self.stop);
                }
                Ended::Clash(text) => {
                    clashes += 1;
                    if clashes >= CLASHES {
                        let message = format!(
                            "another client uses the server id {} of the publisher of {}: {text}",
                            self.mysql.server_id, self.plan.name
                        );
                        return Err(Stop::Operator { reason: Reason::ServerIdClash, message });
                    }
                    warn!("the server ended the publisher's binlog stream: {text}");
                    pause.sleep(&self.stop);
                }
                Ended::Gone { reason, message } if self.mysql.on_purge == OnPurge::Resnapshot => {
                    warn!(reason = reason.code(), "{message}; mysql.on_purge says to compare what was published with the tables");
                    again = true;
                }
                Ended::Gone { reason, message } => {
                    return Err(Stop::Operator {
                        reason,
                        message: format!(
                            "changes cannot be published from where they stand: {message}; restore the server's binlog, or set mysql.on_purge = \"resnapshot\": what the topics lack is published then, deletes included"
                        ),
                    });
                }
                Ended::Stop(stop) => return Err(stop),
            }
        }
        Ok(())
    }

    /// One election and what follows from it.
    fn take_part(
        &self,
        runtime: &tokio::runtime::Runtime,
        election: &mut Option<Election>,
        fresh: &mut bool,
        again: &mut bool,
    ) -> Result<Infallible, Ended> {
        let targets = self.targets()?;
        let Plan { kafka, limits, .. } = &*self.plan;
        let progress_topic = self.progress_topic();
        let election = match election {
            Some(election) => election,
            None => election.insert(Election::join(kafka, limits, &self.transactional_id(), &self.member(), &progress_topic)?),
        };
        let mut polls = 0;
        while election.poll(ELECTION)? == Standing::Standby {
            polls += 1;
            if polls == STANDBY_POLLS {
                self.status.set_standby();
            }
            if self.is_stopping() {
                return Err(Ended::Stopped);
            }
        }
        let bound = targets.iter().flatten().map(|target| target.bound).min().unwrap_or(limits.message_bytes);
        // First the producer, then the progress: nobody can add to it any more (case K06).
        let producer = Producer::open(&batches_within(kafka, bound), limits, &self.transactional_id(), &progress_topic)?;
        let mut progress = self.read_progress(&progress_topic)?;
        if std::mem::take(again) {
            progress.position = None;
            progress.part = None;
            progress.tables.values_mut().for_each(|table| table.state = TableState::Compare);
        }
        let mut writer = Writer::new(producer, targets, progress_topic);
        let emptied = self.empty_topics()?;
        self.adopt(&mut progress, &mut writer, &emptied, std::mem::take(fresh));
        self.status.set_elected(true);
        let (fold_case, known) = runtime.block_on(async {
            tokio::select! {
                known = self.known(&mut progress, &mut writer) => known,
                () = self.stopped() => Err(Ended::Stopped),
            }
        })?;
        info!(
            position = progress.position.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
            "elected to publish the changes of {}", self.plan.name
        );
        let mut leader = Leader::new(self, election, writer, progress, fold_case, known);
        let ended = runtime.block_on(async {
            tokio::select! {
                ended = leader.run() => ended,
                () = self.stopped() => Err(Ended::Stopped),
            }
        });
        leader.writer.abort();
        ended
    }

    /// Creates what is missing (contract E17), and says how large records may be.
    fn targets(&self) -> Result<Vec<Option<Arc<Target>>>, Ended> {
        let Plan { kafka, limits, .. } = &*self.plan;
        let topics = Topics::new(kafka, limits)?;
        let room = (limits.message_bytes + RECORD_OVERHEAD).to_string();
        let progress = self.progress_topic();
        if topics.find(&progress)?.is_none() {
            // Written with every commit: small segments keep it quick to read.
            topics.create(
                &progress,
                1,
                &[("cleanup.policy", "compact"), ("segment.bytes", "16777216"), ("min.cleanable.dirty.ratio", "0.1")],
            )?;
        }
        let target = |plan: &TablePlan| -> Result<Option<Arc<Target>>, Ended> {
            let Some(publish) = &plan.publish else { return Ok(None) };
            let partitions = match topics.find(&publish.topic)? {
                Some(topic) => topic.partitions,
                None => {
                    // What was published once is not published again: a topic that forgets would lose rows. A compacted one takes no
                    // truncate, which has no key.
                    topics.create(&publish.topic, publish.partitions, &[("retention.ms", "-1"), ("max.message.bytes", &room)])?;
                    publish.partitions
                }
            };
            let bound =
                topics.max_message_bytes(&publish.topic).unwrap_or(limits.message_bytes).min(limits.message_bytes + RECORD_OVERHEAD);
            let compacted = topics.setting(&publish.topic, "cleanup.policy").is_some_and(|policy| policy.contains("compact"));
            Ok(Some(Arc::new(Target { topic: publish.topic.clone(), partitions, bound, tombstones: publish.tombstones, compacted })))
        };
        self.plan.tables.iter().map(target).collect()
    }

    /// Change topics without any record: what was in them, if anything, went with a topic that somebody deleted.
    fn empty_topics(&self) -> Result<BTreeSet<String>, Ended> {
        let topics = Topics::new(&self.plan.kafka, &self.plan.limits)?;
        let mut empty = BTreeSet::new();
        for publish in self.plan.tables.iter().filter_map(|table| table.publish.as_ref()) {
            let unknown = || Ended::Again(format!("topic {} is not known to the brokers", publish.topic));
            let partitions = topics.find(&publish.topic)?.map(|topic| topic.partitions).filter(|&partitions| partitions > 0);
            let partitions = partitions.ok_or_else(unknown)?;
            let ends =
                (0..partitions).map(|partition| Ok(topics.watermarks(&publish.topic, partition)?.1)).collect::<Result<Vec<_>, Fault>>()?;
            if ends.iter().all(|&end| end == 0) && !self.has_records(&publish.topic)? {
                empty.insert(publish.topic.clone());
            }
        }
        Ok(empty)
    }

    /// Looks for itself: what follows from an empty topic must not follow from an answer of brokers that are just starting.
    fn has_records(&self, topic: &str) -> Result<bool, Ended> {
        let mut found = false;
        let read = reader::read_all(&self.plan.kafka, &self.plan.limits, topic, |_| {
            found = true;
            Err(Fault::Retry("one is enough".into()))
        });
        if found { Ok(true) } else { read.map(|()| false).map_err(Ended::from) }
    }

    fn read_progress(&self, topic: &str) -> Result<Progress, Ended> {
        use rdkafka::message::Message as _;
        let mut progress = Progress::default();
        let mut bad = None;
        reader::read_all(&self.plan.kafka, &self.plan.limits, topic, |message| {
            let key = String::from_utf8_lossy(message.key().unwrap_or_default());
            if let Err(error) = progress.take(&key, message.payload()) {
                bad = Some(error);
            }
            Ok(())
        })?;
        match bad {
            Some(error) => Err(Ended::Stop(Stop::Precondition(format!("progress topic {topic}: {error}")))),
            None => Ok(progress),
        }
    }

    /// Brings the progress and the configuration together: new tables are to be read, those gone are forgotten.
    fn adopt(&self, progress: &mut Progress, writer: &mut Writer, emptied: &BTreeSet<String>, fresh: bool) {
        for plan in &self.plan.tables {
            let Some(publish) = &plan.publish else { continue };
            let mysql = format!("{}.{}", plan.database, plan.table);
            let state = match progress.tables.get(&plan.name) {
                Some(known) if known.is_out() && emptied.contains(&publish.topic) => {
                    warn!(
                        table = plan.name,
                        topic = publish.topic,
                        "topic {} is empty, so all rows of table {} are published",
                        publish.topic,
                        plan.name
                    );
                    Some(TableState::New)
                }
                // Another table into the same topic: what is in it must go.
                Some(known) if known.topic == publish.topic && known.mysql != mysql => Some(TableState::Compare),
                Some(known) if known.topic != publish.topic => Some(TableState::New),
                Some(TableProgress { state: TableState::Stopped { .. }, .. }) if fresh => Some(TableState::Compare),
                // Nothing is followed that could tell when it is there again.
                Some(TableProgress { state: TableState::Stopped { reason, .. }, .. })
                    if *reason == Reason::TableDropped.code() && progress.position.is_none() =>
                {
                    Some(TableState::Compare)
                }
                Some(TableProgress { state: TableState::Stopped { reason, message }, .. }) => {
                    if let Some(table) = self.published().find(|table| self.plan.tables[table.index()].name == plan.name) {
                        let reason = Reason::from_code(reason).unwrap_or(Reason::BadValue);
                        self.tables.stop_publishing(table, reason, message);
                    }
                    None
                }
                Some(_) => None,
                None => Some(TableState::New),
            };
            if let Some(state) = state {
                progress.tables.insert(plan.name.clone(), TableProgress { mysql, topic: publish.topic.clone(), key: Vec::new(), state });
                writer.touch(&plan.name);
            }
        }
        let published = |name: &String| self.plan.tables.iter().any(|plan| plan.name == *name && plan.publish.is_some());
        let gone: Vec<String> = progress.tables.keys().filter(|name| !published(name)).cloned().collect();
        for name in gone {
            progress.tables.remove(&name);
            writer.touch(&name);
        }
    }

    /// Whether the server can go on at the progress, and what it says of the tables. One with another key than what is published of it
    /// is to be compared.
    async fn known(&self, progress: &mut Progress, writer: &mut Writer) -> Result<(bool, Vec<(Schema, Known)>), Ended> {
        if let Some(ours) = &mut progress.position {
            match identity::ask(&self.mysql, ours).await?.verdict {
                Verdict::Same => {}
                Verdict::Moved(server_uuid) => {
                    info!("the server is now {server_uuid}, it has all transactions that were published");
                    ours.server_uuid = server_uuid;
                }
                Verdict::Anew(why) => return Err(Ended::Gone { reason: Reason::Reset, message: why.into() }),
                Verdict::Lacking { reason, message } => return Err(Ended::Gone { reason, message }),
            }
        }
        let mut connection = connect::connect(&self.mysql).await?;
        let (_, server) = preconditions::inspect(&mut connection, &self.mysql, &self.plan.tables).await?;
        let mut known = Vec::with_capacity(self.plan.tables.len());
        for plan in &self.plan.tables {
            let unknown = || (Schema { columns: Vec::new(), key: Vec::new() }, Known::default());
            if plan.publish.is_none() {
                known.push(unknown());
                continue;
            }
            known.push(match catalogue::table(&mut connection, plan).await? {
                Ok(info) => {
                    let details = defaults::details(&mut connection, plan, &info.schema).await?;
                    adopt_key(plan, &info.schema, progress, writer);
                    let form = record_form(&info.schema, plan, &details, &self.plan.name).ok();
                    (info.schema, Known { details, form, locate: None })
                }
                // Its changes say themselves what their columns are; what is amiss shows when the table is read or dropped.
                Err(_) => unknown(),
            });
        }
        let _ = connection.disconnect().await;
        Ok((server.fold_case, known))
    }

    /// Whether the catalogue still shows these columns; asked where the binlog does not name them.
    async fn has_columns_of(&self, table: TableId, schema: &Schema) -> Result<bool, Ended> {
        let mut connection = connect::connect(&self.mysql).await?;
        let described = catalogue::table(&mut connection, &self.plan.tables[table.index()]).await?;
        let _ = connection.disconnect().await;
        Ok(described.is_ok_and(|info| info.schema == *schema))
    }

    /// Counts table maps that did not agree with the catalogue; the table for which it is enough.
    fn disagreed(&self, tables: &[TableId]) -> Result<(), TableId> {
        let mut disagreements = self.disagreements.lock();
        for &table in tables {
            let count = disagreements.entry(table).or_insert(0);
            *count += 1;
            if *count > DISAGREEMENTS {
                return Err(table);
            }
        }
        Ok(())
    }

    fn published(&self) -> impl Iterator<Item = TableId> + use<'_> {
        let tables = self.plan.tables.iter().enumerate().filter(|(_, plan)| plan.publish.is_some());
        tables.filter_map(|(index, _)| u16::try_from(index).ok().map(TableId))
    }

    /// Returns some time after the daemon was told to stop: whoever is writing has committed by then, whoever waits for MySQL need not.
    async fn stopped(&self) {
        while !self.is_stopping() {
            tokio::time::sleep(ELECTION).await;
        }
        tokio::time::sleep(GRACE).await;
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The group's name too (contract E1).
    fn transactional_id(&self) -> String {
        format!("{}.publish", self.plan.name)
    }

    fn member(&self) -> String {
        format!("{}.publish.{}", self.plan.name, self.plan.instance)
    }

    fn progress_topic(&self) -> String {
        format!("larder.{}.progress", self.plan.name)
    }
}

fn adopt_key(plan: &TablePlan, schema: &Schema, progress: &mut Progress, writer: &mut Writer) {
    let Some(table) = progress.tables.get_mut(&plan.name) else { return };
    let key = plan.key.clone().unwrap_or_else(|| schema.key.iter().map(|&index| schema.columns[index].name.clone()).collect());
    if table.key == key {
        return;
    }
    if !table.key.is_empty() && !matches!(table.state, TableState::New | TableState::Stopped { .. }) {
        warn!(table = plan.name, "the key of table {} changed: what was published of it is compared with it", plan.name);
        table.state = TableState::Compare;
    }
    table.key = key;
    writer.touch(&plan.name);
}

/// So many turns without being elected say that another one is.
const STANDBY_POLLS: u32 = 150;

/// What a stop leaves to whoever is writing.
const GRACE: Duration = Duration::from_millis(500);

/// How long one turn at the election may take.
const ELECTION: Duration = Duration::from_millis(100);

/// The same for all instances of a name: the server then ends the connection of a publisher that was taken for dead.
fn server_id(name: &str) -> u32 {
    let hash = Sha256::digest(format!("{name}\0publish"));
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) | 1 << 31
}
