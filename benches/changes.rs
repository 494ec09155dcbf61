//! A million rows of about 320 bytes, then as many updates of them: into tables in memory and into a change topic, each beside a lower
//! bound in the same run (the same events read and thrown away; the same records produced from memory), and beside Debezium.
//!
//! CPU seconds are this process's own, librdkafka's threads included, servers not; Debezium's are those of its process, its start
//! included for the snapshot and not for the updates. `LARDER_BENCH_ROWS`: 1000000 unless set. `LARDER_BENCH_DEBEZIUM`: the folder of
//! its jars (`scripts/debezium` fetches them), without which it is left out.

#![expect(clippy::print_stdout, reason = "the report is what a bench is for")]

#[path = "../tests/it/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the bench needs the servers alone")]
mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::config::{self, Plan};
use larder::flow::publish::{PublishStatus, Publisher};
use larder::kafka::producer::{Outgoing, Producer};
use larder::kafka::topics::Topics;
use larder::model::{Position, TableId};
use larder::mysql::assemble::{Assembler, Step};
use larder::mysql::binlog::Binlog;
use larder::mysql::rows::JsonMaker;
use larder::mysql::{catalogue, connect};
use larder::table::Tables;
use rdkafka::consumer::Consumer as _;
use rdkafka::message::{Message as _, OwnedHeaders};
use support::{Kafka, Message, Mysql, block_on, unique};

const TABLE: TableId = TableId(0);
/// Rows of one transaction.
const TOGETHER: usize = 1000;
/// Records kept to be produced again and again.
const SAMPLE: usize = 20_000;

fn main() {
    let rows: usize = std::env::var("LARDER_BENCH_ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let mysql = Mysql::start(&["--innodb-buffer-pool-size=1G", "--max-binlog-size=1G", "--max-allowed-packet=64M"]);
    let kafka = Kafka::start();
    let bench = Bench { mysql: &mysql, kafka: &kafka, database: mysql.database("bench"), rows };
    bench.fill();

    let debezium = std::env::var("LARDER_BENCH_DEBEZIUM").ok().map(|jars| Debezium::start(&bench, &jars));
    let theirs = debezium.as_ref().map(|debezium| debezium.until(&bench, rows, (debezium.began, 0.0)));
    let plan = bench.plan("snapshot");
    let ours = bench.publish(&plan, rows);
    report("rows → topic", rows, ours);
    compare(rows, ours, theirs);

    let (from, begun) = (bench.position(), debezium.as_ref().map(|debezium| (Instant::now(), debezium.cpu())));
    bench.update();
    let until = bench.position();
    let theirs = debezium.as_ref().zip(begun).map(|(debezium, begun)| debezium.until(&bench, 2 * rows, begun));
    drop(debezium);
    for round in 0..3 {
        println!("round {}", round + 1);
        report("binlog, thrown away", rows, bench.read(&from, &until));
        report("binlog → tables", rows, bench.tables(&from, &until));
        let plan = bench.plan(&format!("updates{round}"));
        bench.follow_from(&plan, &from);
        let ours = bench.publish(&plan, rows);
        report("binlog → topic", rows, ours);
        report("topic alone", rows, bench.produce(&plan));
        compare(rows, ours, theirs);
    }
}

#[derive(Debug, Clone, Copy)]
struct Run {
    wall: f64,
    cpu: f64,
}

fn measure(work: impl FnOnce()) -> Run {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    work();
    Run { wall: began.elapsed().as_secs_f64(), cpu: cpu_seconds() - cpu }
}

fn report(what: &str, rows: usize, run: Run) {
    let (wall, cpu) = (rows as f64 / run.wall, rows as f64 / run.cpu);
    println!("{what:24} {:7.2} s wall {:7.2} s CPU {wall:10.0} rows/s {cpu:10.0} rows per CPU second", run.wall, run.cpu);
}

fn compare(rows: usize, ours: Run, theirs: Option<Run>) {
    let Some(theirs) = theirs else { return };
    report("  Debezium", rows, theirs);
    println!("  {:.1} × Debezium's rows per CPU second", theirs.cpu / ours.cpu);
}

struct Bench<'a> {
    mysql: &'a Mysql,
    kafka: &'a Kafka,
    database: String,
    rows: usize,
}

