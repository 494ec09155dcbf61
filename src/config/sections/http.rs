//! `[http]`: the server for health, metrics and tables.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::config::Secret;
use crate::config::file::{Section, Text};
use crate::config::plan::HttpPlan;

/// Contract D9.
const TOKEN_BYTES: usize = 16;
const PORT: u16 = 8080;

pub(super) fn read(section: Section<'_>) -> HttpPlan {
    let listen = match section.text("listen") {
        Some(text) if text.text.is_empty() => None,
        Some(text) => Some(address(&section, &text)),
        None => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))),
    };
    let token = section.text("token");
    if let Some(text) = &token
        && text.text.len() < TOKEN_BYTES
    {
        let remedy = format!("give {TOKEN_BYTES} bytes or more of chance, for instance from `openssl rand -hex 16`");
        section.file().fault(&text.at, "is too short", remedy);
    }
    if let Some(text) = &token
        && !text.text.bytes().all(|b| b.is_ascii_graphic())
    {
        section.file().fault(&text.at, "cannot stand in an HTTP header", "use ASCII letters, digits and signs, no white space");
    }
    if let Some(listen) = listen
        && !listen.ip().to_canonical().is_loopback()
        && !section.has("token")
    {
        let remedy = "set `http.token`, or listen on 127.0.0.1";
        section.file().fault(&section.at_key("listen"), "other machines could reach it without a token", remedy);
    }
    let plan = HttpPlan {
        listen,
        token: token.map(|text| Secret::new(text.text)),
        body_bytes: section.size("body", 1 << 20, 1 << 10..=1 << 30),
        // hyper does not read heads into less.
        header_bytes: section.size("headers", 16 << 10, 8 << 10..=1 << 20),
        connections: section.integer("connections", 256, 1..=65_536) as usize,
        header_timeout: section.duration("header_timeout", Duration::from_secs(10), Duration::from_millis(100)..=Duration::from_secs(600)),
    };
    section.close();
    plan
}

/// An IP address with a port, or `localhost` with one; loopback where it is at fault, so that no other check follows.
fn address(section: &Section<'_>, text: &Text) -> SocketAddr {
    let numeric = text.text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(&text.text).parse().unwrap_or_else(|_| {
        let remedy = "write an IP address and a port: \"127.0.0.1:8080\", \"0.0.0.0:8080\", or \"\" for no server";
        section.file().fault(&text.at, format!("{} is no address to listen on", text.quoted()), remedy);
        SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
    })
}
