//! The support itself: a fault here would make every other test a liar.

use std::time::{Duration, Instant};

use rdkafka::producer::Producer as _;
use serde_json::json;

use crate::support::kafka::send;
use crate::support::mysql::Session;
use crate::support::{Daemon, Fault, Kafka, Message, Mysql, Proxy, wait_for, wait_until};

const CALL: Duration = Duration::from_secs(30);

#[test]
fn a_row_written_to_mysql_is_read_back_with_the_documented_rights() {
    let mysql = Mysql::shared();
    let database = mysql.database("shop");
    let mut writer = mysql.session();
    writer.exec(&format!("use {database}; create table users (id int primary key, name text)"));
    writer.exec("begin; insert into users values (1, 'Anna')");
    let mut reader = Session::open(mysql.user());
    let select = format!("select id, name from {database}.users");
    assert_eq!(reader.rows::<(i32, String)>(&select), [], "not committed yet");
    writer.exec("commit");
    assert_eq!(reader.rows::<(i32, String)>(&select), [(1, "Anna".to_owned())]);
}

#[test]
fn a_server_of_ones_own_takes_arguments_and_keeps_its_data_and_address_when_killed() {
    let mysql = Mysql::start(&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF", "--binlog-row-metadata=MINIMAL"]);
    let modes = mysql.rows::<(String, String)>("select @@gtid_mode, @@binlog_row_metadata");
    assert_eq!(modes, [("OFF".to_owned(), "MINIMAL".to_owned())]);
    let database = mysql.database("kept");
    mysql.exec(&format!("create table {database}.t (id int primary key); insert into {database}.t values (7)"));
    mysql.kill();
    mysql.restart();
    assert_eq!(mysql.rows::<i32>(&format!("select id from {database}.t")), [7]);
}

#[test]
fn records_come_back_with_key_value_headers_time_and_partition() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("orders", 3);
    let order = Message::new("a", r#"{"id":1}"#).header("source", "till").partition(2).timestamp(1_700_000_000_123);
    kafka.produce(&topic, [order, Message::tombstone("a").partition(2)]);
    let records = kafka.wait_for_records(&topic, 2, CALL);
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].partition, 2);
    assert_eq!(records[0].timestamp, Some(1_700_000_000_123));
    assert_eq!(records[0].key_text(), Some("a"));
    assert_eq!(records[0].json(), json!({"id": 1}));
    assert_eq!(records[0].header("source"), Some("till"));
    assert_eq!(records[1].value, None);
}

#[test]
fn keys_meet_the_partitions_of_a_java_producer() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("keys", 8);
    // murmur2 of "21" is -973,932,308 (test vector of Kafka's UtilsTest); the partitioner takes its lower 31 bits.
    kafka.produce(&topic, [Message::new("21", "x")]);
    assert_eq!(kafka.read(&topic)[0].partition, (-973_932_308 & 0x7fff_ffff) % 8);
}

#[test]
fn an_aborted_record_is_seen_by_readers_of_everything_only() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("transactions", 1);
    let producer = kafka.transactional_producer(&topic);
    let texts = |records: Vec<_>| records.iter().map(|record: &crate::support::Record| record.text().to_owned()).collect::<Vec<_>>();

    producer.begin_transaction().expect("begin");
    send(&producer, &topic, &Message::new("k", "committed"));
    producer.commit_transaction(CALL).expect("commit");

    producer.begin_transaction().expect("begin");
    send(&producer, &topic, &Message::new("k", "aborted"));
    producer.flush(CALL).expect("flush");
    producer.abort_transaction(CALL).expect("abort");

    producer.begin_transaction().expect("begin");
    send(&producer, &topic, &Message::new("k", "open"));
    producer.flush(CALL).expect("flush");
    wait_until("all three records in the log", CALL, || kafka.read_uncommitted(&topic).len() == 3);
    assert_eq!(texts(kafka.read(&topic)), ["committed"], "neither the aborted nor the open one");
    assert_eq!(texts(kafka.read_uncommitted(&topic)), ["committed", "aborted", "open"]);

    producer.commit_transaction(CALL).expect("commit");
    assert_eq!(texts(kafka.wait_for_records(&topic, 2, CALL)), ["committed", "open"]);
}

