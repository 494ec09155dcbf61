//! Foreign keys that change rows of a captured table by themselves: ON DELETE and ON UPDATE CASCADE or SET NULL. Before MySQL 9.6, and
//! in MariaDB, what they do is not in the binlog (MySQL bug 32506), so that rows would go stale without a word.

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Params};

use super::catalogue::Problem;
use super::connect::Error;
use crate::config::plan::{Cascades, TablePlan};
use crate::model::Reason;

/// The foreign keys of a table whose changes the server does not log, unless the configuration accepts that.
pub async fn problems(connection: &mut Conn, plan: &TablePlan) -> Result<Vec<Problem>, Error> {
    if plan.cascades == Cascades::Ignore {
        return Ok(Vec::new());
    }
    let place = Params::Positional(vec![plan.database.as_str().into(), plan.table.as_str().into()]);
    let constraints: Vec<(String, String, String)> = connection
        .exec(
            "SELECT CONSTRAINT_NAME, UPDATE_RULE, DELETE_RULE FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = ? \
             AND TABLE_NAME = ? AND (UPDATE_RULE IN ('CASCADE', 'SET NULL') OR DELETE_RULE IN ('CASCADE', 'SET NULL')) ORDER BY CONSTRAINT_NAME",
            place,
        )
        .await?;
    if constraints.is_empty() || are_logged(connection).await? {
        return Ok(Vec::new());
    }
    let source = format!("{}.{}", plan.database, plan.table);
    let problem = |(constraint, on_update, on_delete): (String, String, String)| Problem {
        reason: Reason::DdlUnsupported,
        what: format!(
            "foreign key {constraint} changes rows of {source} (ON UPDATE {on_update}, ON DELETE {on_delete}), and this server does not log such changes"
        ),
        remedy: format!("use MySQL 9.6 or later, or set tables.{}.cascades = \"ignore\" to accept stale rows", plan.name),
    };
    Ok(constraints.into_iter().map(problem).collect())
}

/// Whether the server carries foreign keys out above its storage engine, where changes are logged.
async fn are_logged(connection: &mut Conn) -> Result<bool, Error> {
    let version: Option<String> = connection.query_first("SELECT VERSION()").await?;
    if connection.server_version() < (9, 6, 0) || version.is_none_or(|version| version.contains("MariaDB")) {
        return Ok(false);
    }
    let in_engine: Option<(String, String)> = connection.query_first("SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'").await?;
    Ok(in_engine.is_none_or(|(_, value)| value != "ON"))
}
