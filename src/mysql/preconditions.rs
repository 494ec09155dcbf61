//! What must hold before a capture starts: all that does not is reported at once (exit 3).

use std::collections::HashMap;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::catalogue;
use super::connect::{self, Error, quote};
use super::mariadb;
use crate::config::plan::{MysqlPlan, TablePlan};

/// One thing that prevents a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub what: String,
    pub remedy: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// What a look at the server found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub failures: Vec<Failure>,
    pub warnings: Vec<String>,
}

impl Report {
    fn fail(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.failures.push(Failure { what: what.into(), remedy: remedy.into() });
    }
}

/// What the capture needs to know of the server besides.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerInfo {
    /// Names of tables compare without case (`lower_case_table_names`).
    pub fold_case: bool,
    /// How long binlog files stay after their last write; `None` for ever.
    pub log_expiry: Option<Duration>,
}

/// Connects and looks; a server that cannot be reached is one more failure. For `larder check --connect`.
pub async fn check(mysql: &MysqlPlan, tables: &[TablePlan]) -> Report {
    let inspected = async { inspect(&mut connect::connect(mysql).await?, mysql, tables).await };
    match inspected.await {
        Ok((report, _)) => report,
        Err(error) => {
            let mut report = Report::default();
            report.fail(format!("MySQL at {}:{}: {error}", mysql.host, mysql.port), unreachable_remedy(&error));
            report
        }
    }
}

/// What to do when the server refuses us or cannot be reached.
pub fn unreachable_remedy(error: &Error) -> &'static str {
    match error {
        Error::Refused(text) if text.contains("TLS") || text.contains("certificate") || text.contains("SSL") => {
            "correct mysql.tls, mysql.tls_ca or the server's certificate"
        }
        Error::Refused(text) if text.contains("authentication plugin") => {
            "correct mysql.user (a server answers so for a user it does not know), or give the user caching_sha2_password"
        }
        Error::Refused(_) => "correct mysql.user and mysql.password, or the user's rights",
        _ => "correct mysql.address, or start the server",
    }
}

/// Looks at everything on an open connection.
pub async fn inspect(connection: &mut Conn, mysql: &MysqlPlan, tables: &[TablePlan]) -> Result<(Report, ServerInfo), Error> {
    let mut report = Report::default();
    let variables = variables(connection).await?;
    let variable = |name: &str| variables.get(name).map_or("", String::as_str);
    settings(&mut report, mysql, &variables, connect::is_mariadb(connection));
    rights(&mut report, connection, mysql, tables).await?;
    for plan in tables {
        table(&mut report, connection, plan).await?;
    }
    let fold_case = !matches!(variable("lower_case_table_names"), "" | "0");
    Ok((report, ServerInfo { fold_case, log_expiry: connect::log_expiry(connection).await? }))
}

async fn variables(connection: &mut Conn) -> Result<HashMap<String, String>, Error> {
    let rows: Vec<(String, String)> = connection
        .query(
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_format', 'binlog_row_image', 'binlog_row_metadata', 'server_id', \
             'binlog_expire_logs_seconds', 'lower_case_table_names')",
        )
        .await?;
    Ok(rows.into_iter().collect())
}

