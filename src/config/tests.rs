//! What holds for configurations as a whole: the cases of `fixtures/config`, the reference file, secrets, any text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::file::{File, Section, document};
use super::{Errors, Plan, Surroundings, describe, describe_json, parse_in, sections};

/// Never shown by anything.
const CANARY: &str = "canary-4711-password";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn variable(name: &str) -> Option<String> {
    match name {
        "MYSQL_PASSWORD" | "KAFKA_PASSWORD" | "LARDER_P12_PASSWORD" | "LARDER_TOKEN" | "CANARY" => Some(CANARY.to_owned()),
        "REGION" => Some("eu".to_owned()),
        "DOLLAR" => Some("$record.secret".to_owned()),
        _ => None,
    }
}

fn parse(text: &str, place: &str, folder: &Path) -> Result<Plan, Errors> {
    parse_in(text, place, &Surroundings { folder, host: "host-1".to_owned(), variable: &variable })
}

/// Compares with a file; `LARDER_ACCEPT=1` writes it instead.
fn hold(path: &Path, text: &str) {
    if std::env::var_os("LARDER_ACCEPT").is_some() {
        fs::write(path, text).expect("write the expected output");
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(expected == text, "{} differs; LARDER_ACCEPT=1 accepts what is now:\n{text}", path.display());
}

/// `NAME.toml` gives `NAME.err` (the errors), or `NAME.plan` and `NAME.json` (what will run).
#[test]
fn cases_give_what_stands_beside_them() {
    let folder = root().join("fixtures/config");
    let mut cases: Vec<PathBuf> = fs::read_dir(&folder).expect("fixtures").map(|entry| entry.expect("entry").path()).collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    cases.sort();
    assert!(cases.len() >= 10, "the cases are there");
    for case in cases {
        let place = case.file_name().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&case).expect("read the case");
        match parse(&text, &place, &folder) {
            Ok(plan) => {
                let json = serde_json::to_string_pretty(&describe_json(&plan)).expect("JSON");
                assert!(!json.contains(CANARY) && !describe(&plan).contains(CANARY), "{place}: a secret is shown");
                hold(&case.with_extension("plan"), &describe(&plan));
                hold(&case.with_extension("json"), &(json + "\n"));
                assert!(!case.with_extension("err").exists(), "{place}: is right, but has expected errors");
            }
            Err(errors) => {
                assert!(!format!("{errors} {errors:?}").contains(CANARY), "{place}: a secret is shown");
                assert!(errors.0.iter().all(|error| error.place.starts_with(&place)), "{place}: errors have places");
                hold(&case.with_extension("err"), &format!("{errors}\n"));
                assert!(!case.with_extension("plan").exists(), "{place}: is wrong, but has an expected plan");
            }
        }
    }
}

// --- the reference file ---

fn reference() -> String {
    fs::read_to_string(root().join("docker/larder.toml")).expect("the reference file")
}

/// With the keys that have no default: `#key = …` without its `#`.
fn reference_in_full() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '"') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    reference().lines().map(uncomment).collect()
}

/// Stands for the folder of the reference file; has the files that it names.
fn folder_with_certificates() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("larder-config-{}", std::process::id()));
    fs::create_dir_all(folder.join("tls")).expect("a folder");
    for file in ["tls/mysql-ca.pem", "tls/larder.p12"] {
        fs::write(folder.join(file), "").expect("a file");
    }
    folder
}

fn shown(table: &toml::Table) -> Result<String, Errors> {
    let text = toml::to_string(table).expect("TOML");
    parse(&text, "larder.toml", root()).map(|plan| format!("{plan:#?}"))
}

/// Paths of all values in `table`, but not into templates.
fn leaves(table: &toml::Table, below: &[String], found: &mut Vec<Vec<String>>) {
    for (key, value) in table {
        let path = [below, std::slice::from_ref(key)].concat();
        match value {
            toml::Value::Table(table) if !["client", "value", "headers"].contains(&key.as_str()) => leaves(table, &path, found),
            _ => found.push(path),
        }
    }
}

fn without(table: &toml::Table, path: &[String]) -> toml::Table {
    let mut table = table.clone();
    match path {
        [key] => _ = table.remove(key),
        [key, rest @ ..] => {
            let inner = without(table[key].as_table().expect("a table"), rest);
            table.insert(key.clone(), toml::Value::Table(inner));
        }
        [] => {}
    }
    table
}

/// The dotted path with `*` for the names of tables, streams and joins.
fn pattern(path: &[String]) -> String {
    let star = |i: usize| i > 0 && matches!(path[i - 1].as_str(), "tables" | "streams" | "join");
    path.iter().enumerate().map(|(i, key)| if star(i) { "*" } else { key.as_str() }).collect::<Vec<_>>().join(".")
}

