//! The orders of the shop and the prices that change meanwhile.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::{Degrees, Money, Product, User, products, users};

const ITEMS: std::ops::RangeInclusive<usize> = 1..=10;
const QUANTITY: std::ops::RangeInclusive<u32> = 1..=5;
const PAUSE_MS: std::ops::RangeInclusive<u64> = 20..=100;

/// The shop at work.
///
/// Orders carry the price of the menu the shop opened with, as the till of the original does: it reads the prices once.
/// After a price change an order's item and its product therefore differ, which is how one sees that the change arrived.
pub struct Shop {
    /// As the database has them: prices change here.
    products: Vec<Product>,
    /// As the till has them, by index of `products`.
    menu: Arc<[Money]>,
    users: Vec<User>,
    /// Two sources of chance, so that price changes never alter the orders of a seed.
    orders: StdRng,
    prices: StdRng,
}

/// A record of the topic `orders`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// UUID, version 4; also the key of the record.
    pub id: String,
    pub created_at: Timestamp,
    pub user_id: u64,
    pub items: Vec<Item>,
    pub delivery: (Degrees, Degrees),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    pub product_id: u64,
    pub quantity: u32,
    /// Of one piece.
    pub price: Money,
}

/// One product has a new price in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceChange {
    pub product_id: u64,
    pub name: String,
    pub from: Money,
    pub to: Money,
}

// === impl Shop ===

impl Shop {
    pub fn new(seed: u64) -> Self {
        let products = products();
        let menu = products.iter().map(|p| p.price).collect();
        let orders = StdRng::seed_from_u64(seed);
        let prices = StdRng::seed_from_u64(!seed);
        Self { products, menu, users: users(), orders, prices }
    }

    /// As the database has them now.
    pub fn products(&self) -> &[Product] {
        &self.products
    }

    pub fn users(&self) -> &[User] {
        &self.users
    }

    /// 1 to 10 items of any products, each 1 to 5 times, for any user.
    pub fn place_order(&mut self, now: Timestamp) -> Order {
        let rng = &mut self.orders;
        let id = uuid(rng.random());
        let user = self.users.choose(rng).expect("the shop has users");
        let (user_id, delivery) = (user.id, (user.lat, user.lon));
        let items = (0..rng.random_range(ITEMS))
            .map(|_| {
                let index = rng.random_range(0..self.products.len());
                Item { product_id: self.products[index].id, quantity: rng.random_range(QUANTITY), price: self.menu[index] }
            })
            .collect();
        Order { id, created_at: now, user_id, items, delivery }
    }

    /// Time until the next order: 20 to 100 ms, on average 60, so about 17 orders a second.
    pub fn pause(&mut self) -> Duration {
        Duration::from_millis(self.orders.random_range(PAUSE_MS))
    }

    /// Gives one product a new price in whole rupees, at most a twentieth away from the old one and a fifth from the menu.
    pub fn change_price(&mut self) -> PriceChange {
        let index = self.prices.random_range(0..self.products.len());
        let menu = self.menu[index].as_paise() / 100;
        let product = &mut self.products[index];
        let from = product.price.as_paise() / 100;
        let step = self.prices.random_range(1..=(menu / 20).max(1));
        let (lower, higher) = (from.saturating_sub(step), from + step);
        let up = if lower < menu - menu / 5 { true } else { higher <= menu + menu / 5 && self.prices.random() };
        let to = Money::rupees(if up { higher } else { lower });
        let from = std::mem::replace(&mut product.price, to);
        PriceChange { product_id: product.id, name: product.name.clone(), from, to }
    }
}

