//! A table while it is read: how far its rows are out, and what the window of the views did to its keys.

use std::sync::Arc;

use hashbrown::HashMap;
use mysql_async::Conn;

use super::difference::Standing;
use super::maker::{Kind, Published};
use crate::config::plan::TablePlan;
use crate::model::{Position, TableId, Transaction};
use crate::mysql::catalogue::TableInfo;
use crate::mysql::connect::Error;
use crate::mysql::place::Place;
use crate::mysql::snapshot;

/// A table that is read.
pub struct Reading {
    pub table: TableId,
    pub info: Arc<TableInfo>,
    /// As of when, and how far, rows are out already.
    pub done: Option<(Position, Place)>,
    /// What stands in the topic, where it has to be compared.
    pub published: Option<Standing>,
    pub net: Net,
}

/// What the window did to keys.
#[derive(Default)]
pub struct Net {
    pub keys: HashMap<Box<[u8]>, After>,
    /// All rows from before are gone.
    pub truncated: bool,
}

/// A key at the end of the window.
pub struct After {
    /// `None`: it is gone.
    pub row: Option<Published>,
    pub place: Option<Place>,
}

impl Reading {
    /// Whether rows are out of which this transaction is not.
    pub fn wants(&self, transaction: &Transaction<Published>) -> bool {
        self.done.as_ref().is_some_and(|(at, _)| !at.covers(&transaction.id, &transaction.position))
    }
}

impl Net {
    pub fn take(&mut self, change: &Published) {
        let gone = match change.kind {
            Kind::Truncate => {
                self.keys.clear();
                self.truncated = true;
                return;
            }
            Kind::Move => Some(change.old_key()),
            Kind::Delete => Some(change.key()),
            Kind::Read | Kind::Create | Kind::Update => None,
        };
        if let Some(key) = gone {
            self.keys.insert(key.into(), After { row: None, place: None });
        }
        if let Some(row) = change.as_read() {
            let place = change.places.as_ref().and_then(|places| places.after.clone());
            self.keys.insert(row.key().into(), After { row: Some(row), place });
        }
    }

    /// What a row of the views is at the end of the window.
    pub fn replace(&mut self, row: Published) -> Option<Published> {
        match self.keys.remove(row.key()) {
            Some(after) => after.row,
            None if self.truncated => None,
            None => Some(row),
        }
    }

    /// Takes the rows out that the views do not have, but lie up to a place.
    pub async fn up_to(
        &mut self,
        place: &Place,
        plan: &TablePlan,
        info: &TableInfo,
        connection: &mut Conn,
    ) -> Result<Vec<Published>, Error> {
        let there: Vec<(Box<[u8]>, Place)> =
            self.keys.iter().filter_map(|(key, after)| Some((key.clone(), after.row.as_ref().and(after.place.clone())?))).collect();
        if there.is_empty() {
            return Ok(Vec::new());
        }
        let places: Vec<Place> = there.iter().map(|(_, place)| place.clone()).collect();
        let beyond = snapshot::beyond(connection, plan, info, place, &places).await?;
        let within = there.into_iter().zip(beyond).filter(|(_, beyond)| !beyond);
        Ok(within.filter_map(|((key, _), _)| self.keys.remove(&key)?.row).collect())
    }
}
