//! HTTP: health, metrics, status, rows, pause and resume (contract D). Loopback unless configured; errors are JSON
//! `{"error":{"code","message"}}`.

mod audits;
mod error;
mod guard;
mod health;
mod server;
mod status;
mod streams;
mod tables;

pub use server::{Server, bind};

use axum::Router;
use axum::routing::{get, post};
use std::sync::Arc;

use crate::config::plan::HttpPlan;
use crate::flow::status::Overview;
use crate::metrics::Metrics;

/// What the routes look at.
pub(crate) struct Site {
    pub overview: Arc<Overview>,
    pub metrics: Metrics,
    /// The plan with secrets masked.
    pub config: serde_json::Value,
}

/// All routes. `guard` asks for the token and the origin before any of them runs.
fn router(site: Arc<Site>, plan: &HttpPlan) -> Router {
    Router::new()
        .route("/", get(status::index))
        .route("/live", get(health::live))
        .route("/ready", get(health::ready))
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/api/status", get(status::status))
        .route("/api/config", get(status::config))
        .route("/api/feeds", get(status::feeds))
        .route("/api/tables", get(tables::list))
        .route("/api/tables/{table}/rows/{key}", get(tables::row))
        .route("/api/tables/{table}/resnapshot", post(tables::resnapshot))
        .route("/api/tables/{table}/audit", post(audits::ask))
        .route("/api/audits", get(audits::list))
        .route("/api/streams", get(streams::list))
        .route("/api/streams/{stream}/pause", post(streams::pause))
        .route("/api/streams/{stream}/resume", post(streams::resume))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(Arc::new(guard::Guard::new(plan)), guard::check))
        .layer(axum::extract::DefaultBodyLimit::max(plan.body_bytes))
        .with_state(site)
}
