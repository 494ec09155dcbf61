//! Commands that ask a running daemon over HTTP: a request, its JSON answer, and `larder audit`.
//!
//! The daemon answers small requests on loopback with a length in front, so this is all of HTTP that is needed.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::Plan;
use crate::config::plan::HttpPlan;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer taken.
const MOST_BYTES: u64 = 64 << 20;

/// Time between two looks at an audit under way.
const LOOK: Duration = Duration::from_millis(200);

/// What `larder audit` prints, and its exit code: 1 with differences, 0 without, 3 where a table could not be audited.
pub struct Audited {
    pub text: String,
    pub code: u8,
}

/// Has the running daemon audit one table, or all of them one after the other, and waits for the end. The error says why it cannot be asked.
pub fn audit(plan: &Plan, table: Option<&str>, as_json: bool) -> Result<Audited, String> {
    let names: Vec<&str> = match table {
        Some(name) => vec![name],
        // A bounded table has nothing to compare.
        None => plan.tables.iter().filter(|table| table.cache.is_none()).map(|table| table.name.as_str()).collect(),
    };
    let mut audits = Vec::new();
    for name in names {
        audits.push(audit_one(&plan.http, name)?);
    }
    let failed = audits.iter().any(|audit| audit["state"] == "failed");
    let found: u64 = audits.iter().map(|audit| audit["found"].as_u64().unwrap_or(0)).sum();
    let code = if found > 0 { 1 } else { u8::from(failed) * 3 };
    let text = if as_json {
        format!("{:#}", json!({ "ok": code == 0, "audits": audits }))
    } else {
        audits.iter().map(show).collect::<Vec<_>>().join("\n")
    };
    Ok(Audited { text, code })
}

fn audit_one(http: &HttpPlan, name: &str) -> Result<Value, String> {
    let (status, answer) = request(http, "POST", &format!("/api/tables/{name}/audit"))?;
    // 409: one is under way, whose end serves as well.
    if !matches!(status, 202 | 409) {
        return Err(refusal(&answer));
    }
    loop {
        std::thread::sleep(LOOK);
        let audit = find(http, name)?;
        match audit["state"].as_str() {
            Some("asked" | "running") => {}
            Some("failed") => return Ok(json!({ "table": name, "state": "failed", "reason": audit["reason"] })),
            _ if audit["finished"].is_null() => {
                return Err(format!("the daemon was started again while table {name} was audited"));
            }
            _ => return Ok(audit),
        }
    }
}

fn find(http: &HttpPlan, name: &str) -> Result<Value, String> {
    let (status, answer) = request(http, "GET", "/api/audits")?;
    if status != 200 {
        return Err(refusal(&answer));
    }
    let found = answer["audits"].as_array().into_iter().flatten().find(|audit| audit["table"] == name);
    found.cloned().ok_or_else(|| format!("the daemon has no table \"{name}\""))
}

fn refusal(answer: &Value) -> String {
    answer["error"]["message"].as_str().unwrap_or("the daemon refused").to_owned()
}

fn show(audit: &Value) -> String {
    let name = audit["table"].as_str().unwrap_or_default();
    if audit["state"] == "failed" {
        return format!("table {name}: could not be audited: {}", audit["reason"].as_str().unwrap_or_default());
    }
    let (rows, found, unsettled) = (&audit["rows"], audit["found"].as_u64().unwrap_or(0), audit["unsettled"].as_u64().unwrap_or(0));
    let mut first = match (found, audit["complete"].as_bool()) {
        (0, _) => format!("table {name}: {rows} rows as in MySQL at {}", audit["position"].as_str().unwrap_or_default()),
        (_, Some(true)) => format!("table {name}: {found} of {rows} rows differ from MySQL"),
        (..) => format!("table {name}: {found} rows differ from MySQL, and perhaps more: ended after {rows} rows"),
    };
    if unsettled > 0 {
        first = format!("{first}; {unsettled} changed too often to be compared");
    }
    let mut lines = vec![first];
    for difference in audit["differences"].as_array().into_iter().flatten() {
        let key = difference["key"].as_str().unwrap_or_default();
        lines.push(match difference["kind"].as_str() {
            Some("missing") => format!("    {key}: in MySQL only"),
            Some("extra") => format!("    {key}: held, not in MySQL"),
            _ => {
                let columns = difference["columns"].as_array().into_iter().flatten().filter_map(Value::as_str);
                format!("    {key}: differs in {}", columns.collect::<Vec<_>>().join(", "))
            }
        });
    }
    lines.join("\n")
}

/// Status and JSON of an answer.
fn request(http: &HttpPlan, method: &str, path: &str) -> Result<(u16, Value), String> {
    let listen = http.listen.ok_or("http.listen is \"\": the daemon answers nobody")?;
    let address = reachable(listen);
    let unreachable = |error: std::io::Error| format!("no daemon answers at {address}: {error}; start it with `larder run`");
    let mut connection = TcpStream::connect_timeout(&address, TIMEOUT).map_err(unreachable)?;
    connection.set_read_timeout(Some(TIMEOUT)).map_err(unreachable)?;
    connection.set_write_timeout(Some(TIMEOUT)).map_err(unreachable)?;
    let token = http.token.as_ref().map_or_else(String::new, |token| format!("Authorization: Bearer {}\r\n", token.reveal()));
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{token}Content-Length: 0\r\nConnection: close\r\n\r\n");
    connection.write_all(head.as_bytes()).map_err(unreachable)?;
    let mut answer = Vec::new();
    connection.take(MOST_BYTES).read_to_end(&mut answer).map_err(unreachable)?;
    parse(&answer).ok_or_else(|| format!("what answers at {address} is no larder"))
}

/// Where a daemon that listens on every address is found on this host.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let host = match listen.ip() {
        IpAddr::V4(host) if host.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(host) if host.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        host => host,
    };
    SocketAddr::new(host, listen.port())
}

fn parse(answer: &[u8]) -> Option<(u16, Value)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, serde_json::from_slice(&answer[end + 4..]).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_status_and_json() {
        let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 8\r\n\r\n{\"a\": 1}";
        assert_eq!(parse(answer), Some((202, json!({ "a": 1 }))));
        for bad in [&b""[..], b"HTTP/1.1 20", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n<html>"] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn differences_are_shown_by_key() {
        let audit = json!({
            "table": "products", "state": "idle", "rows": 10, "found": 2, "complete": true, "unsettled": 1,
            "differences": [{ "key": "7", "kind": "changed", "columns": ["name"] }, { "key": "8", "kind": "extra", "columns": [] }],
        });
        assert_eq!(
            show(&audit),
            "table products: 2 of 10 rows differ from MySQL; 1 changed too often to be compared\n    7: differs in name\n    8: held, not in MySQL"
        );
    }
}
