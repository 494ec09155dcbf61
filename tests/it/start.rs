//! What keeps the daemon from starting, all of it said at once, and what it waits for.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::shop::{order, wait_for_answer};
use crate::support::{Answer, Daemon, Fault, Mysql, Proxy, Shop, unique, wait_for};

/// Runs the daemon until it ends by itself: its exit code, and the last error in its log.
#[track_caller]
fn run_to_end(config: &str, environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let began = Instant::now();
    let mut daemon = Daemon::start(config, environment);
    let code = daemon.wait_exit();
    assert!(began.elapsed() < Duration::from_secs(20), "it ended only after {:?}", began.elapsed());
    // The line may still be on its way through the pipe.
    let line = wait_for("the line that says why", Duration::from_secs(5), || {
        daemon.log().into_iter().rfind(|line| line.contains("exit_code")).ok_or_else(|| daemon.log().join("\n"))
    });
    (code, line)
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} in:\n{text}");
    }
}

#[test]
fn a_column_that_is_not_there_ends_the_start_with_the_nearest_that_is() {
    let shop = Shop::open(1);
    let config = shop.config().replace("$product.category", "$product.categroy").replace("$product.image", "$product.picture");
    let needs = ["no column categroy", "streams.order-items.to.value.product.category", "did you mean category?", "no column picture"];
    let (code, line) = run_to_end(&config, &shop.environment());
    assert_eq!(code, Some(3), "{line}");
    assert_says(&line, &needs);
    let checked = Daemon::command(&["check", "--connect"], &config, &shop.environment());
    assert_eq!(checked.code, Some(3), "{}", checked.stderr);
    assert_says(&checked.stderr, &needs);
    assert_eq!(Daemon::command(&["check"], &config, &shop.environment()).code, Some(0), "without a server nobody knows");
}

#[test]
fn keys_that_do_not_fit_the_table_end_the_start() {
    let shop = Shop::open(1);
    let config = shop
        .config()
        .replace("key     = \"item.productId\"", "key = [\"item.productId\", \"item.quantity\"]")
        .replace("[tables.users]\n", "[tables.users]\ncolumns = [\"email\"]\nbooleans = [\"email\"]\n");
    let needs = [
        "streams.order-items.join.product.key gives 2 of the 1 values of the key (id)",
        "tables.users.columns leaves out id",
        "column email of",
        "no TINYINT",
    ];
    let checked = Daemon::command(&["check", "--connect"], &config, &shop.environment());
    assert_eq!(checked.code, Some(3), "{}", checked.stderr);
    assert_says(&checked.stderr, &needs);
    let (code, line) = run_to_end(&config, &shop.environment());
    assert_eq!(code, Some(3), "{line}");
    assert_says(&line, &needs);
}

#[test]
fn the_last_line_says_why_and_a_user_nobody_knows_is_named() {
    let shop = Shop::open_without_topics();
    let user = unique("stranger");
    let config = shop.config().replace("user     = \"larder\"", &format!("user = \"{user}\""));
    let mut daemon = Daemon::start(&config, &shop.environment());
    assert_eq!(daemon.wait_exit(), Some(3));
    let last = wait_for("the last line", Duration::from_secs(5), || {
        let last = daemon.log().into_iter().last().unwrap_or_default();
        if last.contains("exit_code") { Ok(last) } else { Err(last) }
    });
    assert_says(&last, &["correct mysql.user"]);
}

#[test]
fn a_pause_hides_nothing_that_is_missing() {
    let shop = Shop::open_without_topics();
    let mut daemon = Daemon::start(&shop.config(), &shop.environment());
    let missing = format!("topic {} does not exist", shop.orders);
    wait_for_answer(&mut daemon, "/ready", |ready| ready.status == 503 && ready.body.contains(&missing));
    assert_eq!(daemon.request("POST", "/api/streams/order-items/pause", &[]).status, 200);
    let ready = daemon.get("/ready");
    assert_eq!(ready.status, 503, "{}", ready.body);
    assert!(ready.body.contains(&missing), "{}", ready.body);
}

#[test]
fn rights_that_are_missing_are_named_all_at_once() {
    let shop = Shop::open_without_topics();
    let user = unique("nobody");
    shop.mysql.exec(&format!("set sql_log_bin = 0; create user {user} identified by 'some password'"));
    let config = shop.config().replace("user     = \"larder\"", &format!("user = \"{user}\""));
    let mut environment = shop.environment();
    environment[1].1 = "some password";
    let needs = [
        format!("GRANT REPLICATION CLIENT ON *.* TO {user}"),
        format!("GRANT REPLICATION SLAVE ON *.* TO {user}"),
        format!("GRANT SELECT ON {}.products", shop.name),
        format!("GRANT SELECT ON {}.users", shop.name),
    ];
    let needs: Vec<&str> = needs.iter().map(String::as_str).collect();
    let (code, line) = run_to_end(&config, &environment);
    assert_eq!(code, Some(3), "{line}");
    assert_says(&line, &needs);

    // `check --connect` says in the same breath what Kafka lacks.
    let checked = Daemon::command(&["check", "--connect"], &config, &environment);
    assert_eq!(checked.code, Some(3));
    assert_says(&checked.stderr, &needs);
    assert_says(&checked.stderr, &[&format!("kafka: stream order-items: topic {} does not exist", shop.orders)]);
    let checked = Daemon::command(&["check", "--connect", "--json"], &config, &environment);
    assert_eq!(checked.code, Some(3));
    let answer: serde_json::Value = serde_json::from_str(&checked.stdout).expect("JSON");
    assert_eq!((&answer["ok"], answer["errors"].as_array().map(Vec::len)), (&json!(false), Some(needs.len() + 1)), "{answer:#}");
}