impl Bench<'_> {
    fn fill(&self) {
        let Self { database, rows, .. } = self;
        self.mysql.exec(&format!("create table {database}.items (id int primary key, name varchar(100) not null, text varchar(300) not null, price decimal(10,2) not null, count int not null, at datetime(3) not null)"));
        for from in (0..*rows).step_by(50_000) {
            let to = (from + 50_000).min(*rows);
            self.mysql.exec(&format!("set session cte_max_recursion_depth = 1000000; insert into {database}.items with recursive s as (select {from} + 1 as x union all select x + 1 from s where x < {to}) select x, concat('item number ', x), repeat('text ', 46), x / 100, 0, now(3) from s"));
        }
    }

    fn update(&self) {
        let mut session = self.mysql.session();
        for from in (0..self.rows).step_by(TOGETHER) {
            session.exec(&format!(
                "update {}.items set count = count + 1, at = now(3) where id > {from} and id <= {}",
                self.database,
                from + TOGETHER
            ));
        }
    }

    fn plan(&self, name: &str) -> Arc<Plan> {
        let Self { database, .. } = self;
        let text = format!(
            "name = \"{}\"\n{}{}[tables.items]\nmysql = \"{database}.items\"\npublish = \"{}\"\n",
            unique("bench"),
            self.mysql.config(),
            self.kafka.config(),
            unique(name)
        );
        Arc::new(config::parse(&text, "larder.toml", Path::new(".")).expect("the bench's configuration is right"))
    }

    fn position(&self) -> Position {
        let plan = self.plan("position");
        block_on(async {
            let mut connection = connect::connect(plan.mysql.as_ref().expect("a server")).await.expect("connect");
            connect::position(&mut connection).await.expect("a position")
        })
    }

    /// The events as they come.
    fn read(&self, from: &Position, until: &Position) -> Run {
        let plan = self.plan("read");
        measure(|| {
            block_on(async {
                let mut binlog = Binlog::open(plan.mysql.as_ref().expect("a server"), from).await.expect("a stream");
                let mut assembler = Assembler::new(JsonMaker, &[], from.clone(), false, usize::MAX);
                while !assembler.has_reached(until) {
                    assembler.event(&binlog.next().await.expect("an event").raw()).expect("events");
                }
            });
        })
    }

    /// Changes into tables.
    fn tables(&self, from: &Position, until: &Position) -> Run {
        let plan = self.plan("tables");
        let tables = Tables::new([("items".to_owned(), format!("{}.items", self.database))]);
        let mysql = plan.mysql.as_ref().expect("a server");
        let schema = block_on(async {
            let mut connection = connect::connect(mysql).await.expect("connect");
            catalogue::table(&mut connection, &plan.tables[0]).await.expect("an answer").expect("a table").schema
        });
        measure(|| {
            block_on(async {
                let mut binlog = Binlog::open(mysql, from).await.expect("a stream");
                let mut assembler = Assembler::new(JsonMaker, &plan.tables, from.clone(), false, usize::MAX);
                assembler.follow(TABLE, schema);
                while !assembler.has_reached(until) {
                    assembler.event(&binlog.next().await.expect("an event").raw()).expect("events");
                    while let Some(step) = assembler.next_step() {
                        if let Step::Apply(transaction) = step {
                            tables.apply(transaction);
                        }
                    }
                }
            });
            assert_eq!(tables.summaries()[0].rows, self.rows);
        })
    }

    /// Has the publisher begin at a position, as if it had published up to there.
    fn follow_from(&self, plan: &Plan, from: &Position) {
        let topic = format!("larder.{}.progress", plan.name);
        Topics::new(&plan.kafka, &plan.limits).expect("a client").create(&topic, 1, &[("cleanup.policy", "compact")]).expect("a topic");
        let table = serde_json::json!({"format":1,"mysql":format!("{}.items", self.database),"topic":publish_topic(plan),"state":{"kind":"following"}});
        let source = serde_json::json!({"format":1,"position":from.to_string(),"part":null});
        self.kafka.produce(&topic, [Message::new("source", source.to_string()), Message::new("table/items", table.to_string())]);
    }

    /// The publisher, until so many changes are out.
    fn publish(&self, plan: &Arc<Plan>, changes: usize) -> Run {
        let tables = Arc::new(Tables::new([("items".to_owned(), format!("{}.items", self.database))]));
        let status = Arc::new(PublishStatus::new(1));
        let stop = Arc::new(AtomicBool::new(false));
        let publisher = Publisher::new(Arc::clone(plan), tables, Arc::clone(&status), Arc::clone(&stop)).expect("a table is published");
        measure(|| {
            std::thread::scope(|scope| {
                let running = scope.spawn(|| publisher.run());
                while status.changes(TABLE) < changes as u64 || status.lag_seconds() > 0.0 {
                    assert!(!running.is_finished(), "the publisher ended");
                    std::thread::sleep(Duration::from_millis(5));
                }
                stop.store(true, Ordering::Release);
                running.join().expect("no panic").expect("a clean end");
            });
        })
    }

    /// The same records from memory.
    fn produce(&self, plan: &Plan) -> Run {
        let reader = self.kafka.reader("read_committed");
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(publish_topic(plan), 0, rdkafka::Offset::Beginning).expect("an offset");
        reader.assign(&list).expect("a partition");
        let mut sample = Vec::new();
        while sample.len() < SAMPLE.min(self.rows) {
            if let Some(Ok(record)) = reader.poll(Duration::from_secs(1)) {
                sample.push((
                    record.key().expect("a key").to_vec(),
                    record.payload().expect("a value").to_vec(),
                    record.headers().expect("headers").detach(),
                ));
            }
        }
        let topic = self.kafka.topic("alone", 1);
        let producer = Producer::open(&plan.kafka, &plan.limits, &unique("alone"), &topic).expect("a producer");
        let send = |(key, value, headers): &(Vec<u8>, Vec<u8>, OwnedHeaders)| {
            let outgoing = Outgoing { topic: &topic, key: Some(key), value: Some(value), ..Outgoing::default() };
            producer.send(outgoing, headers.clone()).expect("room");
            value.len()
        };
        measure(|| {
            let mut bytes = 0;
            producer.begin().expect("a transaction");
            for record in sample.iter().cycle().take(self.rows) {
                bytes += send(record);
                if bytes > plan.limits.commit_bytes {
                    producer.commit(producer.deadline()).expect("a commit");
                    producer.begin().expect("a transaction");
                    bytes = 0;
                }
            }
            producer.commit(producer.deadline()).expect("a commit");
        })
    }
}