/// What the reader of the reference file replaces; every other value in it is the default.
const EXAMPLES: [&str; 14] = [
    "name",
    "mysql.address",
    "mysql.user",
    "mysql.password",
    "kafka.brokers",
    "tables.*.mysql",
    "tables.*.publish.topic",
    "streams.*.from",
    "streams.*.each",
    "streams.*.join.*.table",
    "streams.*.join.*.key",
    "streams.*.to.topic",
    "streams.*.to.key",
    "streams.*.to.value",
];

#[test]
fn the_reference_file_shows_the_defaults() {
    let table: toml::Table = reference().parse().expect("TOML");
    let whole = shown(&table).unwrap_or_else(|errors| panic!("{errors}"));
    let mut paths = Vec::new();
    leaves(&table, &[], &mut paths);
    let mut examples = BTreeSet::new();
    for path in paths {
        let pattern = pattern(&path);
        let is_default = shown(&without(&table, &path)).is_ok_and(|plan| plan == whole);
        // Secrets look alike; an empty section says nothing.
        let blank = pattern == "mysql.password" || ["kafka.client", "streams.*.to.headers"].contains(&pattern.as_str());
        let example = EXAMPLES.contains(&pattern.as_str());
        assert!(blank || is_default != example, "docker/larder.toml: {pattern} {} the default", if is_default { "is" } else { "is not" });
        if example {
            examples.insert(pattern);
        }
    }
    assert_eq!(examples, EXAMPLES.iter().map(|key| (*key).to_owned()).collect(), "EXAMPLES stand in the file");
}

#[test]
fn the_reference_file_has_every_key() {
    let text = reference_in_full();
    let folder = folder_with_certificates();
    let around = Surroundings { folder: &folder, host: "host-1".to_owned(), variable: &variable };
    let file = File::new(&text, "larder.toml", &around);
    let table = document(&text, &file).unwrap_or_default();
    let plan = sections::plan(Section::root(&file, &table));
    let asked = file.asked.take();
    if let Err(errors) = file.settle(Some(plan)) {
        panic!("{errors}");
    }
    fs::remove_dir_all(&folder).expect("remove the folder");

    let mut paths = Vec::new();
    leaves(&text.parse().expect("TOML"), &[], &mut paths);
    let mut written = BTreeSet::new();
    for path in paths {
        (1..=path.len()).for_each(|end| _ = written.insert(pattern(&path[..end])));
    }
    let missing: Vec<&String> = asked.difference(&written).collect();
    assert!(asked.len() > 50 && missing.is_empty(), "docker/larder.toml lacks {missing:?}");
    for property in sections::client_properties() {
        assert!(text.contains(property), "docker/larder.toml does not name the client property {property}");
    }
}

#[test]
fn the_applications_load() {
    for app in fs::read_dir(root().join("apps")).expect("apps") {
        let folder = app.expect("entry").path();
        let text = fs::read_to_string(folder.join("larder.toml")).expect("a configuration");
        let place = folder.join("larder.toml").display().to_string();
        parse(&text, &place, &folder).unwrap_or_else(|errors| panic!("{errors}"));
    }
}

// --- single rules ---

const HEAD: &str = "name = \"shop\"\ninstance = \"a\"\n[mysql]\naddress = \"db\"\nuser = \"u\"\n[kafka]\nbrokers = \"k:9092\"\n";

fn errors(text: &str) -> Vec<String> {
    match parse(&format!("{HEAD}{text}"), "f", root()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.0.iter().map(|error| format!("{}: {}", error.key, error.message)).collect(),
    }
}

#[test]
fn joins_and_templates_keep_the_order_of_the_file() {
    let text = format!(
        "{HEAD}[tables.a]\nmysql = \"s.a\"\n[tables.b]\nmysql = \"s.b\"\n[streams.s]\nfrom = \"in\"\nto.topic = \"out\"\n\
         [streams.s.join.z]\ntable = \"b\"\nkey = \"record.id\"\n[streams.s.join.y]\ntable = \"a\"\nkey = [\"z.a_id\"]\n\
         [streams.s.to.value]\nz = \"$z.one\"\na = \"$y.two\"\nm = \"$record.m\"\n"
    );
    let plan = parse(&text, "f", root()).unwrap_or_else(|errors| panic!("{errors}"));
    let stream = &plan.streams[0];
    assert_eq!(stream.joins.iter().map(|join| (join.name.as_str(), join.table.index())).collect::<Vec<_>>(), [("z", 1), ("y", 0)]);
    let steps: Vec<_> = stream.value.as_ref().expect("a value").paths().iter().map(|path| path.steps.join(".")).collect();
    assert_eq!(steps, ["one", "two", "m"]);
    assert_eq!(plan.tables[0].needed, [("two".to_owned(), "streams.s.to.value.a".to_owned())]);
    let needed = [("a_id", "streams.s.join.y.key.0"), ("one", "streams.s.to.value.z")].map(|(c, k)| (c.to_owned(), k.to_owned()));
    assert_eq!(plan.tables[1].needed, needed);
}