fn settings(report: &mut Report, mysql: &MysqlPlan, variables: &HashMap<String, String>, mariadb: bool) {
    let variable = |name: &str| variables.get(name).map_or("", String::as_str);
    let set = |name: &str, value: &str| {
        if mariadb {
            format!("SET GLOBAL {name} = {value}, the same in the server's option file")
        } else {
            format!("SET PERSIST {name} = {value}")
        }
    };
    if variable("log_bin") != "ON" {
        report.fail("the server writes no binlog", "start it with log_bin");
    }
    for (name, wanted) in [("binlog_format", "ROW"), ("binlog_row_image", "FULL")] {
        // A server that no longer has the variable has no other value either.
        let found = variable(name);
        if !found.is_empty() && found != wanted {
            report.fail(format!("{name} is {found}"), format!("{}, and let open sessions reconnect", set(name, wanted)));
        }
    }
    let metadata = variable("binlog_row_metadata");
    if metadata != "FULL" {
        report.warnings.push(format!(
            "binlog_row_metadata is {metadata}: names of columns come from the catalogue, and some ALTER statements make tables be read again; {}",
            set("binlog_row_metadata", "FULL")
        ));
    }
    if variable("server_id") == "0" {
        report.fail("the server's server_id is 0, so nobody may replicate from it", set("server_id", "1"));
    } else if variable("server_id") == mysql.server_id.to_string() {
        report.fail(format!("mysql.server_id {} is the server's own", mysql.server_id), "choose another mysql.server_id");
    }
    if let Ok(seconds @ 1..3600u64) = variable("binlog_expire_logs_seconds").parse() {
        report.warnings.push(format!(
            "binlogs are purged after {seconds} s (binlog_expire_logs_seconds): an interruption longer than that cannot be made up for"
        ));
    }
}

/// Rights are tried out, as roles, wildcards and partial revokes make lists of grants hard to read.
async fn rights(report: &mut Report, connection: &mut Conn, mysql: &MysqlPlan, tables: &[TablePlan]) -> Result<(), Error> {
    let user = &mysql.user;
    let shown: Result<Option<mysql_async::Row>, _> = connection.query_first(connect::status_statement(connection)).await;
    match shown.map_err(Error::from) {
        Ok(row) => {
            let filter = |index| row.as_ref().and_then(|row| row.get_opt::<String, _>(index)).and_then(Result::ok).unwrap_or_default();
            filtered(report, tables, &filter(2), &filter(3));
        }
        Err(Error::Refused(text)) => {
            report.fail(format!("{user} may not see the binlog's position: {text}"), format!("GRANT REPLICATION CLIENT ON *.* TO {user}"))
        }
        Err(error) => return Err(error),
    }
    if connect::is_mariadb(connection) {
        if !mariadb::may_replicate(connection).await? {
            report.fail(format!("{user} may not read the binlog"), format!("GRANT REPLICATION SLAVE ON *.* TO {user}"));
        }
        return Ok(());
    }
    let replicas = if connection.server_version() >= (8, 0, 22) { "SHOW REPLICAS" } else { "SHOW SLAVE HOSTS" };
    match connection.query_drop(replicas).await.map_err(Error::from) {
        Ok(()) => {}
        Err(Error::Refused(text)) => {
            report.fail(format!("{user} may not read the binlog: {text}"), format!("GRANT REPLICATION SLAVE ON *.* TO {user}"))
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Databases that the server keeps out of its binlog (`binlog_do_db`, `binlog_ignore_db`).
fn filtered(report: &mut Report, tables: &[TablePlan], only: &str, ignored: &str) {
    let mut databases: Vec<&str> = tables.iter().map(|plan| plan.database.as_str()).collect();
    databases.sort_unstable();
    databases.dedup();
    let lists = |list: &str, database: &str| list.split(',').any(|name| name == database);
    for database in databases {
        if !only.is_empty() && !lists(only, database) || lists(ignored, database) {
            report.fail(
                format!("the server keeps changes of {database} out of its binlog"),
                "take it out of binlog_ignore_db, or add it to binlog_do_db",
            );
        }
    }
}

async fn table(report: &mut Report, connection: &mut Conn, plan: &TablePlan) -> Result<(), Error> {
    let source = format!("{}.{}", plan.database, plan.table);
    match connection
        .query_drop(format!("SELECT * FROM {}.{} LIMIT 0", quote(&plan.database), quote(&plan.table)))
        .await
        .map_err(Error::from)
    {
        // A missing table is described better by the catalogue.
        Ok(()) | Err(Error::NoTable(_)) => {}
        Err(Error::Refused(text)) => {
            report.fail(format!("{source} may not be read: {text}"), format!("GRANT SELECT ON {source} TO its user, or correct the name"));
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    match catalogue::table(connection, plan).await? {
        Ok(_) => {}
        Err(problems) => problems.into_iter().for_each(|problem| report.fail(problem.what, problem.remedy)),
    }
    Ok(())
}
