//! The shop's MySQL, played in memory: rows as a capture renders them, price changes as transactions to apply.
//!
//! What always holds: columns, their order and their types are those of `apps/pizzashop/schema.sql`.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Product, User};
use crate::model::row::write_string;
use crate::model::{Change, Column, ColumnType, Key, Position, Row, RowBuilder, Schema, TableId, Transaction};

/// Stands where the uuid of a MySQL server stands.
const SERVER: &str = "00000000-0000-4000-8000-000000000000";
const UTF8MB4: u16 = 255;

/// One server with the two tables of the shop.
pub struct Database {
    products: TableId,
    opened: Timestamp,
    transactions: u64,
}

impl Database {
    /// `products`: the table whose price changes are committed here. `opened`: when all rows were inserted.
    pub fn new(products: TableId, opened: Timestamp) -> Self {
        Self { products, opened, transactions: 1 }
    }

    /// Identity of the last transaction, in the form of a GTID.
    pub fn at(&self) -> String {
        format!("{SERVER}:{}", self.transactions)
    }

    pub fn product_rows(&self, products: &[Product]) -> Vec<(Key, Row)> {
        products.iter().map(|product| self.product_row(product, self.opened)).collect()
    }

    pub fn user_rows(&self, users: &[User]) -> Vec<(Key, Row)> {
        users.iter().map(|user| self.user_row(user)).collect()
    }

    /// Commits the row as it is now.
    pub fn update(&mut self, product: &Product, now: Timestamp) -> Transaction {
        self.transactions += 1;
        let (key, row) = self.product_row(product, now);
        let change = Change::Upsert { table: self.products, old_key: None, key, row };
        let committed_us = u64::try_from(now.as_microsecond()).unwrap_or(0);
        Transaction { changes: vec![change], position: Position::default(), id: self.at(), committed_us }
    }

    fn product_row(&self, product: &Product, updated: Timestamp) -> (Key, Row) {
        let mut row = RowBuilder::default();
        row.value("id").extend_from_slice(product.id.to_string().as_bytes());
        write_string(row.value("name"), &product.name);
        write_string(row.value("description"), &product.description);
        write_string(row.value("category"), &product.category);
        row.value("price").extend_from_slice(product.price.to_string().as_bytes());
        write_string(row.value("image"), &product.image);
        self.finish(row, updated)
    }

    fn user_row(&self, user: &User) -> (Key, Row) {
        let mut row = RowBuilder::default();
        row.value("id").extend_from_slice(user.id.to_string().as_bytes());
        write_string(row.value("first_name"), &user.first_name);
        write_string(row.value("last_name"), &user.last_name);
        write_string(row.value("email"), &user.email);
        write_string(row.value("residence"), &user.residence);
        write_string(row.value("lat"), &user.lat.to_string());
        write_string(row.value("lon"), &user.lon.to_string());
        self.finish(row, self.opened)
    }

    /// Both tables begin with their key and end with the two times, a TIMESTAMP and a DATETIME of a server in UTC.
    fn finish(&self, mut row: RowBuilder, updated: Timestamp) -> (Key, Row) {
        let (created, updated) = (self.opened.to_zoned(TimeZone::UTC), updated.to_zoned(TimeZone::UTC));
        write_string(row.value("created_at"), &created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        write_string(row.value("updated_at"), &updated.strftime("%Y-%m-%dT%H:%M:%S").to_string());
        let key = Key::from_fragments([row.column(0)].into_iter());
        (key, row.finish())
    }
}

/// `pizzashop.products`.
pub fn products_schema() -> Schema {
    schema(&[("name", text()), ("description", text()), ("category", text()), ("price", ColumnType::Float), ("image", text())])
}

/// `pizzashop.users`.
pub fn users_schema() -> Schema {
    let degrees = ColumnType::Decimal { precision: 10, scale: 8 };
    schema(&[
        ("first_name", text()),
        ("last_name", text()),
        ("email", text()),
        ("residence", text()),
        ("lat", degrees.clone()),
        ("lon", degrees),
    ])
}

fn schema(columns: &[(&str, ColumnType)]) -> Schema {
    let mut all = vec![Column { name: "id".into(), kind: ColumnType::Integer { bytes: 8, unsigned: true }, nullable: false }];
    let times = [("created_at", ColumnType::Timestamp { digits: 0 }), ("updated_at", ColumnType::DateTime { digits: 0 })];
    for (name, kind) in columns.iter().chain(&times) {
        all.push(Column { name: (*name).into(), kind: kind.clone(), nullable: true });
    }
    Schema { columns: all, key: vec![0] }
}

fn text() -> ColumnType {
    ColumnType::Text { collation: UTF8MB4 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::Shop;

    fn names(row: &Row) -> Vec<String> {
        let row: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(row.json()).expect("rows are objects");
        row.keys().cloned().collect()
    }

    fn columns(schema: &Schema) -> Vec<String> {
        let mut names: Vec<String> = schema.columns.iter().map(|c| c.name.clone()).collect();
        names.sort();
        names
    }

    #[test]
    fn rows_look_as_a_capture_renders_them() {
        let database = Database::new(TableId(0), "2022-09-06T10:46:17.7Z".parse().expect("a time"));
        let shop = Shop::new(1);
        let products = database.product_rows(shop.products());
        let (key, row) = &products[20];
        assert_eq!(key.as_bytes(), b"21");
        assert_eq!(
            std::str::from_utf8(row.json()).expect("rows are text"),
            concat!(
                r#"{"id":21,"name":"Veg Parcel","description":"","category":"side orders","price":45,"#,
                r#""image":"https://images.example/pizzashop/21.jpg","created_at":"2022-09-06T10:46:17Z","updated_at":"2022-09-06T10:46:17"}"#
            )
        );
        let users = database.user_rows(shop.users());
        assert_eq!((products.len(), users.len()), (81, 10_000));
        assert_eq!(users[0].1.column(5), Some(&b"\"13.01002590\""[..]));
        let mut names = [names(row), names(&users[0].1)];
        names.iter_mut().for_each(|n| n.sort());
        assert_eq!(names, [columns(&products_schema()), columns(&users_schema())]);
    }

    #[test]
    fn schemas_are_those_of_the_sql() {
        let sql = include_str!("../../apps/pizzashop/schema.sql");
        let mut tables = sql.split("CREATE TABLE").skip(1);
        for schema in [products_schema(), users_schema()] {
            let table = tables.next().expect("two tables");
            let lines = table.lines().skip(1).take_while(|line| !line.starts_with(')'));
            let columns: Vec<&str> = lines.filter_map(|line| line.split_whitespace().next()).collect();
            assert_eq!(columns, schema.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_update_is_a_transaction_with_the_new_row() {
        let mut database = Database::new(TableId(3), Timestamp::UNIX_EPOCH);
        let mut shop = Shop::new(1);
        let change = shop.change_price();
        let transaction = database.update(&shop.products()[change.product_id as usize - 1], Timestamp::from_second(5).expect("a time"));
        assert_eq!((transaction.id.as_str(), transaction.committed_us), ("00000000-0000-4000-8000-000000000000:2", 5_000_000));
        let [Change::Upsert { table: TableId(3), old_key: None, key, row }] = transaction.changes.as_slice() else {
            panic!("one update: {transaction:?}");
        };
        assert_eq!(key.as_bytes(), change.product_id.to_string().as_bytes());
        assert_eq!(row.column(4), Some(change.to.to_string().as_bytes()));
    }
}
