//! Running it: how it ends, who may ask it what, what its commands print, and that it keeps its secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::shop::{order, wait_for_answer};
use crate::support::{Daemon, Fault, Kafka, Message, Mysql, Proxy, Shop, unique, wait_for};

const TOKEN: &str = "a-token-of-more-than-sixteen-characters";

/// P01: it ends in mid-flow; what it read is out and committed, the next run goes on from there.
#[test]
fn p01_sigterm_under_load_ends_at_once_and_nothing_is_lost_or_doubled() {
    const ORDERS: i64 = 40_000;
    let shop = Shop::open(2);
    // All there before it starts, and small transactions: it stops in the middle of them.
    shop.produce((0..ORDERS).map(|number| order(&number.to_string(), &["21", "36"])));
    let mut daemon = shop.start(&(shop.config() + "[limits]\ncommit_bytes = \"64 KiB\"\n"));
    wait_for_answer(&mut daemon, "/api/streams", |answer| {
        answer.json()["streams"][0]["records"].as_u64().is_some_and(|records| records > 0)
    });
    let group = format!("{}.order-items", shop.name);
    let committed = || shop.kafka.committed(&group, &shop.orders).values().sum::<i64>();
    let began = Instant::now();
    assert_eq!(daemon.terminate(), Some(0));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?} to end");
    let done = committed();
    assert!(done < ORDERS, "it was under load");
    assert_eq!(shop.kafka.read(&shop.items).len() as i64, done * 2, "what is out is committed, and nothing else");
    assert!(daemon.log().iter().any(|line| line.contains("SIGTERM received")));

    daemon.start_again();
    let items = shop.wait_for_items((ORDERS * 2).try_into().expect("few"));
    let origins: BTreeSet<_> = items.iter().map(|item| item.header("larder-origin").expect("an origin")).collect();
    assert_eq!((items.len() as i64, origins.len() as i64), (ORDERS * 2, ORDERS * 2));
    daemon.wait_ready();
    daemon.signal("INT");
    assert_eq!(daemon.wait_exit(), Some(0));
}

/// K07: a second instance comes and goes while orders flow; every item is there once, in order, and no partition is left alone.
#[test]
fn k07_instances_come_and_go_under_load() {
    const ORDERS: usize = 600;
    let shop = Shop::open(5);
    let config = |instance: &str| {
        let name = format!("name = \"{}\"", shop.name);
        let config = shop.config().replace(&name, &format!("{name}\ninstance = \"{instance}\"")).replace("each =", "workers = 2\neach =");
        config + "[limits]\nsession_timeout = \"6s\"\n"
    };
    let mut first = shop.start(&config("first"));
    first.wait_ready();
    let (stop, produced) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let from = produced.fetch_add(20, Ordering::Relaxed);
                shop.produce((from..from + 20).map(|number| order(&number.to_string(), &["21", "36"])));
            }
        });
        let mut second = shop.start(&config("second"));
        second.wait_ready();
        let records = |daemon: &mut Daemon| daemon.get("/api/streams").json()["streams"][0]["records"].as_u64().expect("a count");
        wait_for("records in both", Duration::from_secs(60), || {
            let seen = [records(&mut first), records(&mut second)];
            if seen.iter().all(|&records| records > 50) && produced.load(Ordering::Relaxed) > ORDERS {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        });
        assert_eq!(second.terminate(), Some(0));
        stop.store(true, Ordering::Relaxed);
    });
    let count = produced.load(Ordering::Relaxed) * 2;
    let items = shop.wait_for_items(count);
    let origins: BTreeSet<_> = items.iter().map(|item| item.header("larder-origin").expect("an origin")).collect();
    assert_eq!((items.len(), origins.len()), (count, count));
    let mut last = BTreeMap::new();
    for item in &items {
        let origin = item.header("larder-origin").and_then(|origin| origin.strip_prefix(&format!("{}/", shop.orders))).expect("an origin");
        let numbers: Vec<i64> = origin.split('/').map(|number| number.parse().expect("a number")).collect();
        let before = last.insert((item.key_text(), numbers[0]), (numbers[1], numbers[2]));
        assert!(before < Some((numbers[1], numbers[2])), "{origin} after {before:?}");
    }
    assert!(!first.has_ended());
}

