//! Rows of the past against a real MySQL: what a row was by the server's own clock.

use std::sync::Arc;
use std::time::Duration;

use larder::config;
use larder::flow::capture;
use larder::model::TableId;
use larder::mysql::SourceStatus;
use larder::table::history::AsOf;
use larder::table::{State, Tables};
use tokio::sync::watch;

use crate::support::{Mysql, unique, wait_for};

const SOON: Duration = Duration::from_secs(30);
const TABLE: TableId = TableId(0);

#[test]
fn rows_are_what_they_were_by_the_clock_of_the_server() {
    let mysql = Mysql::shared();
    let database = mysql.database("history");
    let items = format!("{database}.items");
    mysql.exec(&format!(
        "create table {items} (id int primary key, name varchar(50)); insert into {items} values (1, 'first'), (2, 'second')"
    ));
    let server_id = 300_000_000 + std::process::id();
    let text = format!(
        "name = \"{}\"\n{}server_id = {server_id}\nheartbeat = \"1s\"\n[kafka]\nbrokers = \"127.0.0.1:1\"\n[tables.items]\nmysql = \"{items}\"\n",
        unique("history"),
        mysql.config()
    );
    let plan = config::parse(&text, "test.toml", std::path::Path::new("")).unwrap_or_else(|errors| panic!("{errors}"));
    let tables = Arc::new(Tables::new([("items".to_owned(), items.clone())]));
    tables.keep_history(TABLE, u64::MAX, 1 << 20);
    let (stop, stopped) = watch::channel(false);
    let running = std::thread::spawn({
        let tables = Arc::clone(&tables);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(capture::run(Arc::new(plan), tables, Arc::new(SourceStatus::default()), stopped))
        }
    });
    let ready = || if tables.summaries()[0].state == State::Ready { Ok(()) } else { Err(format!("{:?}", tables.summaries())) };
    wait_for("the table to be ready", SOON, ready);

    // Moments between the changes, by the server.
    let mut session = mysql.session();
    let mut moments = Vec::new();
    for change in [
        String::new(),
        format!("update {items} set name = 'changed' where id = 1"),
        format!("begin; delete from {items} where id = 2; insert into {items} values (2, 'put back'); commit"),
        format!("update {items} set id = 3 where id = 1"),
        format!("truncate table {items}"),
    ] {
        change.split(';').filter(|statement| !statement.is_empty()).for_each(|statement| session.exec(statement));
        // No two in one millisecond.
        session.exec("do sleep(0.01)");
        let now: Vec<u64> = session.rows("select cast(unix_timestamp(now(6)) * 1000000 as unsigned)");
        moments.push(now[0]);
        session.exec("do sleep(0.01)");
    }
    let last = moments[moments.len() - 1];
    wait_for("the last moment to be known", SOON, || match tables.view().row_as_of(TABLE, b"1", last) {
        AsOf::NotYet(known) => Err(format!("known until {known}, not {last}")),
        _ => Ok(()),
    });
    let found: Vec<Vec<String>> = moments
        .iter()
        .map(|&moment| {
            let view = tables.view();
            let of = |key: &str| match view.row_as_of(TABLE, key.as_bytes(), moment) {
                AsOf::Row { row, .. } => String::from_utf8_lossy(row.column(1).expect("a name")).into_owned(),
                other => format!("{other:?}"),
            };
            ["1", "2", "3"].map(of).to_vec()
        })
        .collect();
    let expected = [
        ["\"first\"", "\"second\"", "Absent"],
        ["\"changed\"", "\"second\"", "Absent"],
        ["\"changed\"", "\"put back\"", "Absent"],
        ["Absent", "\"put back\"", "\"changed\""],
        ["Absent", "Absent", "Absent"],
    ];
    assert_eq!(found, expected);

    // A statement: the table is read again, and has no past.
    mysql.exec(&format!("insert into {items} values (1, 'again'); alter table {items} add column more int"));
    wait_for("the table to be read again", SOON, || {
        let columns = tables.view().schema(TABLE).columns.len();
        if columns == 3 { ready() } else { Err(format!("{columns} columns")) }
    });
    assert_eq!(tables.view().row_as_of(TABLE, b"1", last), AsOf::TooOld);
    stop.send(true).expect("it still runs");
    running.join().expect("it does not panic").expect("it ends in order");
}
