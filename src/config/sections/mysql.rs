//! `[mysql]`: the server whose tables are read (contract A6).

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::config::file::{Section, Text};
use crate::config::plan::{MysqlPlan, MysqlTls, TablePlan};

const PORT: u16 = 3306;

/// `None` where the section is absent, which is reported if tables need it.
pub(super) fn read(section: Section<'_>, name: &str, instance: &str, tables: &[TablePlan]) -> Option<MysqlPlan> {
    if !section.is_written() {
        if let Some(table) = tables.first().filter(|_| !section.is_faulty()) {
            let remedy = format!("write `[mysql]` with `address`, `user` and `password`; tables.{} is read from it", table.name);
            section.file().fault(section.at(), "is missing", remedy);
        }
        return None;
    }
    let address = section.required_text("address", "write `address = \"host:3306\"`").and_then(|text| address(&section, &text));
    let (host, port) = address.unwrap_or_default();
    let user = section.required_text("user", "write `user = \"larder\"`").map(|text| text.text);
    let password = section.secret("password").unwrap_or_default();
    let tls: MysqlTls = section.choice("tls");
    let tls_ca = section.path("tls_ca");
    if tls_ca.is_some() && !matches!(tls, MysqlTls::VerifyCa | MysqlTls::VerifyIdentity) {
        let remedy = "use it with `tls = \"verify-ca\"` or \"verify-identity\", or remove it";
        section.file().fault(&section.at_key("tls_ca"), "nothing is verified with this `tls`", remedy);
    }
    let tls_identity = section.path("tls_identity");
    let tls_identity_password = section.secret("tls_identity_password");
    if tls_identity.is_some() && tls == MysqlTls::Disabled {
        section.file().fault(&section.at_key("tls_identity"), "no certificate is sent without TLS", "remove it, or choose another `tls`");
    }
    if tls_identity_password.is_some() && !section.has("tls_identity") {
        let remedy = "name the PKCS #12 file in `tls_identity`, or remove the password";
        section.file().fault(&section.at_key("tls_identity_password"), "there is no `tls_identity`", remedy);
    }
    let second = Duration::from_secs(1);
    let plan = MysqlPlan {
        host,
        port,
        user: user.unwrap_or_default(),
        password,
        tls,
        tls_ca,
        tls_identity: tls_identity.map(|path| (path, tls_identity_password.unwrap_or_default())),
        server_id: section.integer("server_id", u64::from(server_id(name, instance)), 1..=u64::from(u32::MAX)) as u32,
        heartbeat: section.duration("heartbeat", 10 * second, second..=600 * second),
        snapshot_lock: section.choice("snapshot_lock"),
        on_purge: section.choice("on_purge"),
        snapshot_chunk: section.integer("snapshot_chunk", 10_000, 1..=1_000_000) as usize,
        snapshot_connections: section.integer("snapshot_connections", 2, 1..=16) as usize,
    };
    section.close();
    Some(plan)
}

/// `host`, `host:port`, `[v6]:port`. A user or password in it is not shown: it belongs to its own key.
fn address(section: &Section<'_>, text: &Text) -> Option<(String, u16)> {
    if text.text.contains(['@', '/']) {
        section.file().fault(
            &text.at,
            "is not an address but a URL",
            "write \"host:3306\", and `user` and `password` as keys of their own",
        );
        return None;
    }
    let address = host_port(&text.text, PORT);
    if address.is_none() {
        section.file().fault(&text.at, format!("{} is not an address", text.quoted()), "write \"host:3306\" or \"[2001:db8::1]:3306\"");
    }
    address
}

/// A host name, IPv4 address or bracketed IPv6 address, and its port or `default`.
pub(super) fn host_port(text: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            (!host.is_empty() && host.bytes().all(legal)).then_some((host, port))?
        }
    };
    let port = match port {
        Some(text) => text.parse().ok().filter(|port| *port > 0 && !text.starts_with('+'))?,
        None => default,
    };
    Some((host.to_owned(), port))
}

/// The same for the same name and instance, and far from the small numbers that people give to servers.
fn server_id(name: &str, instance: &str) -> u32 {
    let hash = Sha256::digest(format!("{name}\0{instance}"));
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) | 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_perhaps_a_port() {
        assert_eq!(host_port("db", 3306), Some(("db".to_owned(), 3306)));
        assert_eq!(host_port("db_1.shop.eu:3307", 3306), Some(("db_1.shop.eu".to_owned(), 3307)));
        assert_eq!(host_port("[2001:db8::1]:3307", 3306), Some(("2001:db8::1".to_owned(), 3307)));
        assert_eq!(host_port("[::1]", 3306), Some(("::1".to_owned(), 3306)));
        for wrong in ["", ":3306", "db:", "db:0", "db:+1", "db:65536", "a b", "::1", "[::1", "[::1]3306", "[db]:1", "a:1:2"] {
            assert_eq!(host_port(wrong, 3306), None, "{wrong:?}");
        }
    }

    #[test]
    fn server_ids_are_stable_and_large() {
        assert_eq!(server_id("shop", "a"), server_id("shop", "a"));
        assert_ne!(server_id("shop", "a"), server_id("shop", "b"));
        assert_ne!(server_id("a", "bc"), server_id("ab", "c"));
        assert!(server_id("shop", "a") >= 1 << 31);
    }
}