/// P01: servers that are away, at the start and later, keep nobody from ending it.
#[test]
fn p01_it_ends_in_order_while_its_servers_are_away() {
    let (kafka, proxy) = Kafka::start_behind_proxy();
    let name = unique("away");
    kafka.create_topic(&name, 1, &[]);
    let mysql = Mysql::shared();
    let database = mysql.database("away");
    mysql.exec(&format!("create table {database}.products (id int primary key, name text)"));
    let to_mysql = Proxy::to(&mysql.address);
    let config = format!(
        r#"
        name = "{name}"
        {}
        {}
        [tables.products]
        mysql = "{database}.products"
        [streams.s]
        from = "{name}"
        join.product = {{ table = "products", key = "record.id" }}
        to = {{ topic = "{name}-out" }}
        [limits]
        shutdown = "20s"
        commit_bytes = "64 KiB"
        [http]
        listen = "127.0.0.1:0"
        [log]
        format = "json"
        "#,
        mysql.config_at(&to_mysql.address),
        kafka.config()
    );
    let end = |daemon: &mut Daemon, when: &str| {
        let began = Instant::now();
        assert_eq!(daemon.terminate(), Some(0), "{when}");
        assert!(began.elapsed() < Duration::from_secs(15), "{when}: it took {:?} to end", began.elapsed());
    };
    let mut daemon = Daemon::start(&config, &[]);
    daemon.wait_ready();
    proxy.set(Fault::Cut);
    to_mysql.set(Fault::Cut);
    wait_for_answer(&mut daemon, "/api/status", |answer| answer.json()["source"]["connected"] == json!(false));
    end(&mut daemon, "while both are away");
    daemon.start_again();
    wait_for_answer(&mut daemon, "/ready", |answer| answer.body.contains("MySQL is not there yet"));
    end(&mut daemon, "before either was there");

    // Nothing answers and nothing refuses: the first signal waits for the commit that is under way, the second does not.
    proxy.set(Fault::None);
    to_mysql.set(Fault::None);
    daemon.start_again();
    daemon.wait_ready();
    assert_eq!(daemon.request("POST", "/api/streams/s/pause", &[]).status, 200);
    kafka.produce(&name, (0..50_000).map(|id| Message::new("k", format!(r#"{{"id":{id}}}"#))));
    let records = |daemon: &mut Daemon| daemon.get("/api/streams").json()["streams"][0]["records"].as_u64().expect("a count");
    assert_eq!(daemon.request("POST", "/api/streams/s/resume", &[]).status, 200);
    wait_for("records to flow", Duration::from_secs(30), || if records(&mut daemon) > 0 { Ok(()) } else { Err(String::new()) });
    proxy.set(Fault::Stall);
    let mut last = (records(&mut daemon), Instant::now());
    wait_for("a commit that hangs", Duration::from_secs(10), || {
        let now = records(&mut daemon);
        if now != last.0 {
            last = (now, Instant::now());
        }
        // Many times `limits.commit_interval`.
        if last.1.elapsed() > Duration::from_secs(1) { Ok(()) } else { Err(format!("{now} records")) }
    });
    assert!(last.0 < 50_000, "it was under load");
    daemon.signal("TERM");
    daemon.wait_for_log("SIGTERM received, stopping");
    assert!(!daemon.has_ended());
    let began = Instant::now();
    assert_eq!(daemon.terminate(), Some(143));
    assert!(began.elapsed() < Duration::from_secs(2), "the second signal ends it at once");
    proxy.set(Fault::None);
}

/// A13: who may ask.
#[test]
fn a13_the_token_opens_everything_and_pages_of_others_change_nothing() {
    let shop = Shop::open(1);
    let mut daemon =
        shop.start(&shop.config().replace("listen = \"127.0.0.1:0\"", &format!("listen = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"")));
    let address = daemon.address();
    daemon.wait_ready();
    for path in ["/live", "/ready", "/metrics"] {
        assert_eq!(daemon.get(path).status, 200, "{path} is for probes");
    }
    let right = format!("Bearer {TOKEN}");
    for wrong in [
        None,
        Some("Bearer "),
        Some("Bearer wrong"),
        Some(&right[..right.len() - 1]),
        Some(&format!("{right}x")),
        Some("Basic YTpi"),
        Some(TOKEN),
    ] {
        let headers: Vec<(&str, &str)> = wrong.iter().map(|value| ("authorization", *value)).collect();
        for (method, path) in
            [("GET", "/"), ("GET", "/api/status"), ("GET", "/api/config"), ("POST", "/api/streams/order-items/pause"), ("GET", "/nonsense")]
        {
            let answer = daemon.request(method, path, &headers);
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &json!("unauthorized")), "{method} {path} with {wrong:?}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
    let authorized = ("authorization", right.as_str());
    assert_eq!(daemon.request("GET", "/api/streams", &[authorized]).json()["streams"][0]["state"], json!("running"), "nobody paused it");
    let missing = daemon.request("GET", "/nonsense", &[authorized]);
    assert_eq!((missing.status, &missing.json()["error"]["code"]), (404, &json!("not-found")));

    let pause = "/api/streams/order-items/pause";
    for origin in ["http://evil.example", "null", &format!("http://{address}.evil.example")] {
        assert_eq!(daemon.request("POST", pause, &[authorized, ("origin", origin)]).status, 403, "{origin}");
    }
    assert_eq!(daemon.request("POST", pause, &[authorized, ("origin", &format!("http://{address}"))]).json()["state"], json!("paused"));

    let open = Daemon::command(&["check"], &shop.config().replace("127.0.0.1:0", "0.0.0.0:0"), &shop.environment());
    assert_eq!(open.code, Some(2), "an open address without a token");
    assert!(open.stderr.contains("http.listen") && open.stderr.contains("token"), "{}", open.stderr);
}

/// A15: who does not finish asking is not waited for, and holds nobody up.
#[test]
fn a15_a_request_that_never_ends_is_cut_off() {
    let shop = Shop::open(1);
    let limits = "listen = \"127.0.0.1:0\"\nheader_timeout = \"1s\"\nconnections = 4";
    let mut daemon = shop.start(&shop.config().replace("listen = \"127.0.0.1:0\"", limits));
    let address = daemon.address();
    let mut slow: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(&address).expect("connect")).collect();
    for connection in &mut slow {
        connection.set_read_timeout(Some(Duration::from_secs(10))).expect("set a timeout");
        connection.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\nslow: ").expect("begin a request");
    }
    // All connections are taken; this one waits until the first is cut off.
    assert_eq!(daemon.get("/live").status, 200);
    for mut connection in slow {
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).expect("the server ends the connection");
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn a_taken_port_ends_the_start() {
    let shop = Shop::open_without_topics();
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let address = taken.local_addr().expect("an address").to_string();
    let mut daemon = shop.start(&shop.config().replace("127.0.0.1:0", &address));
    assert_eq!(daemon.wait_exit(), Some(3));
    daemon_says(&daemon, &[&format!("http.listen {address} cannot be used")]);
}

#[test]
fn commands_print_what_is_asked_and_errors_say_where() {
    let shop = Shop::open_without_topics();
    let version = Daemon::command(&["--version"], "", &[]);
    assert_eq!((version.code, version.stdout), (Some(0), format!("larder {}\n", env!("CARGO_PKG_VERSION"))));

    let config = shop.config();
    let plan = Daemon::command(&["plan"], &config, &shop.environment());
    assert_eq!((plan.code, plan.stderr.as_str()), (Some(0), ""));
    for part in [&shop.orders, &shop.items, &shop.dead_letters(), &format!("{}.products", shop.name), &format!("{}.order-items", shop.name)]
    {
        assert!(plan.stdout.contains(part.as_str()), "{part} in {}", plan.stdout);
    }
    let plan = Daemon::command(&["plan", "--json"], &config, &shop.environment());
    let answer: Value = serde_json::from_str(&plan.stdout).expect("JSON");
    assert_eq!((plan.code, &answer["name"]), (Some(0), &json!(shop.name)));
    let checked = Daemon::command(&["check"], &config, &shop.environment());
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""));

    // Everything wrong with the file at once, each with its place; for every command alike.
    let wrong = config.replace("password =", "pasword =").replace("missing = \"dead-letter\"", "missing = \"dead\"") + "colour = true\n";
    let line = |part: &str| wrong.lines().position(|line| line.contains(part)).map(|at| at + 1).expect("the line is there");
    for command in ["run", "check", "plan"] {
        let ran = Daemon::command(&[command], &wrong, &shop.environment());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{command}");
        for (at, part) in [(line("pasword"), "password"), (line("missing"), "dead-letter"), (line("colour"), "log")] {
            let found = ran.stderr.lines().any(|line| line.starts_with(&format!("larder.toml:{at}: ")));
            assert!(found && ran.stderr.contains(part), "larder.toml:{at} and {part} in\n{}", ran.stderr);
        }
    }
    let unset = Daemon::command(&["run"], &config.replace("${MYSQL_PASSWORD:-larder}", "${NOBODY_SETS_THIS}"), &shop.environment());
    assert_eq!(unset.code, Some(2));
    assert!(unset.stderr.contains("NOBODY_SETS_THIS is not set"), "{}", unset.stderr);
    let unknown = Daemon::command(&["fly"], "", &[]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(2), ""));
    let absent = Daemon::command(&["check", "--config", "absent.toml"], "", &[]);
    assert_eq!(absent.code, Some(2));
    assert!(absent.stderr.contains("absent.toml"), "{}", absent.stderr);
}

/// A09: a canary in every place that takes a secret is found nowhere, at the most talkative level, on every path of failure.
#[test]
fn a09_secrets_are_found_nowhere() {
    const CANARIES: [&str; 3] = ["canary-of-mysql-7f3a", "canary-of-kafka-7f3a", "canary-of-http-7f3a"];
    let shop = Shop::open(1);
    let user = unique("canary");
    shop.mysql.exec(&format!(
        "set sql_log_bin = 0; create user {user} identified by '{}'; grant select, replication slave, replication client on *.* to {user}",
        CANARIES[0]
    ));
    let secretive = |mysql_password: &str| {
        shop.config()
            .replace("user     = \"larder\"", &format!("user = \"{user}\""))
            .replace("format = \"json\"", "format = \"json\"\nlevel = \"trace\"")
            .replace("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:0\"\ntoken = \"${HTTP_TOKEN}\"")
            .replace("[tables.products]", "[kafka.client]\n\"sasl.password\" = \"${KAFKA_PASSWORD}\"\n\"ssl.key.password\" = \"canary-of-kafka-7f3a\"\n[tables.products]")
            .replace("${MYSQL_PASSWORD:-larder}", mysql_password)
    };
    let mut environment = shop.environment().to_vec();
    environment.extend([("MYSQL_PASSWORD", CANARIES[0]), ("KAFKA_PASSWORD", CANARIES[1]), ("HTTP_TOKEN", CANARIES[2])]);
    let mut said: Vec<(String, String)> = Vec::new();

    let config = secretive("${MYSQL_PASSWORD}");
    let mut daemon = Daemon::start(&config, &environment);
    daemon.wait_ready();
    let authorized = [("authorization", "Bearer canary-of-http-7f3a")];
    for path in ["/", "/api/config", "/api/status", "/api/tables", "/api/streams", "/metrics", "/nonsense"] {
        let answer = daemon.request("GET", path, &authorized);
        assert!(!answer.body.is_empty() && answer.status != 401, "{path}");
        said.push((path.to_owned(), format!("{:?}{}", answer.headers, answer.body)));
    }
    shop.produce([order("1", &["21", "999"])]);
    shop.wait_for_items(1);
    for record in shop.kafka.read(&shop.items).iter().chain(&shop.wait_for_dead_letters(1)) {
        said.push(("a record".to_owned(), format!("{} {:?}", record.text(), record.headers)));
    }
    assert_eq!(daemon.terminate(), Some(0));
    assert!(daemon.log().iter().any(|line| line.contains("TRACE")), "the most talkative level");
    said.push(("the log".to_owned(), daemon.log().join("\n")));

    // Refused by MySQL, and by Kafka, which speaks no SASL.
    let refused = [
        secretive("canary-of-mysql-7f3a, wrong"),
        config.replace(
            "\"sasl.password\"",
            "\"security.protocol\" = \"SASL_PLAINTEXT\"\n\"sasl.mechanism\" = \"PLAIN\"\n\"sasl.username\" = \"u\"\n\"sasl.password\"",
        ),
    ];
    for config in &refused {
        for command in [&["check", "--connect"][..], &["check", "--connect", "--json"]] {
            let ran = Daemon::command(command, config, &environment);
            assert_eq!(ran.code, Some(3), "{}", ran.stderr);
            said.push((format!("{command:?}"), ran.stdout + &ran.stderr));
        }
    }
    let mut daemon = Daemon::start(&refused[0], &environment);
    assert_eq!(daemon.wait_exit(), Some(3));
    said.push(("the log of a refused login".to_owned(), daemon.log().join("\n")));
    for command in [&["plan"][..], &["plan", "--json"], &["check"]] {
        let ran = Daemon::command(command, &config, &environment);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        said.push((format!("{command:?}"), ran.stdout + &ran.stderr));
    }
    // As values of keys that take no such value, and with a file that is no TOML.
    for (from, to) in [
        ("tls      = \"disabled\"", "tls = \"${MYSQL_PASSWORD}\""),
        ("name = ", "name: "),
        ("token = \"", "tokem = \""),
        ("listen = \"127.0.0.1:0\"", "listen = \"${HTTP_TOKEN}\""),
    ] {
        assert!(config.contains(from), "{from}");
        let ran = Daemon::command(&["run"], &config.replace(from, to), &environment);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        said.push((to.to_owned(), ran.stdout + &ran.stderr));
    }
    for (place, text) in said {
        for canary in CANARIES {
            assert!(!text.contains(canary), "{canary} in {place}:\n{text}");
        }
    }
}

#[track_caller]
fn daemon_says(daemon: &Daemon, parts: &[&str]) {
    for part in parts {
        wait_for(&format!("{part:?} in the log"), Duration::from_secs(5), || {
            if daemon.log().iter().any(|line| line.contains(part)) { Ok(()) } else { Err(daemon.log().join("\n")) }
        });
    }
}