#[test]
fn the_environment_brings_no_template_paths() {
    let table = "[tables.t]\nmysql = \"s.t\"\n[streams.s]\nfrom = \"in\"\nto.topic = \"out\"\n";
    let paths = |value: &str| {
        let plan = parse(&format!("{HEAD}{table}to.value = {value}\n"), "f", root()).unwrap_or_else(|errors| panic!("{errors}"));
        plan.streams[0].value.as_ref().expect("a value").paths().len()
    };
    assert_eq!(paths("\"${DOLLAR}\""), 0, "a literal, whatever it begins with");
    assert_eq!(paths("\"$record.${REGION}\""), 1, "part of a path that is written as one");
}

#[test]
fn a_listening_address_that_others_reach_needs_a_token() {
    let http = |text: &str| errors(&format!("[tables.t]\nmysql = \"s.t\"\n[http]\n{text}\n"));
    for fine in
        ["listen = \"[::1]:80\"", "listen = \"localhost:80\"", "listen = \"\"", "listen = \"0.0.0.0:80\"\ntoken = \"0123456789abcdef\""]
    {
        assert_eq!(http(fine), Vec::<String>::new(), "{fine}");
    }
    for open in ["0.0.0.0:80", "[::]:80", "192.168.0.1:80", "[::ffff:10.0.0.1]:80"] {
        assert_eq!(http(&format!("listen = \"{open}\"")), ["http.listen: other machines could reach it without a token"]);
    }
    assert_eq!(http("token = \"0123456789abcde\""), ["http.token: is too short"]);
}

#[test]
fn limits_must_fit_each_other() {
    let limits = |text: &str| errors(&format!("[tables.t]\nmysql = \"s.t\"\n[limits]\n{text}\n")).join("; ");
    assert!(limits("commit_interval = \"6s\"").starts_with("limits.commit_interval: Kafka would abort"));
    assert!(limits("transaction_timeout = \"15m\"").starts_with("limits.transaction_timeout: after a crash"));
    assert!(limits("message_bytes = \"100 MiB\"").starts_with("limits.message_bytes: the queue would not hold"));
    assert_eq!(limits("message_bytes = \"100 MiB\"\nqueue_bytes = \"100 MiB\""), "");
}

#[test]
fn client_properties_that_carry_promises_are_refused() {
    for property in
        ["group.id", "isolation.level", "plugin.library.paths", "ssl.engine.location", "sasl.oauthbearer.token.endpoint.url", "ssl.key.pem"]
    {
        let errors = errors(&format!("client.\"{property}\" = \"x\"\n[tables.t]\nmysql = \"s.t\"\n"));
        assert!(errors.len() == 1 && errors[0].contains("cannot be set: "), "{property}: {errors:?}");
    }
}

#[test]
fn lines_are_counted_whatever_ends_them() {
    let text = "\u{feff}name = \"shop\"\r\nkafka.brokers = \"k\"\r\n[streams.a]\r\nfrom = \"a\"\r\nto.topic = \"b\"\r\nx = 1";
    let errors = parse(text, "f", root()).expect_err("an unknown key");
    assert_eq!(errors.0.iter().map(|error| (error.place.as_str(), error.key.as_str())).collect::<Vec<_>>(), [("f:6", "streams.a.x")]);
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let errors = super::load(Path::new("no/such/larder.toml")).expect_err("no plan");
    assert!(errors.to_string().starts_with("no/such/larder.toml: cannot be read: "), "{errors}");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        let _ = parse(&text, "f", root());
    }

    /// Damage the reference file: more of it is reached than by chance alone.
    #[test]
    fn any_damage_is_read_or_refused(at in 0usize..12_000, length in 0usize..40, text in "[\\PC\n]{0,12}") {
        let reference = reference_in_full();
        let floor = |at: usize| (0..=at.min(reference.len())).rev().find(|at| reference.is_char_boundary(*at)).unwrap_or(0);
        let (start, end) = (floor(at), floor(at + length));
        if let Err(errors) = parse(&format!("{}{text}{}", &reference[..start], &reference[end..]), "f", root()) {
            prop_assert!(!errors.0.is_empty() && !errors.to_string().contains(CANARY));
        }
    }
}