#[test]
fn a_killed_broker_comes_back_with_its_records() {
    let kafka = Kafka::start();
    let topic = kafka.topic("kept", 1);
    kafka.produce(&topic, (0..100).map(|n| Message::new(n.to_string(), n.to_string())));
    kafka.kill();
    kafka.restart();
    assert_eq!(kafka.read(&topic).len(), 100);
}

#[test]
fn a_proxy_stalls_cuts_and_delays() {
    let mysql = Mysql::shared();
    let proxy = Proxy::to(&mysql.address);
    let port = proxy.address.rsplit_once(':').expect("host:port").1.parse().expect("a port");
    let mut session = Session::open(mysql.user().tcp_port(port));
    session.exec("do 0");

    proxy.set(Fault::Delay(Duration::from_millis(200)));
    let began = Instant::now();
    session.exec("do 0");
    assert!(began.elapsed() >= Duration::from_millis(400), "there and back, {:?}", began.elapsed());

    proxy.set(Fault::Stall);
    let stalled = std::thread::scope(|scope| {
        let statement = scope.spawn(|| session.exec("do 0"));
        wait_for("the server to be idle while the statement stands in the proxy", CALL, || {
            if statement.is_finished() { Err("it went through".to_owned()) } else { Ok(()) }
        });
        proxy.set(Fault::None);
        statement.join()
    });
    stalled.expect("the statement goes on when the fault is over");

    proxy.set(Fault::Cut);
    let after_cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| session.exec("do 0")));
    assert!(after_cut.is_err(), "the connection is closed");
}

#[test]
fn a_broker_behind_a_proxy_is_reached_by_it_alone() {
    let (kafka, proxy) = Kafka::start_behind_proxy();
    let topic = kafka.topic("faults", 1);
    kafka.produce(&topic, [Message::new("k", "v")]);
    proxy.set(Fault::Cut);
    let client: rdkafka::consumer::BaseConsumer = kafka.client().create().expect("make a client");
    let cut = rdkafka::consumer::Consumer::fetch_metadata(&client, None, Duration::from_secs(1));
    assert!(cut.is_err(), "the broker told another address than the proxy's");
    proxy.set(Fault::None);
    kafka.wait_ready();
    assert_eq!(kafka.read(&topic).len(), 1);
}

#[test]
fn the_end_of_a_daemon_is_seen_with_its_code_and_its_words() {
    let mut daemon = Daemon::start("nonsense = 1\n", &[]);
    assert_eq!(daemon.wait_exit(), Some(2));
    daemon.wait_for_log("nonsense");
    daemon.start_again();
    assert_eq!(daemon.wait_exit(), Some(2));
}

#[test]
fn a_daemon_gets_ready_is_killed_started_again_and_stopped() {
    let (mysql, kafka) = (Mysql::shared(), Kafka::shared());
    let database = mysql.database("daemon");
    mysql.exec(&format!("create table {database}.users (id int primary key, name text); insert into {database}.users values (1, 'Anna')"));
    let (input, output) = (kafka.topic("in", 1), kafka.topic("out", 1));
    let config = format!(
        r#"
        name = "{database}"
        {mysql}
        {kafka}
        [http]
        listen = "127.0.0.1:0"
        [tables.users]
        mysql = "{database}.users"
        [streams.copy]
        from = "{input}"
        [streams.copy.to]
        topic = "{output}"
        "#,
        mysql = mysql.config(),
        kafka = kafka.config(),
    );
    let mut daemon = Daemon::start(&config, &[]);
    daemon.wait_ready();
    let row = daemon.get("/api/tables/users/rows/1");
    assert_eq!(row.status, 200, "{}", row.body);
    assert_eq!(row.json(), json!({"id": 1, "name": "Anna"}));
    assert!(row.headers.contains_key("larder-position"));

    daemon.kill();
    kafka.produce(&input, [Message::new("k", r#"{"while":"nobody runs"}"#)]);
    daemon.start_again();
    let outputs = kafka.wait_for_records(&output, 1, CALL);
    assert_eq!(outputs[0].json(), json!({"while": "nobody runs"}));
    let group = format!("{database}.copy");
    wait_until("the offset behind the record to be committed", CALL, || kafka.committed(&group, &input).get(&0) > Some(&0));
    assert_eq!(daemon.terminate(), Some(0));
}