fn publish_topic(plan: &Plan) -> &str {
    &plan.tables[0].publish.as_ref().expect("the table is published").topic
}

/// Debezium in Kafka Connect, as a process of its own.
struct Debezium {
    process: Child,
    folder: std::path::PathBuf,
    topic: String,
    began: Instant,
}

impl Debezium {
    fn start(bench: &Bench<'_>, jars: &str) -> Self {
        let folder = std::env::temp_dir().join(unique("larder-bench"));
        std::fs::create_dir(&folder).expect("a folder");
        let (host, port) = bench.mysql.address.split_once(':').expect("host and port");
        let name = unique("debezium");
        let Bench { kafka, database, .. } = bench;
        let worker = format!(
            "bootstrap.servers={}\nkey.converter=org.apache.kafka.connect.json.JsonConverter\nvalue.converter=org.apache.kafka.connect.json.JsonConverter\nkey.converter.schemas.enable=false\nvalue.converter.schemas.enable=false\noffset.storage.file.filename={}\nplugin.discovery=service_load\nlisteners=http://127.0.0.1:0\n",
            kafka.brokers,
            folder.join("offsets").display()
        );
        let connector = format!(
            "name={name}\nconnector.class=io.debezium.connector.mysql.MySqlConnector\ndatabase.hostname={host}\ndatabase.port={port}\ndatabase.user={}\ndatabase.password={}\ndatabase.server.id=4711\ntopic.prefix={name}\ndatabase.include.list={database}\ntable.include.list={database}.items\nsnapshot.locking.mode=none\ntopic.creation.default.replication.factor=1\ntopic.creation.default.partitions=1\ninclude.schema.changes=false\nschema.history.internal=io.debezium.storage.file.history.FileSchemaHistory\nschema.history.internal.file.filename={}\n",
            support::mysql::USER,
            support::mysql::PASSWORD,
            folder.join("history").display()
        );
        std::fs::write(folder.join("worker.properties"), worker).expect("write");
        std::fs::write(folder.join("connector.properties"), connector).expect("write");
        let log = std::fs::File::create(folder.join("log")).expect("a log");
        let process = Command::new("java")
            .args([
                "-cp",
                &format!("{jars}/*"),
                "org.apache.kafka.connect.cli.ConnectStandalone",
                "worker.properties",
                "connector.properties",
            ])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("java");
        Self { process, folder, topic: format!("{name}.{database}.items"), began: Instant::now() }
    }

    fn cpu(&self) -> f64 {
        ticks(&format!("/proc/{}/stat", self.process.id()))
    }

    /// Waits until so many records are in the topic; time and CPU since `begun`.
    fn until(&self, bench: &Bench<'_>, records: usize, (since, cpu): (Instant, f64)) -> Run {
        let reader = bench.kafka.reader("read_uncommitted");
        let end = || reader.fetch_watermarks(&self.topic, 0, Duration::from_secs(5)).map_or(0, |(_, end)| end);
        let deadline = Instant::now() + Duration::from_secs(600);
        while end() < records as i64 {
            assert!(Instant::now() < deadline, "Debezium wrote {} records; its log is in {}", end(), self.folder.display());
            std::thread::sleep(Duration::from_millis(200));
        }
        Run { wall: since.elapsed().as_secs_f64(), cpu: self.cpu() - cpu }
    }
}

impl Drop for Debezium {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn cpu_seconds() -> f64 {
    ticks("/proc/self/stat")
}

/// User and system time of a process, by proc(5) fields 14 and 15 in hundredths of a second.
fn ticks(stat: &str) -> f64 {
    let text = std::fs::read_to_string(stat).expect("a process");
    let fields: Vec<&str> = text.rsplit_once(") ").expect("a name").1.split(' ').collect();
    fields[11..13].iter().map(|field| field.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}
