//! The pizza shop on real servers: its own files, with names nobody else uses.

use std::path::Path;
use std::time::Duration;

use super::mysql::PASSWORD;
use super::{Answer, Daemon, Kafka, Message, Mysql, Record, unique, wait_for};

/// For what should take a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// The shop's tables in a database and its topics in a broker; nothing runs yet.
pub struct Shop {
    pub mysql: &'static Mysql,
    pub kafka: &'static Kafka,
    /// Configuration name: groups, transactional ids and the dead-letter topic begin with it. Also the database.
    pub name: String,
    /// Topic of the orders.
    pub orders: String,
    /// Topic of the enriched items.
    pub items: String,
}

impl Shop {
    /// Tables with all 81 products and no users, and the topic of the orders.
    pub fn open(partitions: i32) -> Self {
        let shop = Self::open_without_topics();
        shop.kafka.create_topic(&shop.orders, partitions, &[]);
        shop
    }

    pub fn open_without_topics() -> Self {
        let name = unique("shop");
        let (mysql, kafka) = (Mysql::shared(), Kafka::shared());
        let load = application_file("load.sql");
        let (products, _users) = load.split_once("INSERT INTO users").expect("products, then users");
        for sql in [&application_file("schema.sql"), products] {
            let sql = sql.replace("USE pizzashop;", &format!("USE {name};"));
            mysql.exec(&sql.replace("DATABASE IF NOT EXISTS pizzashop", &format!("DATABASE IF NOT EXISTS {name}")));
        }
        Self { mysql, kafka, orders: format!("{name}-orders"), items: format!("{name}-items"), name }
    }

    /// The shop's configuration file with the names of this shop, a free port and a log that programs read.
    pub fn config(&self) -> String {
        let mut text = application_file("larder.toml");
        for (from, to) in [
            ("name = \"pizzashop\"", format!("name = \"{}\"", self.name)),
            ("\"pizzashop.products\"", format!("\"{}.products\"", self.name)),
            ("\"pizzashop.users\"", format!("\"{}.users\"", self.name)),
            ("\"mysql.pizzashop.products\"", format!("\"{}-products\"", self.name)),
            ("\"mysql.pizzashop.users\"", format!("\"{}-users\"", self.name)),
            ("from = \"orders\"", format!("from = \"{}\"", self.orders)),
            ("topic = \"enriched-order-items\"", format!("topic = \"{}\"", self.items)),
        ] {
            assert_eq!(text.matches(from).count(), 1, "{from} in apps/pizzashop/larder.toml");
            text = text.replace(from, &to);
        }
        text + "\n[http]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n"
    }

    /// What the configuration takes from the environment.
    pub fn environment(&self) -> [(&str, &str); 3] {
        [("MYSQL_ADDRESS", &self.mysql.address), ("MYSQL_PASSWORD", PASSWORD), ("KAFKA_BROKERS", &self.kafka.brokers)]
    }

    /// Starts the daemon with a configuration made from [`Shop::config`].
    pub fn start(&self, config: &str) -> Daemon {
        Daemon::start(config, &self.environment())
    }

    pub fn dead_letters(&self) -> String {
        format!("{}.dead-letters", self.name)
    }

    /// Runs statements with the shop's database as the default.
    #[track_caller]
    pub fn sql(&self, sql: &str) {
        self.mysql.exec(&format!("use {}; {sql}", self.name));
    }

    #[track_caller]
    pub fn produce(&self, orders: impl IntoIterator<Item = Message>) {
        self.kafka.produce(&self.orders, orders);
    }

    #[track_caller]
    pub fn wait_for_items(&self, count: usize) -> Vec<Record> {
        self.kafka.wait_for_records(&self.items, count, PATIENCE)
    }

    #[track_caller]
    pub fn wait_for_dead_letters(&self, count: usize) -> Vec<Record> {
        self.kafka.wait_for_records(&self.dead_letters(), count, PATIENCE)
    }

    /// Waits until the stream has done with every order in its topic.
    #[track_caller]
    pub fn wait_for_offsets(&self, stream: &str, records: i64) {
        wait_for(&format!("{records} records committed by stream {stream}"), PATIENCE, || {
            let committed: i64 = self.kafka.committed(&format!("{}.{stream}", self.name), &self.orders).values().sum();
            if committed >= records { Ok(()) } else { Err(format!("{committed} records")) }
        });
    }
}

/// Waits until a path answers as wanted.
#[track_caller]
pub fn wait_for_answer(daemon: &mut Daemon, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    wait_for(&format!("the wanted answer of {path}"), PATIENCE, || {
        let answer = daemon.get(path);
        if wanted(&answer) { Ok(answer) } else { Err(format!("{} {}", answer.status, answer.body)) }
    })
}

/// An order as the shop's till writes it, with one of each of these products (JSON texts of `productId`).
pub fn order(id: &str, products: &[&str]) -> Message {
    let items: Vec<String> = products.iter().map(|product| format!(r#"{{"productId":{product},"quantity":1,"price":45}}"#)).collect();
    let items = items.join(",");
    Message::new(
        id,
        format!(r#"{{"id":"{id}","createdAt":"2022-10-17T13:30:00.123","userId":7,"status":"PLACED_ORDER","items":[{items}]}}"#),
    )
}

fn application_file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("apps/pizzashop").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