/// Chance in the form of a UUID, version 4, variant 1 (RFC 9562).
fn uuid(chance: u128) -> String {
    let bits = chance & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

// === impl Order ===

impl Order {
    /// Sum of quantity × price.
    pub fn price(&self) -> Money {
        Money::paise(self.items.iter().map(|item| item.quantity * item.price.as_paise()).sum())
    }

    /// The record's value, compact.
    pub fn json(&self) -> String {
        let items: Vec<String> = self.items.iter().map(Item::json).collect();
        format!(
            r#"{{"id":"{}","createdAt":"{}","userId":{},"price":{},"items":[{}],"deliveryLat":"{}","deliveryLon":"{}","status":"PLACED_ORDER"}}"#,
            self.id,
            local_time(self.created_at),
            self.user_id,
            self.price().json(),
            items.join(","),
            self.delivery.0,
            self.delivery.1,
        )
    }
}

impl Item {
    fn json(&self) -> String {
        format!(r#"{{"productId":"{}","quantity":{},"price":{}}}"#, self.product_id, self.quantity, self.price.json())
    }
}

/// ISO text without zone (it means UTC) in microseconds. As in the original the fraction is absent when it is zero.
fn local_time(time: Timestamp) -> String {
    let time = time.to_zoned(TimeZone::UTC);
    let micros = time.subsec_nanosecond() / 1_000;
    let seconds = time.strftime("%Y-%m-%dT%H:%M:%S");
    if micros == 0 { seconds.to_string() } else { format!("{seconds}.{micros:06}") }
}

// === impl PriceChange ===

impl PriceChange {
    pub fn statement(&self) -> String {
        format!("UPDATE pizzashop.products SET price = {} WHERE id = {}", self.to, self.product_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn orders(seed: u64, count: usize) -> Vec<Order> {
        let mut shop = Shop::new(seed);
        (0..count).map(|_| shop.place_order(time("2022-09-06T10:46:17.703283Z"))).collect()
    }

    #[test]
    fn an_order_has_the_bytes_of_the_original() {
        let order = Order {
            id: "c6745d1f-cecb-4aa8-993b-6dea64d06f52".into(),
            created_at: time("2022-09-06T10:46:17.703283Z"),
            user_id: 416,
            items: vec![
                Item { product_id: 21, quantity: 2, price: Money::rupees(45) },
                Item { product_id: 36, quantity: 3, price: Money::rupees(60) },
            ],
            delivery: (Degrees(1_301_002_590), Degrees(7_762_104_745)),
        };
        assert_eq!(
            order.json(),
            concat!(
                r#"{"id":"c6745d1f-cecb-4aa8-993b-6dea64d06f52","createdAt":"2022-09-06T10:46:17.703283","userId":416,"price":270.0,"#,
                r#""items":[{"productId":"21","quantity":2,"price":45.0},{"productId":"36","quantity":3,"price":60.0}],"#,
                r#""deliveryLat":"13.01002590","deliveryLon":"77.62104745","status":"PLACED_ORDER"}"#
            )
        );
    }

    #[test]
    fn times_lose_a_fraction_of_zero() {
        assert_eq!(local_time(time("2022-09-06T10:46:17.000003Z")), "2022-09-06T10:46:17.000003");
        assert_eq!(local_time(time("2022-09-06T10:46:17Z")), "2022-09-06T10:46:17");
    }

    #[test]
    fn orders_follow_the_laws() {
        let orders = orders(7, 20_000);
        let mut quantities = [0_u32; 6];
        let mut products = HashSet::new();
        for order in &orders {
            assert!((1..=10).contains(&order.items.len()));
            assert!((2_500..=3_545_000).contains(&order.price().as_paise()));
            for item in &order.items {
                assert!((1..=81).contains(&item.product_id));
                quantities[item.quantity as usize] += 1;
                products.insert(item.product_id);
            }
        }
        assert_eq!(products.len(), 81);
        assert_eq!(orders.iter().map(|o| o.id.as_str()).collect::<HashSet<_>>().len(), orders.len());

        let items: u32 = quantities.iter().sum();
        let mean_items = f64::from(items) / orders.len() as f64;
        assert!((mean_items - 5.5).abs() < 0.1, "{mean_items} items per order");
        assert_eq!(quantities[0], 0);
        for count in &quantities[1..] {
            assert!((f64::from(*count) / f64::from(items) - 0.2).abs() < 0.01, "{quantities:?}");
        }

        let prices: Vec<f64> = orders.iter().map(|o| f64::from(o.price().as_paise()) / 100.0).collect();
        let mean = prices.iter().sum::<f64>() / prices.len() as f64;
        let deviation = (prices.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / prices.len() as f64).sqrt();
        assert!((mean - 4_386.0).abs() < 90.0, "mean price {mean}");
        assert!((deviation - 2_890.0).abs() < 90.0, "standard deviation {deviation}");
    }

    #[test]
    fn an_order_is_json_with_text_where_the_original_has_text() {
        for order in orders(11, 200) {
            let json: serde_json::Value = serde_json::from_str(&order.json()).expect("orders are JSON");
            assert!(json["userId"].is_u64() && json["price"].is_f64());
            assert!(json["items"][0]["productId"].is_string() && json["items"][0]["price"].is_f64());
            for coordinate in ["deliveryLat", "deliveryLon"] {
                let text = json[coordinate].as_str().expect("coordinates are text");
                assert_eq!(text.split_once('.').map(|(_, fraction)| fraction.len()), Some(8));
            }
            let id = json["id"].as_str().expect("ids are text");
            assert!(id.len() == 36 && &id[14..15] == "4" && "89ab".contains(&id[19..20]), "{id}");
        }
    }

    #[test]
    fn pauses_are_sixty_milliseconds_on_average() {
        let mut shop = Shop::new(3);
        let pauses: Vec<u128> = (0..20_000).map(|_| shop.pause().as_millis()).collect();
        assert_eq!((pauses.iter().min(), pauses.iter().max()), (Some(&20), Some(&100)));
        let mean = pauses.iter().sum::<u128>() as f64 / 20_000.0;
        assert!((mean - 60.0).abs() < 1.0, "{mean} ms");
    }

    #[test]
    fn the_same_seed_is_the_same_shop() {
        assert_eq!(orders(5, 100), orders(5, 100));
        assert_ne!(orders(5, 100), orders(6, 100));
        let mut shop = Shop::new(5);
        shop.change_price();
        let now = time("2022-09-06T10:46:17.703283Z");
        assert_eq!(shop.place_order(now), orders(5, 1)[0], "price changes do not alter the orders");
    }

    #[test]
    fn a_price_change_is_seen_in_the_table_and_not_at_the_till() {
        let mut shop = Shop::new(1);
        let menu = products();
        for _ in 0..5_000 {
            let before = shop.products().to_vec();
            let change = shop.change_price();
            let index = change.product_id as usize - 1;
            assert_eq!(change.from, before[index].price);
            assert_eq!(change.to, shop.products()[index].price);
            assert_ne!(change.from, change.to);
            assert_eq!(change.to.as_paise() % 100, 0, "whole rupees");
            let (price, menu) = (change.to.as_paise(), menu[index].price.as_paise());
            assert!(price.abs_diff(menu) * 5 <= menu, "{price} strays from the menu's {menu}");
        }
        assert_ne!(shop.products(), menu);
        for order in (0..200).map(|_| shop.place_order(time("2022-09-06T10:46:17Z"))) {
            assert!(order.items.iter().all(|item| item.price == menu[item.product_id as usize - 1].price));
        }
    }

    #[test]
    fn a_price_change_is_a_statement() {
        let change = PriceChange { product_id: 21, name: "Veg Parcel".into(), from: Money::rupees(45), to: Money::rupees(47) };
        assert_eq!(change.statement(), "UPDATE pizzashop.products SET price = 47 WHERE id = 21");
    }
}
