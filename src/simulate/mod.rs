//! The pizza shop as a pure, seeded model: its products, its users, the orders they place and the prices that change.
//!
//! What always holds: the same seed is the same shop, order by order; no I/O and no clock (the time of an order is an
//! argument); money is counted in paise and places in units of 10⁻⁸ degrees, so nothing is ever rounded.
//! The laws and figures are those of the systems Larder replaces; the tests here hold them.
//!
//! ```text
//! apps/pizzashop/data/products.csv ──► Product ─┐
//!                       seeded generator ──► User ─┴─► Shop ──► Order, PriceChange ──► Database (rows, transactions)
//! ```

mod database;
mod files;
mod money;
mod orders;
mod products;
mod users;

pub use database::{Database, products_schema, users_schema};
pub use files::{load_sql, users_csv};
pub use money::Money;
pub use orders::{Item, Order, PriceChange, Shop};
pub use products::{Product, products};
pub use users::{Degrees, User, users};
