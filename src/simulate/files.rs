//! The files of `apps/pizzashop` that are made from the model: `data/users.csv` and `load.sql`.
//!
//! `cargo run --example pizzashop_files` writes them; a test holds the committed files to what is made here.

use std::fmt::Write;

use super::{products, users};

/// Rows of one INSERT: a statement of about 60 KiB, far below every server's `max_allowed_packet`.
const ROWS: usize = 500;

/// `apps/pizzashop/data/users.csv`, with a header line and `\n` at the line ends.
pub fn users_csv() -> String {
    let mut csv = String::from("firstName,lastName,email,residence,lat,lon\n");
    for user in users() {
        let (first, last, email, home) = (user.first_name, user.last_name, user.email, user.residence);
        writeln!(csv, "{first},{last},{email},\"{home}\",{},{}", user.lat, user.lon).expect(MEMORY);
    }
    csv
}

/// `apps/pizzashop/load.sql`: both tables filled by INSERT statements. One statement ends at every `;` and line end, so it
/// can be run by any client, and wherever LOAD DATA LOCAL is switched off (as it is by default).
pub fn load_sql() -> String {
    let mut sql = String::from(
        "-- Fills the tables of schema.sql from data/products.csv and data/users.csv.\n\
         -- Written by `cargo run --example pizzashop_files`; change the data, not this file.\n\n\
         SET NAMES utf8mb4;\n\
         USE pizzashop;\n",
    );
    for chunk in products().chunks(ROWS) {
        let rows = chunk.iter().map(|p| {
            let (name, description, category, image) = (text(&p.name), text(&p.description), text(&p.category), text(&p.image));
            format!("({}, {name}, {description}, {category}, {}, {image})", p.id, p.price)
        });
        insert(&mut sql, "products (id, name, description, category, price, image)", rows);
    }
    for chunk in users().chunks(ROWS) {
        let rows = chunk.iter().map(|u| {
            let (first, last, email, home) = (text(&u.first_name), text(&u.last_name), text(&u.email), text(&u.residence));
            format!("({}, {first}, {last}, {email}, {home}, {}, {})", u.id, u.lat, u.lon)
        });
        insert(&mut sql, "users (id, first_name, last_name, email, residence, lat, lon)", rows);
    }
    sql
}

fn insert(sql: &mut String, columns: &str, rows: impl Iterator<Item = String>) {
    write!(sql, "\nINSERT INTO {columns} VALUES").expect(MEMORY);
    for (i, row) in rows.enumerate() {
        write!(sql, "{}\n{row}", if i == 0 { "" } else { "," }).expect(MEMORY);
    }
    sql.push_str(";\n");
}

/// A literal. Quotes are doubled; a backslash would mean different things under different SQL modes, and the data has none.
fn text(value: &str) -> String {
    assert!(!value.contains('\\'), "no backslash in the shop's data");
    format!("'{}'", value.replace('\'', "''"))
}

const MEMORY: &str = "writing to memory does not fail";

#[cfg(test)]
mod tests {
    use super::*;

    const HINT: &str = "run `cargo run --example pizzashop_files`";

    #[test]
    fn the_committed_files_are_those_of_the_model() {
        assert!(include_str!("../../apps/pizzashop/data/users.csv") == users_csv(), "data/users.csv differs: {HINT}");
        assert!(include_str!("../../apps/pizzashop/load.sql") == load_sql(), "load.sql differs: {HINT}");
    }

    #[test]
    fn every_row_is_loaded_once() {
        let sql = load_sql();
        assert_eq!(sql.matches("INSERT INTO products").count(), 1);
        assert_eq!(sql.matches("INSERT INTO users").count(), 20);
        assert_eq!(sql.matches("\n(").count(), 10_081);
        assert!(sql.split(";\n").all(|statement| statement.len() < 256 * 1024), "statements stay small");
        assert_eq!(users_csv().lines().count(), 10_001);
        assert!(sql.contains("the children''s favourite"));
    }
}
