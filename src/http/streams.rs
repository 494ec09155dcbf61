//! `/api/streams`, pause and resume (contract D6).

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::sync::Arc;

use super::Site;
use super::error::Error;
use crate::flow::status::{self, StreamStatus};

pub async fn list(State(site): State<Arc<Site>>) -> Json<Value> {
    Json(json!({ "streams": site.overview.streams.iter().map(|s| describe(s)).collect::<Vec<_>>() }))
}

pub async fn pause(State(site): State<Arc<Site>>, Path(name): Path<String>) -> Result<Json<Value>, Error> {
    let stream = find(&site, &name)?;
    stream.pause();
    tracing::info!(stream = name, "stream {name} paused over HTTP");
    Ok(Json(describe(stream)))
}

pub async fn resume(State(site): State<Arc<Site>>, Path(name): Path<String>) -> Result<Json<Value>, Error> {
    let stream = find(&site, &name)?;
    stream.resume();
    tracing::info!(stream = name, "stream {name} resumed over HTTP");
    Ok(Json(describe(stream)))
}

fn find<'a>(site: &'a Site, name: &str) -> Result<&'a StreamStatus, Error> {
    let found = site.overview.streams.iter().find(|s| s.name == name);
    found.map(|s| &**s).ok_or_else(|| Error::not_found(format!("no stream \"{name}\"; GET /api/streams lists them")))
}

pub fn describe(stream: &StreamStatus) -> Value {
    let (state, reason) = match stream.state() {
        status::State::Waiting { awaited } => ("waiting", Some(awaited)),
        status::State::Running => ("running", None),
        status::State::Paused => ("paused", None),
        status::State::Stopped { reason, message } => ("stopped", Some(format!("{reason}: {message}"))),
    };
    json!({
        "name": stream.name,
        "from": stream.from,
        "to": stream.to,
        "state": state,
        "reason": reason,
        "lag": stream.lag(),
        "records": stream.records(),
        "outputs": stream.outputs(),
        "waiting": 0,
        "dead_letters": stream.dead_letters().values().sum::<u64>(),
        "dropped": stream.dropped().values().sum::<u64>(),
    })
}
