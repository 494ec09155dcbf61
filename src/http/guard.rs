//! Who may ask: the token (contract D9), and for POST the same origin.

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

use super::error::Error;
use crate::config::Secret;
use crate::config::plan::HttpPlan;

pub struct Guard {
    token: Option<Secret>,
}

/// Paths that probes and scrapers read without a token.
const OPEN: [&str; 5] = ["/live", "/ready", "/healthz", "/readyz", "/metrics"];

impl Guard {
    pub fn new(plan: &HttpPlan) -> Self {
        Self { token: plan.token.clone() }
    }

    fn may(&self, request: &Request) -> Result<(), Error> {
        if let Some(token) = &self.token
            && !OPEN.contains(&request.uri().path())
        {
            let given = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
            if !given.is_some_and(|given| same(given.as_bytes(), token.reveal().as_bytes())) {
                return Err(Error::unauthorized("this needs the header Authorization: Bearer <http.token>"));
            }
        }
        if request.method() == Method::POST
            && let Some(origin) = request.headers().get(ORIGIN)
        {
            let host = request.headers().get(HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
            let own = origin.to_str().ok().and_then(|o| o.split_once("://")).is_some_and(|(_, authority)| authority == host);
            if !own {
                return Err(Error::forbidden("a page of another origin may not change anything here"));
            }
        }
        Ok(())
    }
}

/// Compares in time that does not depend on where the texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (x, y)| different | (x ^ y)) == 0
}

pub async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.may(&request) {
        Ok(()) => {
            let mut response = next.run(request).await;
            response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
            response
        }
        Err(error) => error.into_response(),
    }
}