#[test]
fn wrong_passwords_and_servers_that_are_away_are_told_apart() {
    let shop = Shop::open(1);
    let mut environment = shop.environment();
    environment[1].1 = "not the password";
    let (code, line) = run_to_end(&shop.config(), &environment);
    assert_eq!(code, Some(3), "{line}");
    assert_says(&line, &["Access denied for user 'larder'", "correct mysql.user and mysql.password"]);
    assert!(!line.contains("not the password"));

    let nobody = Proxy::to("127.0.0.1:1");
    nobody.set(Fault::Cut);
    let checked = Daemon::command(
        &["check", "--connect"],
        &shop.config(),
        &[("MYSQL_ADDRESS", &nobody.address), ("MYSQL_PASSWORD", ""), ("KAFKA_BROKERS", &nobody.address)],
    );
    assert_eq!(checked.code, Some(3));
    assert_says(&checked.stderr, &[&format!("mysql: MySQL at {}", nobody.address), "start the server", "kafka: ", "is the broker running"]);
    let checked = Daemon::command(&["check", "--connect"], &shop.config(), &shop.environment());
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "all is well");
    assert_says(&checked.stdout, &["are as they must be"]);
}

#[test]
fn a_server_that_logs_statements_or_half_rows_is_refused() {
    let mysql = Mysql::start(&["--binlog-format=STATEMENT", "--binlog-row-image=MINIMAL"]);
    let database = mysql.database("shop");
    mysql.exec(&format!("create table {database}.products (id int primary key, name text)"));
    let config = format!(
        "name = \"{database}\"\n{}[kafka]\nbrokers = \"127.0.0.1:1\"\n[tables.products]\nmysql = \"{database}.products\"\n[http]\nlisten = \"\"\n[log]\nformat = \"json\"\n",
        mysql.config()
    );
    let (code, line) = run_to_end(&config, &[]);
    assert_eq!(code, Some(3), "{line}");
    assert_says(&line, &["binlog_format", "ROW", "binlog_row_image", "FULL"]);
}

#[test]
fn it_waits_for_kafka_for_mysql_and_for_its_topic_and_says_so() {
    let shop = Shop::open_without_topics();
    // Only the first question goes by way of the proxies: the broker tells its own address.
    let (kafka, mysql) = (Proxy::to(&shop.kafka.brokers), Proxy::to(&shop.mysql.address));
    kafka.set(Fault::Cut);
    mysql.set(Fault::Cut);
    let mut environment = shop.environment();
    (environment[0].1, environment[2].1) = (&mysql.address, &kafka.address);
    let mut daemon = Daemon::start(&shop.config(), &environment);
    let waits_for = |line: String| {
        move |answer: &Answer| {
            let waiting = answer.json()["waiting"].clone();
            let lines = waiting.as_array().cloned().unwrap_or_default();
            answer.status == 503 && lines.iter().any(|found| found.as_str().is_some_and(|found| found.starts_with(&line)))
        }
    };
    wait_for_answer(&mut daemon, "/ready", waits_for("source mysql: MySQL is not there yet: ".to_owned()));
    wait_for_answer(&mut daemon, "/ready", waits_for(format!("stream order-items: no answer from Kafka at {}: ", kafka.address)));
    assert_eq!(daemon.get("/live").status, 200);
    let status = daemon.get("/api/status").json();
    assert_eq!((&status["ready"], &status["source"]["connected"]), (&json!(false), &json!(false)));
    mysql.set(Fault::None);
    wait_for_answer(&mut daemon, "/api/tables", |answer| answer.json()["tables"][0]["state"] == json!("ready"));
    kafka.set(Fault::None);
    wait_for_answer(&mut daemon, "/ready", waits_for(format!("stream order-items: topic {} does not exist", shop.orders)));
    shop.kafka.create_topic(&shop.orders, 1, &[]);
    shop.produce([order("first", &["21"])]);
    assert_eq!(shop.wait_for_items(1).len(), 1);
    daemon.wait_ready();
    let warnings: Vec<String> = daemon.log().into_iter().filter(|line| line.contains("\"WARN\"")).collect();
    assert!(warnings.len() < 15, "a server that is away is no reason to fill the log:\n{}", warnings.join("\n"));
}
