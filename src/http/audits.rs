//! `/api/audits`: what the audits of the tables found, and `POST /api/tables/{table}/audit` for one more.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

use super::Site;
use super::error::Error;
use crate::flow::audit::{self, Audit, Kind};

pub async fn list(State(site): State<Arc<Site>>) -> Json<Value> {
    Json(json!({ "audits": site.overview.audits.all().iter().map(describe).collect::<Vec<_>>() }))
}

/// Asks for an audit: 202 with its object, 409 while one is asked for or running.
pub async fn ask(State(site): State<Arc<Site>>, Path(name): Path<String>) -> Result<(StatusCode, Json<Value>), Error> {
    let table = site.overview.tables.view().find(&name);
    let table = table.ok_or_else(|| Error::not_found(format!("no table \"{name}\"; GET /api/tables lists them")))?;
    if site.overview.plan.tables[table.index()].cache.is_some() {
        return Err(Error::conflict(format!(
            "table {name} is bounded: what it holds comes from MySQL when it is needed, so there is nothing to compare"
        )));
    }
    if !site.overview.audits.ask(table) {
        return Err(Error::conflict(format!("table {name} is being audited already")));
    }
    Ok((StatusCode::ACCEPTED, Json(site.overview.audits.get(table).as_ref().map(describe).unwrap_or_default())))
}

/// ```json
/// {"table","state":"idle"/"asked"/"running"/"failed","reason","finished":1700000000,"rows","position","complete",
///  "found","unsettled","differences":[{"key","kind":"missing"/"extra"/"changed","columns":[…]}]}
/// ```
///
/// `finished` and what follows are those of the last audit that was carried through; null before the first.
fn describe(audit: &Audit) -> Value {
    let (state, reason) = match &audit.state {
        audit::State::Idle => ("idle", None),
        audit::State::Asked => ("asked", None),
        audit::State::Running => ("running", None),
        audit::State::Failed { message } => ("failed", Some(message.as_str())),
    };
    let report = audit.report.as_deref();
    let differences = report.map(|report| {
        let difference = |found: &audit::Difference| {
            let columns = if let Kind::Changed { columns } = &found.kind { columns.as_slice() } else { &[] };
            json!({ "key": String::from_utf8_lossy(found.key.as_bytes()), "kind": found.kind.name(), "columns": columns })
        };
        report.differences.iter().map(difference).collect::<Vec<_>>()
    });
    json!({
        "table": audit.table,
        "state": state,
        "reason": reason,
        "finished": audit.finished,
        "rows": report.map(|report| report.rows),
        "position": report.map(|report| &report.position),
        "complete": report.map(|report| report.complete),
        "found": report.map(|report| report.found),
        "unsettled": report.map(|report| report.unsettled),
        "differences": differences,
    })
}
