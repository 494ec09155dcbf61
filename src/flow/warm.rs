//! Warm start: tables from the local store instead of a snapshot, if the server can go on from where the store stands.
//!
//! What always holds: the store is asked before MySQL is, and believed only where rows, identity and position all agree; whatever
//! does not agree is read from MySQL, and nothing but time is lost.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tracing::info;

use crate::config::Plan;
use crate::config::plan::{DecimalForm, InvalidText, MysqlPlan, TablePlan};
use crate::model::{Position, Schema, TableId};
use crate::mysql::connect::{self, Error};
use crate::mysql::render::Shape;
use crate::mysql::resume::{self, Resumed};
use crate::table::Tables;
use crate::table::store::Store;

/// Everything beside a table's columns that the form of its rows depends on, for [`Store::open`].
pub fn identity(plan: &TablePlan) -> String {
    let TablePlan { database, table, columns, key, booleans, decimal, invalid_text, .. } = plan;
    json!({
        "source": [database, table],
        "columns": columns,
        "key": key,
        "booleans": booleans,
        "decimal_number": *decimal == DecimalForm::Number,
        "replace_invalid_text": *invalid_text == InvalidText::Replace,
    })
    .to_string()
}

/// Tables in memory that came from the store.
pub(super) struct Warm {
    /// Where the stream begins.
    pub from: Position,
    /// Where the binlog ends now: the tables are ready when it is reached.
    pub until: Position,
    /// With their columns in MySQL.
    pub tables: Vec<(TableId, Schema)>,
}

/// Puts what the store holds into memory. `None`: it has nothing to use, and every table must be read from MySQL.
pub(super) async fn restore(store: &Store, mysql: &MysqlPlan, plan: &Plan, tables: &Tables) -> Result<Option<Warm>, Error> {
    let began = Instant::now();
    let Some(held) = store.held() else { return Ok(None) };
    let mut connection = connect::connect(mysql).await?;
    let resumed = resume::resumed(&mut connection, &held.from, &held.until).await?;
    let _ = connection.disconnect().await;
    let Resumed { from, now } = match resumed {
        Ok(resumed) => resumed,
        Err(why) => {
            info!("the local store is not used: {why}");
            return Ok(None);
        }
    };
    for (table, source) in &held.tables {
        let plan = &plan.tables[table.index()];
        let Ok(shape) = Shape::new(source, plan) else {
            info!(table = plan.name, "the local store is not used: table {} has columns this version cannot show", plan.name);
            return Ok(None);
        };
        tables.begin_snapshot(*table, Arc::clone(shape.row_schema()));
        tables.set_source(*table, Arc::new(source.clone()));
    }
    if !store.restore(&held, tables) {
        return Ok(None);
    }
    tables.set_at(&held.at, from.clone());
    let (count, seconds) = (held.tables.len(), began.elapsed().as_secs_f64());
    info!(tables = count, seconds, position = %held.from, "{count} tables came from the local store in {seconds:.2} s");
    Ok(Some(Warm { from, until: now, tables: held.tables }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shapes_rows_is_in_the_identity_and_nothing_else() {
        let plan = || TablePlan::new("products", "shop", "products");
        let before = identity(&plan());
        let changes: [fn(&mut TablePlan); 7] = [
            |plan| plan.database = "shop2".into(),
            |plan| plan.table = "users".into(),
            |plan| plan.columns = Some(vec!["id".into()]),
            |plan| plan.key = Some(vec!["id".into()]),
            |plan| plan.booleans = vec!["active".into()],
            |plan| plan.decimal = DecimalForm::Number,
            |plan| plan.invalid_text = InvalidText::Replace,
        ];
        for (index, change) in changes.iter().enumerate() {
            let mut changed = plan();
            change(&mut changed);
            assert_ne!(identity(&changed), before, "change {index}");
        }
        let mut needed = plan();
        needed.needed = vec![("name".into(), "streams.x".into())];
        assert_eq!(identity(&needed), before);
    }
}
