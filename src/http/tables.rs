//! `/api/tables` and the rows in them (contract D1, D2).

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Site;
use super::error::Error;
use crate::flow::status::{Overview, time_left};
use crate::model::row::write_string;
use crate::model::{Key, TableId};
use crate::table::{self, Lookup, Tables};

pub async fn list(State(site): State<Arc<Site>>) -> Json<Value> {
    Json(json!({ "tables": describe(&site.overview) }))
}

pub fn describe(overview: &Overview) -> Vec<Value> {
    let position = overview.tables.view().position().to_string();
    let tables = overview.tables.summaries().into_iter().map(|table| {
        let (state, reason) = match table.state {
            table::State::Snapshot { percent } => ("snapshot", Some(format!("{percent} % read{}", time_left(table.remaining)))),
            table::State::Ready => ("ready", None),
            table::State::Stopped { reason, message } => ("stopped", Some(format!("{reason}: {message}"))),
        };
        json!({
            "name": table.name,
            "mysql": table.source,
            "state": state,
            "reason": reason,
            "rows": table.rows,
            "bytes": table.bytes,
            "position": position,
        })
    });
    tables.collect()
}

/// Asks for a table to be read again from MySQL; joins with it hold meanwhile. A stopped table may come back that way.
pub async fn resnapshot(State(site): State<Arc<Site>>, Path(name): Path<String>) -> Result<(StatusCode, Json<Value>), Error> {
    let found = site.overview.tables.view().find(&name);
    let (Some(table), Some(source)) = (found, &site.overview.source) else {
        return Err(Error::not_found(format!("no table \"{name}\"; GET /api/tables lists them")));
    };
    let publisher = site.overview.publisher.as_ref().filter(|_| site.overview.plan.tables[table.index()].publish.is_some());
    if publisher.is_some_and(|publisher| !publisher.is_elected()) {
        return Err(Error::conflict(format!(
            "the changes of table {name} are published by another instance: ask that one (larder_publish_elected is 1 there)"
        )));
    }
    let being_read = matches!(site.overview.tables.view().state(table), table::State::Snapshot { .. });
    if being_read || !source.resnapshots.ask(table) {
        return Err(Error::conflict(format!("table {name} is being read already")));
    }
    if let Some(publisher) = publisher {
        publisher.resnapshots.ask(table);
    }
    tracing::info!(table = name, "table {name} is to be read again, asked for over HTTP");
    let described = describe(&site.overview).into_iter().nth(table.index()).unwrap_or_default();
    Ok((StatusCode::ACCEPTED, Json(described)))
}

/// One row as the joins see it, with the position it belongs to; of a bounded table it is read from MySQL if need be.
pub async fn row(State(site): State<Arc<Site>>, path: Result<Path<(String, String)>, PathRejection>) -> Result<Response, Error> {
    let Path((name, key)) = path.map_err(|rejection| Error::bad_parameter(rejection.body_text()))?;
    let mut pins = None;
    let deadline = Instant::now() + PATIENCE_FOR_ROW;
    loop {
        match look_up(&site.overview.tables, &name, &key)? {
            Found::Row(response) => return Ok(response),
            Found::Unknown(table, key) => match &pins {
                None => {
                    let asked = site.overview.tables.pin(vec![(table, key)]);
                    asked.urge();
                    pins = Some(asked);
                }
                Some(_) if Instant::now() > deadline => {
                    return Err(Error::unavailable(format!("MySQL did not give the row of table {name} in time")));
                }
                Some(_) => tokio::time::sleep(LOOK_AGAIN).await,
            },
        }
    }
}

/// Longest wait for a row of a bounded table, and how often it is looked for meanwhile.
const PATIENCE_FOR_ROW: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

enum Found {
    Row(Response),
    /// To be read from MySQL.
    Unknown(TableId, Key),
}

fn look_up(tables: &Tables, name: &str, key: &str) -> Result<Found, Error> {
    let view = tables.view();
    let table = view.find(name).ok_or_else(|| Error::not_found(format!("no table \"{name}\"; GET /api/tables lists them")))?;
    let key = key_bytes(key, view.schema(table).key.len())?;
    match view.lookup(table, &key) {
        Lookup::Row(row) => {
            let mut response = ([(CONTENT_TYPE, "application/json")], row.json().to_vec()).into_response();
            if let Ok(position) = HeaderValue::from_str(&view.position().to_string()) {
                response.headers_mut().insert("larder-position", position);
            }
            Ok(Found::Row(response))
        }
        Lookup::Unknown => Ok(Found::Unknown(table, Key::new(key))),
        Lookup::Missing => Err(Error::not_found(format!("table {name} has no row {}", String::from_utf8_lossy(&key)))),
        Lookup::NotReady => Err(Error::unavailable(match view.state(table) {
            table::State::Stopped { reason, message } => format!("table {name} is stopped, {reason}: {message}"),
            _ => format!("table {name} is being read"),
        })),
    }
}

/// One key column: its text; several: a JSON array in key order, put into the canonical form of [`Key`].
fn key_bytes(text: &str, key_columns: usize) -> Result<Vec<u8>, Error> {
    if key_columns < 2 {
        return Ok(text.as_bytes().to_vec());
    }
    let wrong =
        || Error::bad_parameter(format!("the key has {key_columns} columns: give a percent-encoded JSON array of {key_columns} values"));
    let parts: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| wrong())?;
    if parts.len() != key_columns {
        return Err(wrong());
    }
    let mut fragments = Vec::with_capacity(parts.len());
    for part in parts {
        let mut fragment = part.get().as_bytes().to_vec();
        if fragment.first() == Some(&b'"') {
            let plain: String = serde_json::from_str(part.get()).map_err(|_| wrong())?;
            fragment.clear();
            write_string(&mut fragment, &plain);
        }
        fragments.push(fragment);
    }
    Ok(Key::from_fragments(fragments.iter().map(Vec::as_slice)).as_bytes().to_vec())
}
