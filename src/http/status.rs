//! `/`, `/api/status`, `/api/config`, `/api/feeds`.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use std::sync::Arc;

use super::{Site, streams, tables};

/// What can be asked.
pub async fn index(State(site): State<Arc<Site>>) -> Json<Value> {
    Json(json!({
        "name": site.overview.plan.name,
        "version": env!("CARGO_PKG_VERSION"),
        "paths": [
            "/live", "/ready", "/metrics", "/api/status", "/api/config", "/api/tables", "/api/tables/{table}/rows/{key}",
            "/api/tables/{table}/resnapshot",
            "/api/tables/{table}/audit",
            "/api/audits",
            "/api/streams", "/api/streams/{stream}/pause", "/api/streams/{stream}/resume", "/api/feeds",
        ],
    }))
}

/// Contract D5.
pub async fn status(State(site): State<Arc<Site>>) -> Json<Value> {
    let overview = &site.overview;
    let source = overview.source.as_ref().map(|source| {
        json!({ "connected": source.connected(), "position": overview.tables.view().position().to_string(), "lag_seconds": source.lag_seconds() })
    });
    Json(json!({
        "name": overview.plan.name,
        "version": env!("CARGO_PKG_VERSION"),
        "ready": overview.awaited().is_empty(),
        "uptime_seconds": overview.started.elapsed().as_secs(),
        "source": source,
        "tables": tables::describe(overview),
        "streams": overview.streams.iter().map(|s| streams::describe(s)).collect::<Vec<_>>(),
        "feeds": [],
        "publisher": overview.publisher.as_ref().map(|publisher| {
            json!({ "elected": publisher.is_elected(), "position": publisher.position(), "lag_seconds": publisher.lag_seconds() })
        }),
    }))
}

/// The plan in force, secrets masked.
pub async fn config(State(site): State<Arc<Site>>) -> Json<Value> {
    Json(site.config.clone())
}

/// Contract D7; this version has no feeds.
pub async fn feeds() -> Json<Value> {
    Json(json!({ "feeds": [] }))
}
