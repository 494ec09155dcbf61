//! `/live`, `/ready`, `/metrics`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use std::sync::Arc;

use super::Site;

/// 200 while the process can serve.
pub async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

/// 200, or 503 with what is awaited (contract D4).
pub async fn ready(State(site): State<Arc<Site>>) -> impl IntoResponse {
    let awaited = site.overview.awaited();
    if awaited.is_empty() {
        (StatusCode::OK, Json(json!({ "ready": true })))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false, "waiting": awaited })))
    }
}

pub async fn metrics(State(site): State<Arc<Site>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], site.metrics.render())
}
