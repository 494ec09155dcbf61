//! The daemon killed again and again under load, with a broker and a MySQL that die too (case K48, invariants I1, I2, I4, I13).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::ledger::{Found, Load, PRODUCTS};
use crate::support::{Daemon, Kafka, Mysql, RUNTIME, unique};

/// More of them: `LARDER_TEST_KILLS`.
const KILLS: u32 = 20;
/// The same moments again: `LARDER_TEST_SEED`.
const SEED: &str = "LARDER_TEST_SEED";

#[test]
fn every_item_is_there_exactly_once_after_kills_of_the_daemon_the_broker_and_mysql() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = number("LARDER_TEST_KILLS").map_or(KILLS, |kills| u32::try_from(kills).expect("a small number"));
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::from(since.subsec_nanos()));
    let seed = number(SEED).unwrap_or_else(clock);
    eprintln!("{SEED}={seed}");
    let mut chance = StdRng::seed_from_u64(seed);

    let (mysql, kafka) = std::thread::scope(|scope| {
        let mysql = scope.spawn(|| Mysql::start(&[]));
        let kafka = Kafka::start();
        (mysql.join().expect("MySQL starts"), kafka)
    });
    let database = mysql.database("kill");
    mysql.exec(&format!("create table {database}.products (id int primary key, price int not null)"));
    for id in 1..=PRODUCTS {
        mysql.exec(&format!("insert into {database}.products values ({id}, 0)"));
    }
    let topic = kafka.topic("orders", 4);
    let name = unique("kill");
    let output = format!("{name}.items");
    let config = format!(
        r#"
name = "{name}"
instance = "one"
{mysql}
{kafka}
[tables.products]
mysql = "{database}.products"
[streams.items]
from = "{topic}"
each = "items"
workers = 2
[streams.items.join.product]
table = "products"
key = "item.productId"
missing = "dead-letter"
[streams.items.to]
topic = "{output}"
key = "$item.productId"
[streams.items.to.value]
order = "$record.id"
item = "$item"
price = "$product.price"
[http]
listen = "127.0.0.1:0"
"#,
        mysql = mysql.config(),
        kafka = kafka.config(),
    );
    let prices = Prices::start(&mysql, &database);
    let load = Load::start(&kafka, &topic, 300);
    let group = format!("{name}.items");
    let mut daemon = Daemon::start(&config, &[]);
    daemon.wait_ready();
    let (mut read, mut moved) = (0, 0);
    for kill in 0..kills {
        // From the first steps of a start to well into the flow.
        std::thread::sleep(Duration::from_millis(chance.random_range(100..2_000)));
        if kill == kills / 3 {
            kafka.kill();
            kafka.restart();
        }
        if kill == kills * 2 / 3 {
            mysql.kill();
            mysql.restart();
        }
        assert!(!daemon.has_ended(), "the daemon ended by itself before kill {kill}");
        daemon.kill();
        daemon.start_again();
        let committed = kafka.committed(&group, &topic).values().sum::<i64>();
        assert!(committed >= read, "committed offsets went back from {read} to {committed}");
        moved += u32::from(committed > read);
        read = committed;
    }
    assert!(moved >= kills / 3, "the kills came too early to prove anything: {moved} of {kills} lives committed something");
    let ledger = load.finish();
    let changes = prices.finish();
    let found = Found::when_done(&kafka, &group, &topic, &output, &format!("{name}.dead-letters"), true, Duration::from_secs(60));
    assert_eq!(daemon.terminate(), Some(0));
    found.assert_exact(&ledger);
    eprintln!(
        "{kills} kills, {moved} lives that committed: {} orders ({} with unknown outcome), {} outputs, {} dead letters, {changes} MySQL transactions",
        found.inputs.len(),
        ledger.unknown.len(),
        found.outputs.len(),
        found.dead.len()
    );
}

/// Gives all products the same new price, in transaction after transaction, over restarts of the server.
struct Prices {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<u64>,
}

impl Prices {
    fn start(mysql: &Mysql, database: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, options) = (Arc::clone(&stop), mysql.root());
        let update = format!("update {database}.products set price = price + 1");
        let task = RUNTIME.spawn(async move {
            let mut done = 0;
            let mut connection = None;
            while !told.load(Ordering::Acquire) {
                if let Some(open) = &mut connection {
                    if Conn::query_drop(open, &update).await.is_ok() {
                        done += 1;
                    } else {
                        connection = None;
                    }
                } else {
                    connection = Conn::new(options.clone()).await.ok();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            done
        });
        Self { stop, task }
    }

    /// How many transactions were committed.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        crate::support::block_on(self.task).expect("the writer does not panic")
    }
}
