//! Foreign keys that change rows of a captured table by themselves: ON DELETE and ON UPDATE CASCADE or SET NULL. Before MySQL 9.6, and
//! in MariaDB, what they do is not in the binlog (MySQL bug 32506), so that rows would go stale without a word.

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Params};

use super::catalogue::Problem;
use super::connect::{self, Error};
use super::mariadb;
use crate::config::plan::{Cascades, TablePlan};
use crate::model::Reason;

/// The foreign keys of a table whose changes the server does not log, unless the configuration accepts that.
pub async fn problems(connection: &mut Conn, plan: &TablePlan) -> Result<Vec<Problem>, Error> {
    if plan.cascades == Cascades::Ignore {
        return Ok(Vec::new());
    }
    let constraints = if connect::is_mariadb(connection) {
        mariadb::cascades(connection, &plan.database, &plan.table).await?
    } else {
        of_mysql(connection, plan).await?
    };
    if constraints.is_empty() || are_logged(connection).await? {
        return Ok(Vec::new());
    }
    let source = format!("{}.{}", plan.database, plan.table);
    let remedy = if connect::is_mariadb(connection) { "leave such changes to the application" } else { "use MySQL 9.6 or later" };
    let problem = |(constraint, rules): (String, String)| Problem {
        reason: Reason::DdlUnsupported,
        what: format!("foreign key {constraint} changes rows of {source} ({rules}), and this server does not log such changes"),
        remedy: format!("{remedy}, or set tables.{}.cascades = \"ignore\" to accept stale rows", plan.name),
    };
    Ok(constraints.into_iter().map(problem).collect())
}

/// Name of each constraint, and what it does.
async fn of_mysql(connection: &mut Conn, plan: &TablePlan) -> Result<Vec<(String, String)>, Error> {
    let place = Params::Positional(vec![plan.database.as_str().into(), plan.table.as_str().into()]);
    let constraints = connection
        .exec(
            "SELECT CONSTRAINT_NAME, CONCAT('ON UPDATE ', UPDATE_RULE, ', ON DELETE ', DELETE_RULE) \
             FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = ? AND TABLE_NAME = ? \
             AND (UPDATE_RULE IN ('CASCADE', 'SET NULL') OR DELETE_RULE IN ('CASCADE', 'SET NULL')) ORDER BY CONSTRAINT_NAME",
            place,
        )
        .await?;
    Ok(constraints)
}

/// Whether the server carries foreign keys out above its storage engine, where changes are logged.
async fn are_logged(connection: &mut Conn) -> Result<bool, Error> {
    if connection.server_version() < (9, 6, 0) || connect::is_mariadb(connection) {
        return Ok(false);
    }
    let in_engine: Option<(String, String)> = connection.query_first("SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'").await?;
    Ok(in_engine.is_none_or(|(_, value)| value != "ON"))
}
