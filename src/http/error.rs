//! Errors as JSON, with the closed list of codes of contract D10.

use axum::Json;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};

#[derive(Debug)]
pub struct Error {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Error {
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: "not-found", message: message.into() }
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: "unavailable", message: message.into() }
    }

    pub fn bad_parameter(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "bad-parameter", message: message.into() }
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, code: "unauthorized", message: message.into() }
    }

    /// What is asked for is under way already.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, code: "too-many", message: message.into() }
    }

    /// A page of another origin tried to change something.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, code: "unauthorized", message: message.into() }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": { "code": self.code, "message": self.message } });
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert("www-authenticate", axum::http::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

pub async fn not_found(uri: Uri) -> Error {
    Error::not_found(format!("nothing at {}; GET / lists what there is", uri.path()))
}

pub async fn method_not_allowed(uri: Uri) -> Error {
    Error { status: StatusCode::METHOD_NOT_ALLOWED, code: "not-found", message: format!("{} does not take this method", uri.path()) }
}
